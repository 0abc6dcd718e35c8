"""Reads captions from tables (whatever pandas opens), COCO captions JSON and Karpathy's dataset JSON."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from trainers.records import CaptionRecords, Problem, collect_captions

IMAGE_COLUMNS = (
    "file_name", "filename", "image", "image_name", "image_path", "path", "filepath", "file_path",
    "image_file", "file",
)  # fmt: skip
CAPTION_COLUMNS = ("caption", "captions", "text", "comment", "sentence", "description")
ALL_SPLITS = "all"
SPLIT_NAMES = {
    "train": {"train", "training", "restval"},  # Karpathy's split keeps spare training images as "restval"
    "val": {"val", "valid", "validation", "dev"},
}
Row = tuple[str, Path | None, str, Problem | None]


def read_captions(
    table: str | os.PathLike,
    images_dir: str | os.PathLike | None = None,
    *,
    image_column: str | None = None,
    caption_column: str | None = None,
    split: str | None = None,
) -> CaptionRecords:
    """Reads images and captions from a table or a JSON file.

    Several rows of one image are its several captions. An unusable row is left out and named in the problems.

    Args:
        table: path of a `.csv`, `.tsv`, `.txt` (delimited, with a header), `.parquet`, `.feather`, `.xlsx`,
            `.jsonl` or `.json` file. JSON is COCO captions (`images`, `annotations`), Karpathy's (`images`
            with `sentences`), or a list of records.
        images_dir: path. The folder that relative names start from, by default the table's own folder. No
            name may leave it; absolute names outside it are accepted only if it is not given.
        image_column: string. Column of the image's file, or None to guess it from common names.
        caption_column: string. Column of the caption, or None to guess it.
        split: string. Only this split, for data that has one: "train" includes Karpathy's "restval", "val"
            and "validation" are the same, "all" is everything. Data with several splits must be told.

    Returns:
        A `CaptionRecords`.

    Raises:
        FileNotFoundError: If the table or the images folder is not there.
        ValueError: If a column is missing, the table is empty, or the file is none of the formats.
    """
    table = Path(table)
    if not table.is_file():
        raise FileNotFoundError(f"`table` must be a file; received {str(table)!r}, which is not there.")
    if images_dir is not None and not Path(images_dir).is_dir():
        raise FileNotFoundError(
            f"`images_dir` must be a folder; received {str(images_dir)!r}, which is none."
        )
    locate = _Locator(table, images_dir)
    columns = None
    content = _read_json(table) if table.suffix.lower() == ".json" else None
    if isinstance(content, dict) and "annotations" in content:
        if split not in (None, ALL_SPLITS):
            raise ValueError(f"{table} is a COCO captions file and has no splits; received split={split!r}.")
        rows = _coco_rows(content, locate, table)
    elif isinstance(content, dict) and "images" in content:
        rows = _karpathy_rows(content, locate, table, split)
    elif isinstance(content, dict):
        raise ValueError(
            f"{table} must hold COCO captions (images, annotations), Karpathy's images with sentences, or "
            f"a list of records; it has the keys {sorted(content)}."
        )
    else:
        from trainers.delimited import read_table  # pandas takes half a second to import

        frame = read_table(table, content)
        columns = (
            _find_column(frame, "image_column", image_column, IMAGE_COLUMNS, table),
            _find_column(frame, "caption_column", caption_column, CAPTION_COLUMNS, table),
        )
        rows = _table_rows(frame, columns, locate, table, split)
    images, problems, num_rows = collect_captions(rows)
    if not num_rows:
        raise ValueError(f"{table} holds no captions" + (f" of split {split!r}." if split else "."))
    return CaptionRecords(
        source=str(table), images=images, problems=tuple(problems), num_rows=num_rows, columns=columns
    )


def find_splits(table: str | os.PathLike) -> set[str]:
    """The splits that a table tells apart, such as `{"train", "val", "test"}`; empty if it knows none.

    Args:
        table: as for `read_captions`. Names that mean the same count as one: "restval" is "train".
    """
    table = Path(table)
    if not table.is_file():
        return set()  # `read_captions` says so
    content = _read_json(table) if table.suffix.lower() == ".json" else None
    if isinstance(content, dict):
        names = {str(image.get("split", "")) for image in content.get("images", [])}
    else:
        from trainers.delimited import read_table

        frame = read_table(table, content)
        names = {str(name).strip() for name in frame["split"]} if "split" in frame.columns else set()
    return {_split_key(name) for name in names if name}


class _Locator:
    """Turns an image's name in the table into a path, or a problem."""

    def __init__(self, table: Path, images_dir: str | os.PathLike | None) -> None:
        self.bounded = images_dir is not None
        # No symbolic links are resolved: a link inside the folder is its owner's way of bringing images in.
        self.root = os.path.abspath(table.parent if images_dir is None else images_dir)

    def __call__(self, row: str, name: str) -> tuple[Path | None, Problem | None]:
        name = name.strip()
        if not name:
            return None, Problem("empty image name", row)
        try:
            name.encode("utf-8")
        except UnicodeEncodeError:
            return None, Problem("text is not UTF-8", row, ascii(name))
        if "\0" in name:
            return None, Problem("NUL in the image name", row, ascii(name))
        path = os.path.normpath(os.path.join(self.root, name))
        inside = path.startswith(os.path.join(self.root, ""))
        if not inside and (self.bounded or not os.path.isabs(name)):
            return None, Problem("image outside the images folder", row, f"{name!r} leaves {self.root}")
        return Path(path), None


