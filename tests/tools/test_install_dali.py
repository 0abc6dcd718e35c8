"""The steps that install DALI: their order, what they fall back to, and what they say."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tools import install_dali
from tools.install_dali import DALI, PLUGIN, InstallError
from tools.main import main
from tools.prebuilt_plugin import prebuilt_wheel


class Shell:
    """Takes the place of running commands: remembers them, and fails those that hold a given word."""

    def __init__(self, failing=()):
        self.commands, self.environments, self.failing = [], [], failing

    def __call__(self, command, environment):
        self.commands.append(" ".join(command))
        self.environments.append(environment)
        code = next((1 for word in self.failing if word in self.commands[-1]), 0)
        if "download" in command:
            make_archive(Path(command[command.index("--dest") + 1]))
        return subprocess.CompletedProcess(
            command, code, stdout="DALI works" * (code == 0), stderr="error: why\n"
        )


@pytest.fixture
def shell(monkeypatch):
    def use(failing=()):
        fake = Shell(failing)
        monkeypatch.setattr(install_dali, "_finished", fake)
        return fake

    versions = {DALI: "2.4.0", "tensorflow": "2.21.0"}
    monkeypatch.setattr(install_dali.metadata, "version", lambda name: versions.get(name, "1.0"))
    monkeypatch.setattr(install_dali.metadata, "requires", lambda name: [f'{DALI}<3,>=2.4; extra == "dali"'])
    monkeypatch.setattr(install_dali.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(sys, "platform", "linux")
    return use


def make_archive(folder: Path) -> Path:
    root = "nvidia_dali_tf_plugin_cuda120-2.4.0"
    members = {
        "PKG-INFO": "Metadata-Version: 2.1\nName: nvidia-dali-tf-plugin-cuda120\nVersion: 2.4.0\n",
        "setup.py": "",
        "nvidia/dali_tf_plugin/__init__.py": "",
        "prebuilt/libdali_tf_2_21.so": "library",
        "prebuilt/libdali_tf_2_20.so": "older",
    }
    archive = folder / f"{root}.tar.gz"
    with tarfile.open(archive, "w:gz") as out:
        for name, text in members.items():
            path = folder / "member"
            path.write_text(text)
            out.add(path, f"{root}/{name}")
    return archive


def test_dali_comes_first_and_the_plugin_is_compiled_against_what_is_installed(shell, monkeypatch):
    monkeypatch.setattr(install_dali, "_cuda_home", lambda: Path("/cuda"))
    run, said = shell(), []
    install_dali.install_dali(said.append)
    dali, plugin, trial = run.commands
    assert dali.endswith(f"{DALI}<3,>=2.4") and "--constraint" in dali
    assert plugin.endswith(f"{PLUGIN}==2.4.0")
    assert "--no-build-isolation" in plugin and "--no-cache-dir" in plugin
    assert run.environments[1]["CUDA_HOME"] == "/cuda"
    assert "decode_batches" in trial
    assert [line.split()[0] for line in said] == ["installing", "compiling", "running"]


def test_without_cuda_headers_they_are_installed_and_their_folders_named(shell, monkeypatch):
    files = [
        "nvidia/cuda_runtime/include/cuda_runtime_api.h",
        "nvidia/cuda_nvcc/include/crt/host_config.h",
        "x/other.h",
    ]

    class File(str):
        def locate(self):
            return Path("/site", self)

    run = shell()
    monkeypatch.setattr(install_dali, "_cuda_home", lambda: None)
    monkeypatch.setattr(install_dali.metadata, "files", lambda name: [File(name) for name in files])
    install_dali.install_dali(lambda line: None)
    _, headers, plugin, _ = run.commands
    assert "nvidia-cuda-runtime-cu12" in headers and "nvidia-cuda-nvcc-cu12" in headers
    assert PLUGIN in plugin
    assert run.environments[2]["CPATH"] == "/site/nvidia/cuda_nvcc/include:/site/nvidia/cuda_runtime/include"


@pytest.mark.parametrize("has_compiler", [True, False])
def test_where_nothing_can_be_compiled_the_prebuilt_library_is_installed(has_compiler, shell, monkeypatch):
    run, said = shell(failing=["--no-build-isolation --no-cache-dir"]), []
    monkeypatch.setattr(install_dali.platform, "machine", lambda: "x86_64")
    if not has_compiler:
        monkeypatch.setattr(install_dali.shutil, "which", lambda name: None)
    install_dali.install_dali(said.append)
    *_, download, install, trial = run.commands
    assert " download " in download and "--no-binary :all:" in download
    assert install.endswith("nvidia_dali_tf_plugin_cuda120-2.4.0-py3-none-linux_x86_64.whl")
    assert "decode_batches" in trial
    assert ("error: why" in "".join(said)) == has_compiler


def test_what_does_not_run_is_an_error(shell, capsys):
    shell(failing=["decode_batches"])
    assert main(["doctor", "--install-dali"]) == 1
    assert "does not run: exit code 1: error: why" in capsys.readouterr().err


def test_a_failed_step_tells_what_pip_said(shell):
    shell(failing=[f"{DALI}<3"])
    with pytest.raises(InstallError, match=r"pip install failed with exit code 1:\n  .*error: why"):
        install_dali.install_dali(lambda line: None)


def test_other_systems_are_told_that_they_do_without(shell, monkeypatch):
    run = shell()
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(OSError, match="Linux only"):
        install_dali.install_dali(lambda line: None)
    assert not run.commands


def test_tensorflow_does_not_move(shell):
    shell()
    constraints = install_dali._constraints()
    assert "tensorflow==2.21.0" in constraints
    assert not [line for line in constraints if line.startswith("pillow")]


def test_the_prebuilt_wheel_holds_the_library_of_this_tensorflow(tmp_path, monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    wheel = prebuilt_wheel(make_archive(tmp_path), tmp_path, tensorflow_version="2.21.3")
    with zipfile.ZipFile(wheel) as file:
        assert file.read("nvidia/dali_tf_plugin/libdali_tf_2_21.so") == b"library"
        about = "nvidia_dali_tf_plugin_cuda120-2.4.0.dist-info"
        assert {name.partition(f"{about}/")[2] for name in file.namelist() if about in name} == {
            "METADATA",
            "WHEEL",
            "RECORD",
        }
        recorded = {line.split(",")[0] for line in file.read(f"{about}/RECORD").decode().splitlines()}
        assert recorded == set(file.namelist())


@pytest.mark.parametrize(("version", "machine"), [("2.22.0", "x86_64"), ("2.21.0", "aarch64")])
def test_without_a_fitting_library_a_compiler_is_asked_for(version, machine, tmp_path, monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: machine)
    with pytest.raises(OSError, match=r"install a C\+\+ compiler"):
        prebuilt_wheel(make_archive(tmp_path), tmp_path, tensorflow_version=version)
