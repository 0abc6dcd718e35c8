"""Images to caption: files, folders, globs, lists and standard input become names with paths."""

import dataclasses
import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from tools.errors import UsageError

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
TABLE_ENDINGS = (".csv", ".tsv")
LIST_ENDINGS = (*TABLE_ENDINGS, ".txt")


@dataclasses.dataclass(frozen=True)
class ImageInput:
    """An image to caption."""

    name: str
    """What the user calls it: the path as given or, from a list, as the list has it."""
    path: Path
    """Where it is read from."""


def find_images(
    inputs: Sequence[str], stdin: TextIO, images_dir: str | None = None, image_column: str | None = None
) -> list[ImageInput]:
    """Finds the images that the words of a command line mean, in their order and each name once.

    Args:
        inputs: list of strings. Each is a file, a folder (searched to any depth, hidden files left out), a
            glob, a `.csv`, `.tsv` or `.txt` list of paths, or `-` for paths on standard input.
        stdin: text file. Read when an input is `-`, one path a line.
        images_dir: string. Folder that relative paths in lists start from; the list's own folder by default.
        image_column: string. The column of a table that holds the paths.

    Returns:
        List of `ImageInput`. A file that is given by name is in it whether it exists or not.

    Raises:
        UsageError: If an input means no image at all, two lists mean different files by one name, or there is no list for
            `images_dir`.
    """
    if images_dir is not None and not any(
        word == "-" or word.lower().endswith(LIST_ENDINGS) for word in inputs
    ):
        raise UsageError(
            f"--images is the folder of paths in lists ({', '.join(LIST_ENDINGS)}, or - for standard input); none is given."
        )
    found: dict[str, ImageInput] = {}
    for word in inputs:
        images = list(_expand(word, stdin, images_dir, image_column))
        if not images:
            raise UsageError(f"{'standard input' if word == '-' else repr(word)} names no image.")
        for image in images:
            known = found.setdefault(image.name, image)
            if os.path.abspath(known.path) != os.path.abspath(image.path):
                raise UsageError(
                    f"two lists name {image.name!r} and mean {str(known.path)!r} and {str(image.path)!r}; "
                    "caption one list at a time."
                )
    return list(found.values())


def _expand(
    word: str, stdin: TextIO, images_dir: str | None, image_column: str | None
) -> Iterator[ImageInput]:
    if word == "-":
        yield from _listed(stdin, Path(images_dir or "."))
    elif os.path.isdir(word):
        paths = list(_in_folder(word))
        if not paths:
            raise UsageError(f"the folder {word!r} holds no file that ends in {', '.join(IMAGE_ENDINGS)}.")
        yield from (ImageInput(path, Path(path)) for path in paths)
    elif os.path.exists(word):
        if word.lower().endswith(LIST_ENDINGS):
            yield from _from_list(Path(word), images_dir, image_column)
        else:
            yield ImageInput(word, Path(word))
    elif glob.has_magic(word):
        paths = [path for path in sorted(glob.glob(word, recursive=True)) if os.path.isfile(path)]
        if not paths:
            raise UsageError(f"no file matches {word!r}.")
        yield from (ImageInput(path, Path(path)) for path in paths)
    elif word.lower().endswith(LIST_ENDINGS):
        raise UsageError(f"there is no list {word!r}.")
    else:
        yield ImageInput(word, Path(word))


def _in_folder(folder: str) -> Iterator[str]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(IMAGE_ENDINGS) and not name.startswith("."):
                yield os.path.join(parent, name)


def _from_list(table: Path, images_dir: str | None, image_column: str | None) -> Iterator[ImageInput]:
    start = Path(images_dir) if images_dir else table.parent
    if table.suffix.lower() not in TABLE_ENDINGS:
        with table.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
            yield from _listed(lines, start)
        return
    from trainers.delimited import read_table

    frame = read_table(table)
    headless = len(frame.columns) == 1 and frame.columns[0].lower().endswith(IMAGE_ENDINGS)
    names = [frame.columns[0], *frame.iloc[:, 0]] if headless else frame[_column(table, frame, image_column)]
    yield from _listed(names, start)


def _column(table: Path, frame, wanted: str | None) -> str:
    from captioner.evaluation.predictions import IMAGE_KEYS

    columns = ", ".join(frame.columns)
    if wanted is not None:
        if wanted not in frame.columns:
            raise UsageError(f"--image-column must be a column of {table} ({columns}); received {wanted!r}.")
        return wanted
    guess = next((name for name in IMAGE_KEYS if name in frame.columns), None)
    if guess is None and len(frame.columns) > 1:
        raise UsageError(
            f"{table} has no column named {', '.join(IMAGE_KEYS)}; its columns are {columns}. "
            "Say which one holds the paths: --image-column NAME."
        )
    return guess or frame.columns[0]


def _listed(lines: Iterable[str], start: Path) -> Iterator[ImageInput]:
    for line in lines:
        name = line.strip()
        if name:
            yield ImageInput(name, start / name)