def _read_json(table: Path) -> dict | list:
    try:
        return json.loads(table.read_bytes().decode("utf-8-sig", errors="surrogateescape"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{table} is not valid JSON: {error}.") from error


def _coco_rows(content: dict, locate: _Locator, table: Path) -> Iterator[Row]:
    names = {}
    for image in content.get("images", []):
        if "id" not in image or "file_name" not in image:
            raise ValueError(
                f"{table}: an entry of `images` has no id or no file_name; it has {sorted(image)}."
            )
        names[image["id"]] = str(image["file_name"])
    for number, annotation in enumerate(content["annotations"]):
        row = f"annotations[{number}]"
        image_id, caption = annotation.get("image_id"), annotation.get("caption")
        if caption is None and "bbox" in annotation:
            raise ValueError(f"{table} holds COCO's object instances; give its captions_*.json instead.")
        if image_id in names:
            path, problem = locate(row, names[image_id])
        else:
            path, problem = None, Problem("unknown image id", row, f"image_id={image_id!r}")
        yield row, path, _text(caption), problem


def _karpathy_rows(content: dict, locate: _Locator, table: Path, split: str | None) -> Iterator[Row]:
    keep = _split_filter(Counter(str(image.get("split", "")) for image in content["images"]), split, table)
    has_folder: dict[str, bool] = {}
    for number, image in enumerate(content["images"]):
        if str(image.get("split", "")) not in keep:
            continue
        if "filename" not in image or "sentences" not in image:
            raise ValueError(
                f"{table}: images[{number}] must have filename and sentences; it has {sorted(image)}."
            )
        name, folder = str(image["filename"]), str(image.get("filepath", ""))
        if folder not in has_folder:  # COCO's val2014/ and train2014/ may have been unpacked into one folder
            has_folder[folder] = os.path.isdir(os.path.join(locate.root, folder))
        if has_folder[folder]:
            name = os.path.join(folder, name)
        for index, sentence in enumerate(image["sentences"] or [{}]):
            row = f"images[{number}].sentences[{index}]"
            yield row, *_flip(locate(row, name), _text(sentence.get("raw")))


def _flip(
    located: tuple[Path | None, Problem | None], caption: str
) -> tuple[Path | None, str, Problem | None]:
    return located[0], caption, located[1]


def _table_rows(
    frame, columns: tuple[str, str], locate: _Locator, table: Path, split: str | None
) -> Iterator[Row]:
    names, captions = frame[columns[0]].tolist(), frame[columns[1]].tolist()
    splits = [""] * len(names)
    if "split" in frame.columns and "split" not in columns:
        splits = [str(value).strip() for value in frame["split"].tolist()]
    elif split not in (None, ALL_SPLITS):
        raise ValueError(
            f"{table} has no column named split; received split={split!r}. It has {list(frame.columns)}."
        )
    malformed = frame.attrs.get("malformed", {})
    whole_rows = (part for number, part in enumerate(splits) if number not in malformed)
    keep = _split_filter(Counter(whole_rows), split, table)
    for number, (name, caption, part) in enumerate(zip(names, captions, splits, strict=True)):
        row = f"row {number + 2}"  # as a spreadsheet numbers it: the header is row 1
        if number in malformed:
            yield row, None, "", Problem("malformed row", row, malformed[number])
        elif part in keep:
            path, problem = locate(row, _text(name))
            for text in _cell_captions(caption):
                if isinstance(text, dict | list):
                    problem = problem or Problem("caption is no text", row, f"{text!r:.100}")
                yield row, path, _text(text), problem


def _split_filter(counts: Counter, split: str | None, table: Path) -> set[str]:
    """The values of the split field to keep. Training on a test split by oversight must be impossible."""
    found = ", ".join(f"{name or '(none)'} ({count})" for name, count in sorted(counts.items()))
    if split is None and len({_split_key(name) for name in counts}) > 1:
        raise ValueError(
            f"{table} has several splits: {found}. Choose one with `split`, or split={ALL_SPLITS!r}."
        )
    if split in (None, ALL_SPLITS):
        return set(counts)
    keep = {name for name in counts if _split_key(name) == _split_key(split)}
    if not keep:
        raise ValueError(f"`split` must be one of the splits of {table}: {found}; received split={split!r}.")
    return keep


def _split_key(name: str) -> str:
    name = name.lower()
    return next((key for key, names in SPLIT_NAMES.items() if name in names), name)


def _find_column(frame, argument: str, wanted: str | None, guesses: tuple[str, ...], table: Path) -> str:
    found = list(frame.columns)
    if wanted is not None:
        if wanted not in found:
            raise ValueError(
                f"`{argument}` must be a column of {table}; received {wanted!r}. It has {found}."
            )
        return wanted
    by_lower = {str(name).lower(): name for name in reversed(found)}
    for guess in guesses:
        if guess in by_lower:
            return by_lower[guess]
    raise ValueError(
        f"{table} has none of the usual names for `{argument}` ({', '.join(guesses)}). Its columns are "
        f"{found}: name one with `{argument}`. The first row must be the header."
    )


def _cell_captions(cell) -> list:
    """The captions of a cell, at least one, which is None if there is none."""
    values = cell.tolist() if hasattr(cell, "tolist") else cell  # lists of Parquet come as arrays
    return (list(values) or [None]) if isinstance(values, list | tuple) else [values]


def _text(value) -> str:
    if isinstance(value, str):
        return value
    try:
        is_missing = value is None or bool(value != value)
    except TypeError:  # pandas.NA is neither
        is_missing = True
    return "" if is_missing else str(value)
