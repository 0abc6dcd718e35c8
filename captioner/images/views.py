"""From an encoded image to what the model sees of it, decoding no more than that takes.

Axes: H, W rows and columns of the image; h, w of the result.
"""

import functools

import numpy as np

from captioner.images.augment import Augmentation
from captioner.images.decode import MAX_PIXELS, decode_image, plain_jpeg_size
from captioner.images.transform import ImageTransform
from captioner.python_calls import python_call

RATIOS = (1, 2, 4, 8)
"""What a JPEG decoder can divide the size of an image by."""

MAX_SCALED_LOSS = 2.0
"""How much a JPEG may lose by decoding it smaller, see `jpeg_ratio`; 2 keeps 95% of photos within one grey level."""


_MARGIN = 2


def load_view(
    data,
    transform: ImageTransform,
    augmentation: Augmentation | None = None,
    seed=(0, 0),
    allow_flip=True,
    max_pixels: int = MAX_PIXELS,
):
    """Loads an image for training in a tf.data pipeline.

    The result is `augmentation(decode_in_graph(data), transform, seed, allow_flip)`, but large JPEGs may be decoded at a
    fraction of their size first, which changes pixels a little; see `jpeg_ratio`.

    Args:
        data: string tensor `()`. The content of an image file of any kind.
        transform: ImageTransform.
        augmentation: Augmentation, or None for the transform alone.
        seed: int32 tensor `(2,)`. Of the augmentation.
        allow_flip: bool tensor `()`.
        max_pixels: int. Largest H*W that is accepted.

    Returns:
        float32 tensor `(h, w, 3)` with static shape.

    Raises:
        tf.errors.InvalidArgumentError: If the image cannot be decoded; it quotes the `ImageError`.
    """
    import tensorflow as tf

    size = functools.partial(plain_jpeg_size, max_pixels=max_pixels)
    size = tf.ensure_shape(tf.numpy_function(python_call(size), [data], tf.int32, stateful=False), (2,))
    given = (transform, augmentation, seed, allow_flip)

    def by_pillow():
        decode = functools.partial(decode_image, max_pixels=max_pixels)
        image = tf.numpy_function(python_call(decode), [data], tf.uint8, stateful=False)
        return view_of_image(tf.ensure_shape(image, (None, None, 3)), *given)

    return tf.cond(size[0] > 0, lambda: view_of_jpeg(data, size, *given), by_pillow)


def view_of_image(image, transform: ImageTransform, augmentation: Augmentation | None, seed, allow_flip):
    """What the model sees of a decoded image: float32 `(h, w, 3)`. Args: as for `load_view`."""
    if augmentation is None:
        return transform(image)
    return augmentation(image, transform, seed, allow_flip)


def view_of_jpeg(data, size, transform: ImageTransform, augmentation: Augmentation | None, seed, allow_flip):
    """What the model sees of a JPEG that every decoder reads alike: float32 `(h, w, 3)`.

    Args:
        data: string tensor `()`.
        size: int32 tensor `(2,)`. H and W.
        transform, augmentation, seed, allow_flip: as for `load_view`.
    """
    import tensorflow as tf

    augmentation = augmentation or Augmentation()
    variation = augmentation.variation(size[0], size[1], seed, allow_flip)
    top, left, rows, columns = variation.crop
    box_top, box_left, rows, columns = transform.box(rows, columns)
    box = (top + box_top, left + box_left, rows, columns)
    num_bits = 8 * tf.strings.length(data)
    ratio = jpeg_ratio(num_bits, size, (rows, columns), transform.resized_size(rows, columns))
    if transform.interpolation != "bilinear":  # the rule was measured with it
        ratio = tf.constant(1)
    pixels, first = _decoded_box(data, size, box, ratio)
    resized = transform.resized_box(
        pixels, (box[0] - ratio * first[0], box[1] - ratio * first[1], rows, columns), ratio
    )
    return augmentation.finished(resized, transform, variation)


def jpeg_ratio(num_bits, size, box_size, resized_size):
    """The largest ratio that a JPEG may be decoded at before a box of it is resized.

    Decoding at 1/r loses detail that the antialiased filter of the resize would have kept in part. It loses less the
    smaller the result is, and the fewer bits a pixel has, since detail costs bits: the difference in grey levels was
    found to grow with `r**3 * bits per pixel / (pixels of the box / pixels of the result)`; res/docs/decisions/009.

    Args:
        num_bits: int32 tensor `()`. Length of the JPEG.
        size: int32 tensor `(2,)`. H and W.
        box_size: two int32 tensors `()`. Height and width of the box.
        resized_size: two int32 tensors `()`. Height and width of the result.

    Returns:
        int32 tensor `()`, one of `RATIOS`.
    """
    import tensorflow as tf

    shrinkage = [
        tf.cast(old, tf.float32) / tf.cast(new, tf.float32)
        for old, new in zip(box_size, resized_size, strict=True)
    ]
    bits_per_pixel = tf.cast(num_bits, tf.float32) / tf.reduce_prod(tf.cast(size, tf.float32))
    ratios = np.array(RATIOS, "float32")
    good = ratios**3 * bits_per_pixel <= MAX_SCALED_LOSS * shrinkage[0] * shrinkage[1]
    good &= ratios <= tf.minimum(*shrinkage)  # no enlarging afterwards
    return tf.cast(tf.reduce_max(tf.where(good, ratios, 1.0)), tf.int32)


def _decoded_box(data, size, box, ratio):
    """The pixels of a JPEG, decoded smaller, that a box touches, and the row and column of the first of them."""
    import tensorflow as tf

    top, left, rows, columns = box
    first, end = tf.stack([top, left]) // ratio, -(-tf.stack([top + rows, left + columns]) // ratio)
    # At the edge of what it decodes, libjpeg interpolates colours from fewer pixels.
    from_pixel, to_pixel = tf.maximum(first - _MARGIN, 0), tf.minimum(end + _MARGIN, -(-size // ratio))
    decode = functools.partial(
        tf.io.decode_and_crop_jpeg,
        data,
        tf.concat([from_pixel, to_pixel - from_pixel], 0),
        channels=3,
        fancy_upscaling=True,
        dct_method="INTEGER_ACCURATE",  # these settings give Pillow's pixels
    )
    branches = [functools.partial(decode, ratio=static) for static in RATIOS]
    pixels = tf.switch_case(tf.argmax(tf.equal(RATIOS, ratio), output_type=tf.int32), branches)
    (top, left), (bottom, right) = tf.unstack(first - from_pixel), tf.unstack(end - from_pixel)
    return pixels[top:bottom, left:right], tf.unstack(first)
