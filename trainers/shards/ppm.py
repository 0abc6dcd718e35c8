"""Uncompressed images as PPM, which every engine reads to the same pixels. Axes: H rows, W columns."""

import numpy as np

BLANK = b"P6 1 1 255\n\0\0\0"
"""A black pixel, in the place of what cannot be read."""


def encode_ppm(image: np.ndarray) -> bytes:
    """The bytes of a PPM (P6) of a uint8 image `(H, W, 3)`."""
    height, width, _ = image.shape
    return b"P6 %d %d 255\n" % (width, height) + image.tobytes()


def decode_ppm(data, size):
    """The pixels of a PPM in a graph.

    Args:
        data: string tensor `()`. What `encode_ppm` gave.
        size: int32 tensor `(2,)`. H and W.

    Returns:
        uint8 tensor `(H, W, 3)`.
    """
    import tensorflow as tf

    length = 3 * size[0] * size[1]
    pixels = tf.strings.substr(data, tf.strings.length(data) - length, length)
    return tf.reshape(tf.io.decode_raw(pixels, tf.uint8), (size[0], size[1], 3))
