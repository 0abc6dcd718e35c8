"""A folder of images with a .txt beside each."""

import pytest

from trainers.caption_folder import read_folder


def test_each_line_of_the_txt_is_a_caption_and_what_is_missing_is_named(tmp_path):
    for name, text in (
        ("b/one.JPG", "one caption\n"),
        ("a.png", "\ufefffirst\r\n\n  second   one \nfirst\n"),
        ("c.webp", None),
        ("d.jpg", " \n"),
        (".hidden.jpg", "x"),
        ("notes.md", "x"),
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
        if text is not None:
            path.with_suffix(".txt").write_bytes(text.encode())
    (tmp_path / "e.jpg").touch()
    (tmp_path / "e.txt").write_bytes("Café".encode("latin-1"))
    records = read_folder(tmp_path)
    assert [(image.path.name, image.captions) for image in records.images] == [
        ("a.png", ("first", "second one")),
        ("one.JPG", ("one caption",)),
    ]
    assert [problem.reason for problem in records.problems] == [
        "duplicate row",
        "no caption",
        "empty caption",
        "text is not UTF-8",
    ]


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no image"):
        read_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="must be a folder"):
        read_folder(tmp_path / "gone")
