"""The tables of images and captions that commands read, and what is left out of them."""

from pathlib import Path
from typing import Any

from tools.errors import UsageError
from tools.messages import say

_NAMED = 20


def read_caption_table(table: Path, images: Path | None, **choice: str | None) -> Any:
    """Reads a table's captions, and names what is left out of it.

    Args:
        table: file of images and captions.
        images: folder that the table's image names start from.
        **choice: `image_column`, `caption_column` and `split` of `trainers.caption_tables.read_captions`.

    Returns:
        `CaptionRecords`, with one image or more.

    Raises:
        UsageError: If there is no such file, or no caption in it is usable.
    """
    from trainers.caption_tables import read_captions

    if not table.is_file():
        raise UsageError(f"the table must be a file; {str(table)!r} is none.")
    records = read_captions(table, images, **choice)
    for problem in records.problems[:_NAMED]:
        say(f"left out: {problem}")
    if records.problems:
        unnamed = len(records.problems) - _NAMED
        more = f", {unnamed} rows more than are named above" if unnamed > 0 else ""
        say(f"{len(records.problems)} captions of {table} left out{more}")
    if not records.images:
        raise UsageError(f"{str(table)!r} has no usable captions.")
    return records
