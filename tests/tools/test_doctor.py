"""`captioner doctor`: names what is missing with its fix; broken things decide the exit code."""

import importlib.util
import sys

import pytest
from packaging.requirements import Requirement

from tools import doctor, install_dali
from tools.doctor import Finding
from tools.main import main


def finding(name: str) -> Finding:
    return next(one for one in doctor.findings() if one.name == name)


def test_it_reports_versions_and_ends_well_where_nothing_is_broken(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "dali_failure", lambda: None)
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for name in (
        "Python",
        "tensorflow",
        "keras-hub",
        "Keras backend",
        "GPUs of TensorFlow",
        "Java",
        "nvidia-dali-cuda120",
    ):
        assert f" {name} " in out
    assert out.endswith("all that is needed is there\n")


def test_a_broken_thing_is_exit_code_1_and_comes_with_its_fix(capsys, monkeypatch):
    broken = Finding(name="keras", state="broken", detail="2.0", fix="python -m pip install keras")
    missing = Finding(name="Java", state="none", detail="not found")
    monkeypatch.setattr(doctor, "findings", lambda: iter([broken, missing]))
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "fix: python -m pip install keras\n" in out and out.endswith("1 broken\n")


@pytest.mark.parametrize(
    ("requirement", "optional", "state"),
    [
        ("numpy>=1", False, "ok"),
        ("numpy<1", False, "broken"),
        ("numpy<1", True, "broken"),
        ("no-such-package-here", False, "broken"),
        ("no-such-package-here", True, "none"),
    ],
)
def test_a_missing_package_is_broken_unless_it_is_optional(requirement, optional, state):
    found = doctor._package(Requirement(requirement), optional=optional, fix="install it")
    assert found.state == state
    assert found.fix == ("" if state == "ok" else "install it")


def test_an_import_that_fails_is_broken(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    found = finding("imports")
    assert found.state == "broken" and "keras_hub" in found.detail and "pip install" in found.fix


def test_a_driver_without_a_visible_gpu_has_a_fix(monkeypatch):
    tensorflow = pytest.importorskip("tensorflow")
    monkeypatch.setattr(tensorflow.config, "list_physical_devices", lambda kind=None: [])
    monkeypatch.setattr(doctor, "_has_nvidia_driver", lambda: True)
    assert "tensorflow[and-cuda]" in finding("GPUs of TensorFlow").fix
    monkeypatch.setattr(doctor, "_has_nvidia_driver", lambda: False)
    assert finding("GPUs of TensorFlow").fix == ""


@pytest.mark.parametrize(("failure", "state"), [(None, "ok"), ("exit code -11: it said nothing", "broken")])
def test_an_installed_dali_is_tried(failure, state, monkeypatch):
    monkeypatch.setattr(doctor, "dali_failure", lambda: failure)
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "2.4.0")
    *packages, trial = doctor._dali([Requirement(f"{install_dali.DALI}>=2.4,<3")])
    assert [one.state for one in packages] == ["ok", "ok"]
    assert trial.state == state and (failure or "decodes") in trial.detail


@pytest.mark.dali
@pytest.mark.skipif(
    importlib.util.find_spec("nvidia") is None or importlib.util.find_spec("nvidia.dali_tf_plugin") is None,
    reason="needs DALI; run `captioner doctor --install-dali`",
)
def test_the_trial_of_an_installed_dali_succeeds():
    assert install_dali.dali_failure() is None
