"""What an installed captioner consists of."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from captioner import resources

ROOT = Path(__file__).parents[1]
PACKAGES = ("captioner", "trainers", "tools")
MAX_PRESETS_BYTES = 100e6
"""Of all bundled presets together: res/docs/decisions/001-presets-inside-the-package.md."""


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory):
    """The files of a wheel that is built from a copy of the tracked and new files."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    preset = source / "res" / "presets" / "for_this_test" / "assets"
    preset.mkdir(parents=True)
    (preset.parent / "config.json").write_text("{}")
    (preset / "vocabulary.json").write_text("{}")
    # The build of a wheel as pip runs it, without the isolated environment that would need the network.
    code = f"from setuptools import build_meta; build_meta.build_wheel({str(out)!r})"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    (wheel,) = out.glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def test_every_module_is_in_the_wheel(wheel_names):
    modules = {path.relative_to(ROOT).as_posix() for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
    assert modules and modules <= wheel_names


def test_nothing_but_the_three_packages_is_in_the_wheel(wheel_names):
    tops = {name.split("/")[0] for name in wheel_names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)
    assert not [name for name in wheel_names if {"tests", "photos", "docs"} & set(Path(name).parts)]


def test_presets_are_in_the_wheel_with_their_folders(wheel_names):
    assert "captioner/res/presets/for_this_test/config.json" in wheel_names
    assert "captioner/res/presets/for_this_test/assets/vocabulary.json" in wheel_names


def test_the_licence_is_in_the_wheel(wheel_names):
    endings = {Path(name).name for name in wheel_names if ".dist-info/licenses/" in name}
    assert {"LICENSE", "NOTICE"} <= endings


@pytest.mark.parametrize("installed", [True, False], ids=["wheel", "checkout"])
def test_a_preset_is_found_beside_the_modules_and_in_a_checkout(installed, tmp_path):
    package = tmp_path / "captioner"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "resources.py").write_bytes(Path(resources.__file__).read_bytes())
    preset = (package if installed else tmp_path) / "res" / "presets" / "tiny"
    preset.mkdir(parents=True)
    (preset / "config.json").touch()
    (preset.parent / "no_preset").mkdir()
    code = (
        "from captioner.resources import *; print(list_bundled_presets(), bundled_preset('tiny'), sep='\\n')"
    )
    result = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.splitlines() == ["['tiny']", str(preset.resolve())]


def test_an_unknown_preset_is_refused_with_the_known_names():
    with pytest.raises(ValueError, match=r"`name` must be a bundled preset.*received 'nothing'"):
        resources.bundled_preset("nothing")


def test_bundled_presets_stay_within_what_package_indexes_take():
    folders = [resources.bundled_preset(name) for name in resources.list_bundled_presets()]
    sizes = [path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert 0 < sum(sizes) <= MAX_PRESETS_BYTES


def test_importing_the_package_does_not_import_tensorflow():
    code = "import sys, captioner, tools, trainers; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_every_folder_of_modules_is_a_package():
    folders = {path.parent for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []


@pytest.mark.parametrize("photo", sorted((ROOT / "res" / "photos").glob("*.jpg")), ids=lambda path: path.name)
def test_each_photo_opens_and_has_its_licence_written_down(photo):
    from captioner.images import read_image

    height, width, channels = read_image(photo).shape
    assert max(height, width) <= 640 and channels == 3
    (row,) = [line for line in (photo.parent / "README.md").read_text().splitlines() if photo.name in line]
    assert any(licence in row for licence in ("CC0 1.0", "CC BY 2.0", "CC BY 4.0", "public domain"))


def test_constraints_fix_every_direct_dependency_to_one_version():
    lines = (ROOT / "res" / "constraints.txt").read_text().splitlines()
    fixed = {line.split("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    assert not [line for line in lines if line and not line.startswith("#") and "==" not in line]
    missing = {name for name in _direct_dependencies() if name not in fixed}
    assert missing == set()


def _direct_dependencies() -> set[str]:
    """Names in setup.py's base, test, eval and oracle lists, which CI installs."""
    import ast

    values = {}
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            values[node.targets[0].id] = node.value
    wanted = [values["BASE"], values["EVAL"]]
    wanted += [
        v
        for k, v in zip(values["EXTRAS"].keys, values["EXTRAS"].values, strict=True)
        if k.value in ("test", "oracle")
    ]
    strings = [e.value for part in wanted for e in ast.walk(part) if isinstance(e, ast.Constant)]
    return {re.split(r"[\[<>=]", text)[0].strip().lower() for text in strings}
