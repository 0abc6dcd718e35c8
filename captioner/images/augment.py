"""Varies an image at random for training. Axes: H, W rows and columns of the image; h, w of the result."""

import dataclasses
import math

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

        # One draw serves all settings; the algorithm is named, because "auto" depends on the device.
        draws = tf.unstack(tf.random.stateless_uniform((8,), seed, alg="philox"))
        image = as_image(image)
        if self.min_crop_area < 1.0:
            image = _random_crop(image, self.min_crop_area, *draws[:4])
        image = transform.resized(image)
        if self.color_jitter > 0.0:
            factors = [1.0 + self.color_jitter * (2.0 * draw - 1.0) for draw in draws[4:7]]
            image = _jitter_color(image, *factors)
        if self.horizontal_flip:
            flip = tf.logical_and(draws[7] < 0.5, allow_flip)
            image = tf.where(flip, tf.reverse(image, [1]), image)
        return transform.padded(image)  # last, so that the margins are the same as in captioning


def _random_crop(image, min_area: float, area_draw, ratio_draw, top_draw, left_draw):
    import tensorflow as tf

    rows, columns = tf.unstack(tf.shape(image)[:2])
    area = min_area + (1.0 - min_area) * area_draw
    # log(w/W : h/H); the bound by the area keeps both sides within the image.
    log_limit = tf.minimum(math.log(MAX_STRETCH), -tf.math.log(area))
    log_ratio = (2.0 * ratio_draw - 1.0) * log_limit
    crop_rows = _crop_side(rows, tf.sqrt(area) * tf.exp(-log_ratio / 2.0))
    crop_columns = _crop_side(columns, tf.sqrt(area) * tf.exp(log_ratio / 2.0))
    top = _offset(rows - crop_rows, top_draw)
    left = _offset(columns - crop_columns, left_draw)
    return image[top : top + crop_rows, left : left + crop_columns]


def _crop_side(side, share):
    import tensorflow as tf

    return tf.clip_by_value(tf.cast(tf.round(tf.cast(side, tf.float32) * share), tf.int32), 1, side)


def _offset(slack, draw):
    import tensorflow as tf

    return tf.minimum(tf.cast(draw * tf.cast(slack + 1, tf.float32), tf.int32), slack)


def _jitter_color(image, brightness, contrast, saturation):
    import tensorflow as tf

    # Brightness scales, contrast pulls towards the mean grey, saturation towards the grey of each pixel. All
    # three are linear, so one matrix and one offset apply them in this order; cut to 0..255 once, at the end.
    luma = tf.constant(_LUMA)[:, None]  # (3, 1)
    mean_grey = brightness * tf.reduce_sum(tf.reduce_mean(image, [0, 1])[:, None] * luma)
    matrix = saturation * tf.eye(3) + (1.0 - saturation) * tf.tile(luma, [1, 3])
    image = tf.tensordot(image, brightness * contrast * matrix, 1) + mean_grey * (1.0 - contrast)
    return tf.clip_by_value(image, 0.0, 255.0)
