"""Predicted captions from files, and which image of a table each one is about."""

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from captioner.evaluation.matching import some

IMAGE_KEYS = ("image", "image_id", "file_name", "filename", "image_path", "path", "file")
CAPTION_KEYS = ("caption", "text", "prediction")

# COCO names its files by the image's number: 000000123456.jpg, COCO_val2014_000000123456.jpg.
_COCO_STEM = re.compile(r"(?:COCO_\w+_)?(\d{12})")


def read_predictions(path: str | os.PathLike) -> dict[str, str]:
    """Reads predicted captions: COCO results JSON, JSON lines, CSV or TSV.

    Where a file has a `rank` (1 is the best caption of an image), the best rank of each image counts.

    Args:
        path: path. `.json` holds a list of objects, `.jsonl` an object on each line, both with "image" (or
            "image_id") and "caption"; any other ending is a table with columns of these names.

    Returns:
        The caption of each image, as the file names it.

    Raises:
        ValueError: If the file has another shape, or two captions of the same rank for an image.
        OSError: If the file cannot be read.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = list(_rows(path, text))
    except UnicodeDecodeError as error:
        raise ValueError(f"`{path}` must be UTF-8 text; {error}. Save it as UTF-8.") from error
    except csv.Error as error:
        raise ValueError(f"`{path}` is no readable table: {error}.") from error
    best: dict[str, tuple[float, str]] = {}
    for place, row in rows:
        image, caption, rank = _entry(path, place, row)
        if image in best and best[image][0] == rank:
            raise ValueError(
                f"`{path}` must hold one caption for each image and rank; {place} is a second one for {image!r}."
            )
        if image not in best or rank < best[image][0]:
            best[image] = (rank, caption)
    if not best:
        raise ValueError(f"`{path}` must hold at least one predicted caption; it holds none.")
    return {image: caption for image, (_, caption) in best.items()}


def match_predictions(
    predictions: Mapping[str, str], images: Iterable[Path], file_names: Mapping[str, str] | None = None
) -> dict[Path, str]:
    """Finds the image that each prediction is about.

    A prediction's name is taken, in this order, for an image's path as given, its absolute path, its trailing
    part ("folder/a.jpg"), its name without ending, or the number in a COCO file name.

    Args:
        predictions: mapping from the name of an image to its caption.
        images: paths of the images.
        file_names: optional mapping from image numbers to file names, as COCO annotations have it.

    Returns:
        The caption of each matched image.

    Raises:
        ValueError: If a name fits no image or several, or two names fit one image.
    """
    images = list(images)
    index: list[dict[str, set[Path]]] = [{}, {}, {}, {}]
    for image in images:
        keys = (
            [image.as_posix()],
            [Path(os.path.abspath(image)).as_posix()],
            _trailing_parts(image),
            _stems(image),
        )
        for level, names in zip(index, keys, strict=True):
            for name in names:
                level.setdefault(name, set()).add(image)
    matched: dict[Path, str] = {}
    unknown = []
    for given, caption in predictions.items():
        name = Path((file_names or {}).get(given, given)).as_posix()
        found = next((level[name] for level in index if name in level), None)
        if found is None:
            unknown.append(given)
        elif len(found) > 1:
            raise ValueError(
                f"The prediction for {given!r} fits {len(found)} images: {some(sorted(found))}. Name images by their path."
            )
        elif (image := next(iter(found))) in matched:
            raise ValueError(f"Two predictions are about {str(image)!r}; the second is called {given!r}.")
        else:
            matched[image] = caption
    if unknown:
        raise ValueError(
            f"Predictions must be about images of the table ({len(images)} images, among them "
            f"{', '.join(repr(str(image)) for image in images[:1])}); no image fits {some(unknown)}."
        )
    return matched


def coco_file_names(table: str | os.PathLike) -> dict[str, str]:
    """The file name of each image number in a COCO annotations JSON; empty for any other table."""
    if Path(table).suffix.lower() != ".json":
        return {}
    content = json.loads(Path(table).read_text(encoding="utf-8-sig"))
    images = content.get("images", []) if isinstance(content, dict) else []
    names = {}
    for image in images:
        number = image.get("id", image.get("cocoid"))  # COCO's own spelling, and that of Karpathy's splits.
        name = image.get("file_name", image.get("filename"))
        if number is not None and name:
            names[str(number)] = name
    return names


def _rows(path: Path, text: str) -> Iterable[tuple[str, Any]]:
    kind = path.suffix.lower()
    try:
        if kind == ".json":
            content = json.loads(text)
            if not isinstance(content, list):
                raise ValueError(
                    f'`{path}` must be a list as COCO results are, [{{"image_id": ..., "caption": ...}}, ...]; '
                    f"it is a {type(content).__name__}. JSON lines are read from a file that ends in .jsonl."
                )
            yield from ((f"entry {number}", row) for number, row in enumerate(content, start=1))
        elif kind in (".jsonl", ".ndjson"):
            for number, line in enumerate(text.split("\n"), start=1):
                if line.strip():
                    yield f"line {number}", json.loads(line)
        else:
            # `splitlines` would also cut at what may stand in a caption.
            lines = io.StringIO(text, newline="")
            reader = csv.DictReader(lines, delimiter="\t" if kind == ".tsv" else ",")
            yield from ((f"row {number}", row) for number, row in enumerate(reader, start=1))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"`{path}` is not valid {kind[1:].upper()}: {error}.") from error


def _entry(path: Path, place: str, row: Any) -> tuple[str, str, float]:
    if not isinstance(row, dict):
        raise ValueError(
            f"`{path}`: {place} must be an object with an image and a caption; received {row!r}."
        )
    image = next((row[key] for key in IMAGE_KEYS if row.get(key) not in (None, "")), None)
    caption = next((row[key] for key in CAPTION_KEYS if row.get(key) is not None), None)
    if image is None or not isinstance(caption, str):
        raise ValueError(
            f"`{path}`: {place} must have an image (one of {', '.join(IMAGE_KEYS)}) and a caption (one of "
            f"{', '.join(CAPTION_KEYS)}); it has {', '.join(map(str, row))}."
        )
    try:
        return str(image), caption, float(row.get("rank") or 0)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`{path}`: {place} must have a number as rank; received {row['rank']!r}."
        ) from error


def _trailing_parts(image: Path) -> list[str]:
    parts = image.parts
    return ["/".join(parts[start:]) for start in range(len(parts) - 1, 0, -1)] or [image.as_posix()]


def _stems(image: Path) -> list[str]:
    coco = _COCO_STEM.fullmatch(image.stem)
    return [image.stem, *([str(int(coco[1]))] if coco else [])]
