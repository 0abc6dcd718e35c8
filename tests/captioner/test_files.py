"""What is written is whole or absent, whatever happens on the way."""

import os
from pathlib import Path

import pytest

from captioner.files import atomic_path


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    for content in ("old", "new"):
        with atomic_path(tmp_path / "folder") as temporary:
            temporary.mkdir()
            (temporary / content).write_text(content)
    assert os.listdir(tmp_path) == ["folder"] and os.listdir(tmp_path / "folder") == ["new"]


def test_a_break_between_the_two_renames_brings_the_old_folder_back(tmp_path, monkeypatch):
    folder, rename = tmp_path / "folder", Path.rename
    folder.mkdir()
    (folder / "old").write_text("old")

    def interrupted(self, target):
        if Path(target) == folder and not self.name.endswith(".old"):
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), atomic_path(folder) as temporary:
        temporary.mkdir()
    assert os.listdir(tmp_path) == ["folder"] and os.listdir(folder) == ["old"]


def test_an_error_leaves_a_file_as_it_was(tmp_path):
    (tmp_path / "file.txt").write_text("old")
    with pytest.raises(ValueError), atomic_path(tmp_path / "file.txt") as temporary:
        temporary.write_text("new")
        raise ValueError
    assert os.listdir(tmp_path) == ["file.txt"] and (tmp_path / "file.txt").read_text() == "old"


def test_a_link_to_a_folder_stays_and_the_folder_is_replaced(tmp_path):
    (tmp_path / "disk" / "folder").mkdir(parents=True)
    (tmp_path / "disk" / "folder" / "old").touch()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "folder")
    with atomic_path(tmp_path / "link") as temporary:
        temporary.mkdir()
        (temporary / "new").touch()
    assert (tmp_path / "link").is_symlink() and os.listdir(tmp_path / "link") == ["new"]
    assert sorted(os.listdir(tmp_path)) == ["disk", "link"] and os.listdir(tmp_path / "disk") == ["folder"]
