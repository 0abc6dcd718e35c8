"""Attention as pictures: a photo for each word of its caption, with a heat map of where the model looked.

Axes: T tokens; h rows and w columns of the map; H rows, W columns of pixels.
"""

import os
from collections.abc import Sequence

import numpy as np
from PIL import Image

from captioner.evaluation.text_drawing import LINE_HEIGHT_PX, draw_lines, wrap_text
from captioner.files import atomic_path
from captioner.text import CaptionTokenizer
from captioner.text.words import caption_words

MARGIN_PX = 6
MAX_WORDS = 200
MAX_STRETCH = 3.0
"""A photo that is this much higher than wide is drawn no higher."""
_HEAT = 0.6  # share of the heat map's colour in a pixel; the rest is the photo's
_LEVELS = (0.0, 0.35, 0.7, 1.0)
_COLOURS = np.array([(10, 5, 60), (150, 25, 110), (240, 100, 30), (255, 240, 130)])


def word_maps(
    tokenizer: CaptionTokenizer, token_ids: Sequence[int], maps: np.ndarray
) -> list[tuple[str, np.ndarray]]:
    """The words of a caption with their maps; a word of several tokens has the mean of theirs.

    Args:
        tokenizer: `CaptionTokenizer`.
        token_ids: the T tokens of a caption.
        maps: float array `(T, h, w)`, as `ImageCaptioner.attention` gives.
    """
    return [(word, maps[list(tokens)].mean(axis=0)) for word, tokens in caption_words(tokenizer, token_ids)]


def attention_strip(
    image: np.ndarray,
    words: Sequence[tuple[str, np.ndarray]],
    path: str | os.PathLike,
    *,
    headline: str = "",
    num_columns: int = 8,
    cell_width_px: int = 150,
) -> None:
    """Draws the photo once for each word, under its map, and writes the strip as a JPEG.

    Colours run from dark, for no attention, to bright yellow, for the largest value of the word's own map: they compare
    places for a word, not words with each other.

    Args:
        image: uint8 array `(H, W, 3)`: exactly what the maps are of, see `ImageTransform.view`.
        words: pairs of a word and its map, float `(h, w)`; 1 to 200.
        path: path of the JPEG.
        headline: str. A line on top.
        num_columns: int. Words side by side; more go on in the next row.
        cell_width_px: int. Width of one photo.

    Raises:
        ValueError: If there are no or too many words, or a size is not positive.
        OSError: If the file cannot be written.
    """
    if not 1 <= len(words) <= MAX_WORDS:
        raise ValueError(f"`words` must hold 1 to {MAX_WORDS} words; received {len(words)}.")
    if num_columns < 1 or cell_width_px < 16:
        raise ValueError(
            f"`num_columns` must be at least 1 and `cell_width_px` at least 16; received num_columns={num_columns}, "
            f"cell_width_px={cell_width_px}."
        )
    num_columns = min(num_columns, len(words))
    num_rows = -(-len(words) // num_columns)
    stretch = min(image.shape[0] / image.shape[1], MAX_STRETCH)
    size = (cell_width_px, max(1, round(cell_width_px * stretch)))
    photo = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
    width = MARGIN_PX + num_columns * (cell_width_px + MARGIN_PX)
    heading = wrap_text(headline, width - 2 * MARGIN_PX)
    top = MARGIN_PX + len(heading) * LINE_HEIGHT_PX
    row_height = size[1] + LINE_HEIGHT_PX + MARGIN_PX
    strip = Image.new("RGB", (width, top + num_rows * row_height), "white")
    draw_lines(strip, heading, MARGIN_PX, MARGIN_PX // 2)
    for number, (word, cells) in enumerate(words):
        row, column = divmod(number, num_columns)
        left, upper = MARGIN_PX + column * (cell_width_px + MARGIN_PX), top + row * row_height
        strip.paste(_heated(photo, cells), (left, upper))
        draw_lines(strip, wrap_text(word, cell_width_px)[:1], left, upper + size[1])
    with atomic_path(path) as temporary:
        strip.save(temporary, format="JPEG", quality=90)


def _heated(photo: Image.Image, cells: np.ndarray) -> Image.Image:
    """A photo under the colours of a map that is stretched over it."""
    heat = Image.fromarray(cells.astype("float32")).resize(photo.size, Image.Resampling.BILINEAR)
    heat = np.asarray(heat) / max(float(cells.max()), np.finfo("float32").tiny)
    colours = np.stack([np.interp(heat, _LEVELS, _COLOURS[:, channel]) for channel in range(3)], axis=-1)
    mixed = (1.0 - _HEAT) * np.asarray(photo) + _HEAT * colours
    return Image.fromarray(mixed.round().astype("uint8"))
