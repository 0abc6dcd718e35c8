"""Reads captions from a folder of images with a .txt beside each."""

import os
from collections.abc import Iterator
from pathlib import Path

from trainers.caption_tables import Row
from trainers.records import CaptionRecords, Problem, collect_captions

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
MAX_TEXT_BYTES = 1024**2
"""Longest .txt that is read."""


def read_folder(folder: str | os.PathLike) -> CaptionRecords:
    """Reads the images of a folder, searched to any depth, each with the captions in its .txt.

    The .txt has the image's name with another ending, and holds a caption a line. Hidden files are left out.

    Args:
        folder: path. The folder.

    Returns:
        A `CaptionRecords`, sorted by path.

    Raises:
        FileNotFoundError: If the folder is not there.
        ValueError: If it holds no image.
    """
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"`folder` must be a folder; received {os.fspath(folder)!r}, which is none.")
    images, problems, num_rows = collect_captions(_rows(os.path.abspath(folder)))
    if not num_rows:
        raise ValueError(f"{os.fspath(folder)} holds no image that ends in {', '.join(IMAGE_ENDINGS)}.")
    return CaptionRecords(source=str(folder), images=images, problems=tuple(problems), num_rows=num_rows)


def _rows(folder: str) -> Iterator[Row]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(IMAGE_ENDINGS) and not name.startswith("."):
                yield from _captions(Path(parent, name))


def _captions(image: Path) -> Iterator[Row]:
    path = image.with_suffix(".txt")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TEXT_BYTES + 1)
    except FileNotFoundError:
        yield str(image), image, "", Problem("no caption", str(image), f"there is no {path.name}")
        return
    except OSError as error:
        yield str(image), image, "", Problem("unreadable file", str(path), str(error.strerror))
        return
    if len(data) > MAX_TEXT_BYTES:
        yield (
            str(image),
            image,
            "",
            Problem("caption too long", str(path), f"more than {MAX_TEXT_BYTES:,} bytes"),
        )
        return
    text = data.decode("utf-8", errors="surrogateescape").removeprefix("\ufeff")
    lines = [line for line in text.splitlines() if line.strip()]
    for number, line in enumerate(lines or [""], start=1):
        yield f"{path} line {number}", image, line, None
