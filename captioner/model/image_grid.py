"""The grid that image tokens come from. Axes: B images, h rows, w columns, S image tokens, C channels."""

import math
from typing import NamedTuple


class ImageGrid(NamedTuple):
    """Where image tokens lie in the image: token `num_class_tokens + row*width + column` is a cell."""

    height: int
    """Rows h."""
    width: int
    """Columns w."""
    num_class_tokens: int = 0
    """Tokens in front that are about the whole image: 1 with a class token, 2 with DeiT's distillation token too, else 0."""


def image_grid(features_shape: tuple, image_size: tuple[int, int]) -> ImageGrid:
    """The grid of an image encoder's output.

    A feature map has its own. A sequence is taken for square patches of the image, row by row, with a class token, or a
    class and a distillation token, in front if that is what makes the number of tokens fit.

    Args:
        features_shape: `(B, h, w, C)` or `(B, S, C)`.
        image_size: `(height, width)` in px.

    Raises:
        ValueError: If S tokens are no grid of square patches.
    """
    if len(features_shape) == 4:
        return ImageGrid(features_shape[1], features_shape[2])
    num_tokens, (height_px, width_px) = features_shape[1], image_size
    for num_class_tokens in (0, 1, 2):
        num_cells = num_tokens - num_class_tokens
        height = round(math.sqrt(num_cells * height_px / width_px))
        if height and num_cells % height == 0 and height * width_px == num_cells // height * height_px:
            return ImageGrid(height, num_cells // height, num_class_tokens)
    raise ValueError(
        f"The image encoder gives {num_tokens} tokens for {height_px} x {width_px} px, which is no grid of square patches, "
        "with or without class tokens; attention maps and other image sizes need an encoder with a feature map or a grid."
    )
