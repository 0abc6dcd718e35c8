"""Varies an image at random for training. Axes: H, W rows and columns of the image; h, w of the result."""

import dataclasses
import math
from typing import Any

from captioner.images.transform import ImageTransform, as_image

MAX_STRETCH = 4 / 3
"""Largest change of the aspect ratio by a random crop, either way."""

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random resized crop, horizontal flip and colour jitter, as a function of the seed alone.

    With every setting off, the result is exactly that of the plain transform. Each setting has random numbers
    of its own: switching one on leaves the draws of the others as they were.

    A crop keeps a share of the area between `min_crop_area` and 1. Its aspect ratio is that of the whole
    image times 3/4..4/3 (less, where the crop would not fit), so that each resize mode distorts crops as it
    distorts whole images. The image is cropped before it is resized.

    Call arguments:
        image: uint8 or float tensor or array `(H, W, 3)`, values 0..255.
        transform: ImageTransform. Brings the crop to the size of the model.
        seed: int32 tensor `(2,)`, for example (seed of the epoch, index of the image).
        allow_flip: bool or bool tensor `()`. False keeps the sides, for captions that say left or right.

    Returns:
        float32 tensor `(h, w, 3)` with static shape, values 0..255.

    Raises:
        ValueError: If a setting or the shape of the image is impossible.
    """

    min_crop_area: float = 1.0
    """Smallest share of the image's area that a random crop keeps; 1 keeps the whole image."""
    horizontal_flip: bool = False
    """Mirrors every second image, by chance."""
    color_jitter: float = 0.0
    """Largest relative change of brightness, contrast and saturation; 0.2 is mild, 0 is off."""

    def __post_init__(self) -> None:
        if not 0.0 < self.min_crop_area <= 1.0:
            raise ValueError(
                f"`min_crop_area` must be above 0 and at most 1; received min_crop_area={self.min_crop_area}."
            )
        if not 0.0 <= self.color_jitter < 1.0:
            raise ValueError(
                f"`color_jitter` must be at least 0 and below 1; received color_jitter={self.color_jitter}."
            )

    def __call__(self, image, transform: ImageTransform, seed, allow_flip=True):
        import tensorflow as tf

        image = as_image(image)
        rows, columns = tf.unstack(tf.shape(image)[:2])
        variation = self.variation(rows, columns, seed, allow_flip)
        top, left, crop_rows, crop_columns = variation.crop
        image = image[top : top + crop_rows, left : left + crop_columns]
        return self.finished(transform.resized(image), transform, variation)

    def finished(self, image, transform: ImageTransform, variation: "Variation"):
        """What is done after resizing: colours, flip and margins.

        Args:
            image: float32 tensor `(<=h, <=w, 3)`. What `transform.resized` gave of the crop.
            transform: ImageTransform.
            variation: Variation.

        Returns:
            float32 tensor `(h, w, 3)`.
        """
        import tensorflow as tf

        if self.color_jitter > 0.0:
            matrix, mean_matrix = variation.color_matrices()
            image = tf.tensordot(image, matrix, 1) + tf.linalg.matvec(
                mean_matrix, tf.reduce_mean(image, [0, 1]), transpose_a=True
            )
            image = tf.clip_by_value(image, 0.0, 255.0)
        if self.horizontal_flip:
            image = tf.where(variation.flip, tf.reverse(image, [1]), image)
        return transform.padded(image)  # last, so that the margins are the same as in captioning

    def variation(self, rows, columns, seed, allow_flip=True) -> "Variation":
        """What is done to an image, from its size and seed alone, before a pixel is known.

        Args:
            rows: int32 tensor `()`. H.
            columns: int32 tensor `()`. W.
            seed: int32 tensor `(2,)`.
            allow_flip: bool or bool tensor `()`.
        """
        import tensorflow as tf

        # One draw serves all settings; the algorithm is named, because "auto" depends on the device.
        draws = tf.unstack(tf.random.stateless_uniform((8,), seed, alg="philox"))
        crop = (tf.constant(0), tf.constant(0), rows, columns)
        if self.min_crop_area < 1.0:
            crop = _crop(rows, columns, self.min_crop_area, *draws[:4])
        brightness, contrast, saturation = (
            1.0 + self.color_jitter * (2.0 * draw - 1.0) for draw in draws[4:7]
        )
        flip = tf.logical_and(draws[7] < 0.5, allow_flip) if self.horizontal_flip else tf.constant(False)
        return Variation(
            crop=crop, flip=flip, brightness=brightness, contrast=contrast, saturation=saturation
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variation:
    """What an `Augmentation` does to one image."""

    crop: tuple
    """Four int32 tensors `()`: first row, first column, number of rows, number of columns that are kept."""
    flip: Any
    """bool tensor `()`: True mirrors."""
    brightness: Any
    """float32 tensor `()`: scales the colours."""
    contrast: Any
    """float32 tensor `()`: scales their distance to the mean grey of the image, after the brightness."""
    saturation: Any
    """float32 tensor `()`: scales their distance to the grey of each pixel, after the contrast."""

    def color_matrices(self):
        """The three factors as one linear map: `image @ matrix + mean colour @ mean_matrix`, then cut to 0..255.

        Returns:
            Two float32 tensors `(3, 3)`: matrix, mean_matrix.
        """
        import tensorflow as tf

        grey = tf.tile(tf.constant(_LUMA)[:, None], [1, 3])  # colours @ grey: the grey of each, three times
        matrix = self.saturation * tf.eye(3) + (1.0 - self.saturation) * grey
        return (
            self.brightness * self.contrast * matrix,
            self.brightness * (1.0 - self.contrast) * grey,
        )


def _crop(rows, columns, min_area: float, area_draw, ratio_draw, top_draw, left_draw):
    import tensorflow as tf

    area = min_area + (1.0 - min_area) * area_draw
    # log(w/W : h/H); the bound by the area keeps both sides within the image.
    log_limit = tf.minimum(math.log(MAX_STRETCH), -tf.math.log(area))
    log_ratio = (2.0 * ratio_draw - 1.0) * log_limit
    crop_rows = _crop_side(rows, tf.sqrt(area) * tf.exp(-log_ratio / 2.0))
    crop_columns = _crop_side(columns, tf.sqrt(area) * tf.exp(log_ratio / 2.0))
    top = _offset(rows - crop_rows, top_draw)
    left = _offset(columns - crop_columns, left_draw)
    return top, left, crop_rows, crop_columns


def _crop_side(side, share):
    import tensorflow as tf

    return tf.clip_by_value(tf.cast(tf.round(tf.cast(side, tf.float32) * share), tf.int32), 1, side)


def _offset(slack, draw):
    import tensorflow as tf

    return tf.minimum(tf.cast(draw * tf.cast(slack + 1, tf.float32), tf.int32), slack)
