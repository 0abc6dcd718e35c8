"""`captioner doctor`: what this machine has, and the fix for each thing that is missing."""

import dataclasses
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import Literal

from captioner.cores import num_cores
from tools.install_dali import PLUGIN, dali_failure, install_dali
from tools.messages import say


@dataclasses.dataclass(frozen=True, kw_only=True)
class DoctorCommand:
    """Says what this machine has, and how to get what is missing. Exit code 1 if something is broken.

    What is merely optional may be missing.

    Examples:
        captioner doctor

        captioner doctor --install-dali
    """

    install_dali: bool = False
    """First install NVIDIA DALI and its TensorFlow plugin into this Python environment, and run them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the report."""

    name: str
    """What was looked for."""
    state: Literal["ok", "none", "broken"]
    """none: missing, but optional."""
    detail: str
    """The version, or what is wrong."""
    fix: str = ""
    """What to do, if anything."""


def doctor(command: DoctorCommand) -> int:
    """Runs the command; prints the report and returns 0, or 1 if something is broken."""
    if command.install_dali:
        install_dali(say)
    num_broken = 0
    for finding in findings():
        num_broken += finding.state == "broken"
        sys.stdout.write(f"{finding.state:<7} {finding.name:<22} {finding.detail}\n")
        if finding.fix:
            sys.stdout.write(f"{'':<7} {'':<22} fix: {finding.fix}\n")
        sys.stdout.flush()
    sys.stdout.write(f"{num_broken} broken\n" if num_broken else "all that is needed is there\n")
    return 1 if num_broken else 0


def findings() -> Iterator[Finding]:
    """Looks at one thing after the other."""
    system = f"{platform.python_version()}, {platform.system()} {platform.machine()}, {num_cores()} cores"
    yield Finding(name="Python", state="ok", detail=f"{system}, {sys.prefix}")
    requirements = _requirements()
    if requirements is None:
        yield Finding(name="captioner", state="broken", detail="not installed", fix="python -m pip install .")
        return
    yield Finding(name="captioner", state="ok", detail=metadata.version("captioner"))
    for requirement in requirements.pop("", []):
        yield _package(requirement, optional=False, fix=f'python -m pip install "{requirement}"')
    yield from _frameworks()
    for requirement in requirements["eval"]:
        yield _package(requirement, optional=True, fix='python -m pip install "captioner[eval]"')
    for requirement in requirements["data"]:
        install = 'python -m pip install "captioner[data]"'
        yield _package(requirement, optional=True, fix=f"in an environment of its own: {install}")
    yield _java()
    yield from _dali(requirements["dali"])


def _requirements() -> dict[str, list] | None:
    """Requirements of each extra ("" for the base), or None if the package is not installed."""
    from packaging.requirements import Requirement

    try:
        lines = metadata.requires("captioner") or []
    except metadata.PackageNotFoundError:
        return None
    parsed: dict[str, list] = {}
    for line in lines:
        requirement, _, marker = line.partition(";")
        extra = marker.partition('extra == "')[2].rstrip('"')
        parsed.setdefault(extra, []).append(Requirement(requirement))
    return parsed


def _package(requirement, *, optional: bool, fix: str) -> Finding:
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        state = "none" if optional else "broken"
        return Finding(name=requirement.name, state=state, detail="not installed", fix=fix)
    if not requirement.specifier.contains(version, prereleases=True):
        detail = f"{version}, but {requirement.specifier} is needed"
        return Finding(name=requirement.name, state="broken", detail=detail, fix=fix)
    return Finding(name=requirement.name, state="ok", detail=version)


def _frameworks() -> Iterator[Finding]:
    from tools.quiet import import_tensorflow, native_stderr_held_back

    try:
        import_tensorflow()
        with native_stderr_held_back():
            import keras
            import keras_hub  # noqa: F401
            import tensorflow as tf
    except Exception as error:
        fix = 'python -m pip install --force-reinstall "tensorflow" "keras-hub"'
        yield Finding(name="imports", state="broken", detail=_first_line(error), fix=fix)
        return
    yield Finding(name="Keras backend", state="ok", detail=keras.backend.backend())
    names = [
        tf.config.experimental.get_device_details(device).get("device_name", device.name)
        for device in tf.config.list_physical_devices("GPU")
    ]
    if names:
        yield Finding(name="GPUs of TensorFlow", state="ok", detail=", ".join(names))
    elif _has_nvidia_driver():
        fix = f'python -m pip install "tensorflow[and-cuda]=={tf.__version__}"'
        yield Finding(name="GPUs of TensorFlow", state="none", detail="a driver, but no GPU is seen", fix=fix)
    else:
        yield Finding(name="GPUs of TensorFlow", state="none", detail="no NVIDIA driver; the processor works")


def _java() -> Finding:
    from captioner.evaluation.java import find_java

    java = find_java()
    if java is not None:
        return Finding(name="Java", state="ok", detail=java.executable)
    fix = 'python -m pip install "captioner[eval]"'
    return Finding(name="Java", state="none", detail="METEOR and the COCO tokenizer need it", fix=fix)


def _dali(requirements: list) -> Iterator[Finding]:
    from packaging.requirements import Requirement

    fix = "captioner doctor --install-dali" if sys.platform == "linux" else ""
    found = [_package(one, optional=True, fix=fix) for one in (*requirements, Requirement(PLUGIN))]
    yield from found
    if all(finding.state == "ok" for finding in found):
        failure = dali_failure()
        if failure is None:
            yield Finding(name="DALI in TensorFlow", state="ok", detail="decodes two pictures")
        else:
            yield Finding(name="DALI in TensorFlow", state="broken", detail=failure, fix=fix)


def _has_nvidia_driver() -> bool:
    return os.path.exists("/proc/driver/nvidia/version") or shutil.which("nvidia-smi") is not None


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
