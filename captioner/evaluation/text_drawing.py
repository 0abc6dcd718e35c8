"""Text in pictures: wrapped to a width, in a font that has its letters."""

import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

FONT_SIZE_PX = 14
LINE_HEIGHT_PX = 19

# Pillow's own font lacks even "é"; these, where a system has one, know more of the world's letters.
_WIDER_FONTS = (
    "NotoSansCJK-Regular.ttc",
    "NotoSans-Regular.ttf",
    "DejaVuSans.ttf",
    "Arial Unicode.ttf",
    "msyh.ttc",
    "arial.ttf",
)


def wrap_text(text: str, width: int) -> list[str]:
    """Breaks a text into lines of at most `width` pixels, within a word only where it alone is too wide."""
    lines, line = [], ""
    for word in _printable(text).split():
        longer = f"{line} {word}" if line else word
        if _width(longer) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        while _width(word) > width and len(word) > 1:
            end = next(
                end for end in range(1, len(word) + 1) if end == len(word) or _width(word[: end + 1]) > width
            )
            lines.append(word[:end])
            word = word[end:]
        line = word
    return [*lines, line] if line else lines


def _printable(text: str) -> str:
    """`text` without control characters and lone surrogates, which no font can draw; cut at a page's
    length."""
    text = text[:1000].encode("utf-8", "replace").decode("utf-8")
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _width(text: str) -> float:
    return _font_for(text).getlength(text)


def draw_lines(image: Image.Image, lines: Sequence[str], left: int, top: int) -> None:
    """Writes lines below each other in black, in a font that has their letters where there is one."""
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        draw.text((left, top + number * LINE_HEIGHT_PX), line, fill="black", font=_font_for(line))


def _font_for(text: str):
    """The first font that has all letters of `text`, else Pillow's own, which draws boxes for what it
    lacks."""
    if all(ord(letter) < 128 for letter in text):
        return _fonts()[0]
    return max(_fonts(), key=lambda font: sum(_has(font, letter) for letter in set(text)))


@functools.cache
def _fonts() -> tuple:
    fonts = [ImageFont.load_default(FONT_SIZE_PX)]
    names = list(_WIDER_FONTS)
    if spec := importlib.util.find_spec("matplotlib"):  # It carries DejaVu Sans; found without importing it.
        names.append(str(Path(spec.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf"))
    for name in names:
        try:
            fonts.append(ImageFont.truetype(name, FONT_SIZE_PX))
        except OSError:
            continue
    return tuple(fonts)


@functools.lru_cache(maxsize=4096)
def _has(font, letter: str) -> bool:
    """Whether a font draws something else for `letter` than its sign for an unknown one."""
    if letter.isspace():
        return True
    unknown, mask = font.getmask("\U0010fffd"), font.getmask(letter)
    return (mask.size, bytes(mask)) != (unknown.size, bytes(unknown))
