"""Installs NVIDIA DALI and its TensorFlow plugin into this Python environment, and runs them."""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from tools.prebuilt_plugin import prebuilt_wheel

DALI, PLUGIN = "nvidia-dali-cuda120", "nvidia-dali-tf-plugin-cuda120"
CUDA_PACKAGES = ("nvidia-cuda-runtime-cu12", "nvidia-cuda-nvcc-cu12")
CUDA_HEADER = Path("include", "cuda_runtime_api.h")
CONSTRAINTS = Path(__file__).resolve().parents[1] / "res" / "constraints.txt"
"""Exact versions; only a checkout has them."""

# Two pictures through the whole engine, in a process of its own: what is wrong with a plugin may end the process.
_TRIAL = """
import numpy, tensorflow
from captioner.images import ImageTransform
from trainers.shards.dali_decode import decode_batches
grey = numpy.array([10, 200])
encoded = {
    "data": [b"P6 1 1 255\\n" + bytes([level] * 3) for level in grey],
    "size": numpy.ones((2, 2), "int32"),
    "seed": numpy.zeros((2, 2), "int32"),
    "allow_flip": [True, True],
}
batches = tensorflow.data.Dataset.from_tensor_slices((encoded, grey)).batch(2)
for images, numbers in decode_batches(batches, batch_size=2, transform=ImageTransform(image_size=(2, 2))):
    assert (images.numpy() == grey[:, None, None, None]).all() and (numbers.numpy() == grey).all()
    print("DALI works")
"""


class InstallError(ChildProcessError):
    """A step of an installation failed; its output is in the message."""


def install_dali(say: Callable[[str], None]) -> None:
    """Installs DALI, then the plugin that fits the installed TensorFlow, then runs both.

    The plugin is compiled against the installed TensorFlow, with the CUDA headers that TensorFlow was built with,
    or else those of the system or of two packages. Without a compiler, the library that the plugin's
    maintainers built for this TensorFlow is taken. No GPU is needed.

    Args:
        say: called with a line before each step.

    Raises:
        InstallError: If a step failed, or if what was installed does not run.
        OSError: If this is not Linux, or TensorFlow or pip is missing.
    """
    if sys.platform != "linux":
        raise OSError(
            f"DALI exists for Linux only; this is {platform.system()}. The engine tf needs no DALI."
        )
    for package in ("tensorflow", "pip"):
        if importlib.util.find_spec(package) is None:
            raise OSError(f"{package} is missing in this environment ({sys.prefix}); install it first.")
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder, "constraints.txt")
        constraints.write_text("\n".join(_constraints()) + "\n", encoding="utf-8")
        say(f"installing {DALI} (about 0.5 GB)")
        _pip("install", "--constraint", constraints, _requirement())
        plugin = f"{PLUGIN}=={metadata.version(DALI)}"
        _install_plugin(plugin, constraints, Path(folder), say)
    say("running DALI and its plugin")
    if (failure := dali_failure()) is not None:
        raise InstallError(f"DALI was installed, but does not run: {failure}")


def dali_failure() -> str | None:
    """Runs two pictures through DALI in a new process; what went wrong, or None."""
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    finished = _finished([sys.executable, "-c", _TRIAL], environment)
    if finished.returncode == 0 and "DALI works" in finished.stdout:
        return None
    last = (finished.stderr.strip() or finished.stdout.strip() or "it said nothing").splitlines()[-1]
    return f"exit code {finished.returncode}: {last[:300]}"


def _install_plugin(plugin: str, constraints: Path, folder: Path, say) -> None:
    compiler = shutil.which(os.environ.get("CXX") or "g++")
    if compiler is not None:
        headers = _cuda_environment(say, constraints)
        say(f"compiling {PLUGIN} against TensorFlow {metadata.version('tensorflow')} with {compiler}")
        try:
            # Isolation would hide TensorFlow from the build; the cache may hold a build for another TensorFlow.
            _pip(
                *("install", "--no-build-isolation", "--no-cache-dir", "--force-reinstall", "--no-deps"),
                *("--constraint", constraints, plugin),
                environment=headers,
            )
            return
        except InstallError as error:
            say(str(error))
    say(
        f"{'compiling failed' if compiler else 'there is no C++ compiler'}: taking the library that NVIDIA built"
    )
    _pip("download", "--no-deps", "--no-build-isolation", "--no-binary", ":all:", "--dest", folder, plugin)
    (archive,) = folder.glob("*.tar.gz")
    wheel = prebuilt_wheel(archive, folder, tensorflow_version=metadata.version("tensorflow"))
    _pip("install", "--force-reinstall", "--no-deps", wheel)


def _cuda_environment(say, constraints: Path) -> Mapping[str, str]:
    """The environment in which the plugin's build finds the CUDA headers."""
    if (home := _cuda_home()) is not None:
        return {"CUDA_HOME": os.fspath(home)}
    say(f"installing the CUDA headers: {', '.join(CUDA_PACKAGES)}")
    _pip("install", "--constraint", constraints, *CUDA_PACKAGES)
    headers = [file.locate() for package in CUDA_PACKAGES for file in metadata.files(package) or ()]
    folders = {header.parent for header in headers if header.name == CUDA_HEADER.name}
    folders |= {header.parents[1] for header in headers if header.parts[-2:] == ("crt", "host_config.h")}
    return {"CPATH": os.pathsep.join(sorted(map(os.fspath, folders)))}


def _cuda_home() -> Path | None:
    (tensorflow,) = importlib.util.find_spec("tensorflow").submodule_search_locations
    homes = [
        Path(tensorflow, "include", "third_party", "gpus", "cuda"),  # those that TensorFlow was built with
        *([Path(os.environ["CUDA_HOME"])] if os.environ.get("CUDA_HOME") else []),
        Path("/usr/local/cuda"),
    ]
    return next((home for home in homes if (home / CUDA_HEADER).is_file()), None)


def _requirement() -> str:
    """The range of DALI's versions, from the package's own metadata."""
    for line in metadata.requires("captioner") or ():
        requirement, _, marker = line.partition(";")
        if requirement.startswith(DALI) and 'extra == "dali"' in marker:
            return requirement.strip()
    raise OSError("captioner is not installed in this environment; install it first: python -m pip install .")


def _constraints() -> list[str]:
    """Exact versions of NVIDIA's packages where they are known, and of what must not move."""
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines() if CONSTRAINTS.is_file() else []
    fixed = [f"{name}=={metadata.version(name)}" for name in ("tensorflow", "keras", "keras-hub", "numpy")]
    return [line for line in lines if line.startswith(("nvidia-", "makefun"))] + fixed


def _pip(*words: str | Path, environment: Mapping[str, str] | None = None) -> None:
    command = [sys.executable, "-m", "pip", *map(str, words)]
    finished = _finished(command, os.environ | (environment or {}))
    if finished.returncode != 0:
        output = (finished.stdout + finished.stderr).strip().splitlines()
        errors = [line for line in output if "error" in line.lower()] or output
        raise InstallError(
            f"pip {words[0]} failed with exit code {finished.returncode}:\n  " + "\n  ".join(errors[-8:])
        )


def _finished(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess:
    return subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace")
