"""Contact sheets: photos in a grid with text below each, as one PNG."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from captioner.evaluation.text_drawing import LINE_HEIGHT_PX, draw_lines, wrap_text
from captioner.files import atomic_path

MAX_ROWS = 1000
MARGIN_PX = 10
MAX_LINES = 12


@dataclasses.dataclass(frozen=True)
class SheetRow:
    """One photo of a contact sheet."""

    image: str | os.PathLike | np.ndarray
    """A path, or a uint8 array `(H, W, 3)`, or what becomes one by `np.asarray`."""
    lines: tuple[str, ...] = ()
    """Texts below the photo; each starts on a line of its own and is wrapped."""


def contact_sheet(
    rows: Sequence[SheetRow],
    path: str | os.PathLike,
    *,
    headline: str = "",
    num_columns: int = 4,
    tile_size_px: int = 240,
) -> None:
    """Draws photos in a grid with their texts below, and writes it as a PNG.

    A photo that cannot be read becomes a grey tile that shows the error.

    Args:
        rows: sequence of `SheetRow`. 1 to 1000 photos, drawn row by row.
        path: path of the PNG.
        headline: str. A line on top of the sheet.
        num_columns: int. Photos side by side.
        tile_size_px: int. Width and height of the square that a photo is fitted into.

    Raises:
        ValueError: If there are no or too many rows, or a size is not positive.
        OSError: If the file cannot be written.
    """
    if not 1 <= len(rows) <= MAX_ROWS:
        raise ValueError(f"`rows` must hold 1 to {MAX_ROWS} photos; received {len(rows)}.")
    if num_columns < 1 or tile_size_px < 16:
        raise ValueError(
            f"`num_columns` must be at least 1 and `tile_size_px` at least 16; received num_columns={num_columns}, "
            f"tile_size_px={tile_size_px}."
        )
    num_columns = min(num_columns, len(rows))
    tiles = [_tile(row, tile_size_px) for row in rows]
    bands = [tiles[start : start + num_columns] for start in range(0, len(tiles), num_columns)]
    width = MARGIN_PX + num_columns * (tile_size_px + MARGIN_PX)
    heading = wrap_text(headline, width - 2 * MARGIN_PX) if headline else []
    top = MARGIN_PX + len(heading) * LINE_HEIGHT_PX + (MARGIN_PX if heading else 0)
    height = top + sum(max(tile.height for tile in band) + MARGIN_PX for band in bands)
    sheet = Image.new("RGB", (width, height), "white")
    draw_lines(sheet, heading, MARGIN_PX, MARGIN_PX)
    for band in bands:
        for column, tile in enumerate(band):
            sheet.paste(tile, (MARGIN_PX + column * (tile_size_px + MARGIN_PX), top))
        top += max(tile.height for tile in band) + MARGIN_PX
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")


def _tile(row: SheetRow, size: int) -> Image.Image:
    photo, problem = _photo(row.image, size)
    lines = [line for text in row.lines for line in wrap_text(text, size)[:MAX_LINES]]
    tile = Image.new("RGB", (size, size + 4 + len(lines) * LINE_HEIGHT_PX), "white")
    if photo is None:
        tile.paste("lightgrey", (0, 0, size, size))
        fitting = max(1, (size - 16) // LINE_HEIGHT_PX)
        draw_lines(tile, wrap_text(problem, size - 16)[:fitting], 8, 8)
    else:
        tile.paste(photo, ((size - photo.width) // 2, (size - photo.height) // 2))
    draw_lines(tile, lines, 0, size + 4)
    return tile


def _photo(image: Any, size: int) -> tuple[Image.Image | None, str]:
    """The photo fitted into a square, or None and what is wrong with it."""
    from captioner.images import read_image

    try:
        pixels = np.asarray(image) if hasattr(image, "__array__") else read_image(image)
        photo = Image.fromarray(pixels).convert("RGB")
        scale = size / max(photo.size)
        fitted = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
        return photo.resize(fitted, Image.Resampling.LANCZOS), ""
    # One photo of hundreds must not cost the sheet, whatever is wrong with it.
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"
