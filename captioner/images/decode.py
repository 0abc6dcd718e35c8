"""Decodes the bytes of a photo, of any usual format and mode, to upright RGB. Axes: H rows, W columns."""

import contextlib
import functools
import io
import os
import re
import stat
import threading
import warnings
from collections.abc import Iterator

import numpy as np

# TIFF and WebP are not among the formats that Pillow registers by itself before it has to search all of them.
from PIL import Image, TiffImagePlugin, WebPImagePlugin  # noqa: F401

from captioner.images.jpeg import read_header
from captioner.python_calls import python_call

MAX_PIXELS = 100_000_000
"""Largest H*W that is decoded; an image of this size takes about 1 GB while it is decoded, with transparency 1.7."""

MAX_FILE_BYTES = 256 * 1024**2
"""Largest file that is read."""

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {  # EXIF orientation -> what turns the stored picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(ValueError):
    """Says in one line why an image cannot be used."""


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decodes JPEG, PNG, WebP, BMP, GIF or TIFF to upright RGB.

    EXIF rotation is applied (an unreadable EXIF block counts as none). Transparency is composited on white.
    Of an animation the first frame is taken; of 16-bit samples the high byte. Colour profiles are not
    applied. The size in the header is checked before memory for the pixels is taken. Safe to call from
    several threads.

    Args:
        data: bytes. The content of an image file.
        max_pixels: int. Largest H*W that is accepted; Pillow's own limit of about 179 million holds as well.

    Returns:
        Read-only uint8 array `(H, W, 3)`.

    Raises:
        ImageError: If the bytes are not a whole image of these formats, or too large.
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(
            f"`data` must be the bytes of an image file (for a path, use read_image); "
            f"received {type(data).__name__}."
        )
    if len(data) == 0:
        raise ImageError("the image is empty (0 bytes)")
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(f"the image has {len(data):,} bytes, the limit is {MAX_FILE_BYTES:,}")
    with _without_pillow_warnings():
        try:
            return _decode(data, max_pixels)
        except ImageError:
            raise
        except Image.UnidentifiedImageError:
            raise ImageError(
                f"not a readable {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]} image; "
                f"it begins with {bytes(data[:12])!r}"
            ) from None
        except Exception as error:  # broken bytes make Pillow raise nearly every built-in error
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ImageError(f"the image cannot be decoded: {reason}") from error


def read_image(path: str | os.PathLike, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Reads and decodes an image file.

    Args:
        path: path. An image file.
        max_pixels: int. Largest H*W that is accepted.

    Returns:
        Read-only uint8 array `(H, W, 3)`, as `decode_image` gives it.

    Raises:
        ImageError: If the file cannot be read or decoded; the message begins with the path.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device may never end
            raise ImageError("not a file")
        if status.st_size > MAX_FILE_BYTES:
            raise ImageError(f"the file has {status.st_size:,} bytes, the limit is {MAX_FILE_BYTES:,}")
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        return decode_image(data, max_pixels)
    except ImageError as error:
        raise ImageError(f"{os.fspath(path)}: {error}") from error
    except (OSError, ValueError) as error:  # NUL in a path is a ValueError
        raise ImageError(f"{os.fspath(path)}: {getattr(error, 'strerror', None) or error}") from error


def decode_in_graph(data, max_pixels: int = MAX_PIXELS):
    """Decodes in a tf.data pipeline, to the same pixels as `decode_image`.

    Args:
        data: string tensor `()`. The content of an image file.
        max_pixels: int. Largest H*W that is accepted.

    Returns:
        uint8 tensor `(H, W, 3)`; H and W are unknown in a graph.

    Raises:
        tf.errors.InvalidArgumentError: If the image cannot be decoded; it quotes the `ImageError`.
        ImageError: The same, when called eagerly.
    """
    import tensorflow as tf

    data = tf.convert_to_tensor(data, tf.string)
    if tf.executing_eagerly():  # numpy_function would hand over an array that drops trailing NULs
        return tf.convert_to_tensor(decode_image(data.numpy(), max_pixels))

    def by_pillow():
        decode = functools.partial(decode_image, max_pixels=max_pixels)
        return tf.numpy_function(python_call(decode), [data], tf.uint8, stateful=False)

    def by_tensorflow():  # these settings give Pillow's pixels
        return tf.io.decode_jpeg(data, channels=3, fancy_upscaling=True, dct_method="INTEGER_ACCURATE")

    is_plain = functools.partial(is_plain_jpeg, max_pixels=max_pixels)
    is_plain = tf.ensure_shape(tf.numpy_function(python_call(is_plain), [data], tf.bool, stateful=False), ())
    return tf.ensure_shape(tf.cond(is_plain, by_tensorflow, by_pillow), (None, None, 3))


def is_plain_jpeg(data: bytes, max_pixels: int = MAX_PIXELS) -> np.bool_:
    """True for an upright grey or colour JPEG of an allowed size that every decoder reads alike.

    It is told by the markers alone. False for a JPEG that ends early, though `decode_image` may take it:
    other decoders refuse it.
    """
    return plain_jpeg_size(data, max_pixels).all()


def plain_jpeg_size(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Height and width of a JPEG for which `is_plain_jpeg`, else two zeros: int32 `(2,)`."""
    none = np.zeros(2, "int32")
    if (header := read_header(data)) is None:
        return none
    if not header.may_be_turned:  # then Pillow has nothing to add
        fits = 0 < header.height * header.width <= min(max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or max_pixels))
        return np.array([header.height, header.width], "int32") if fits else none
    with _without_pillow_warnings():
        try:
            with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
                _check_size(image, max_pixels)
                is_plain = image.mode in ("L", "RGB") and _orientation(image) not in _UPRIGHT
                return np.array(image.size[::-1], "int32") if is_plain else none
        except Exception:  # decode_image will say what is wrong
            return none


def _decode(data: bytes, max_pixels: int) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        _check_size(image, max_pixels)
        image.load()
        _check_size(image, max_pixels)
        # Asked after loading: a TIFF has turned itself by then, a PNG may hold its EXIF behind the pixels.
        turn = _UPRIGHT.get(_orientation(image))
        rgb = _to_rgb(image)
        return np.asarray(rgb if turn is None else rgb.transpose(turn))


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError(f"the image has no pixels ({width} x {height})")
    if width * height > max_pixels:
        raise ImageError(
            f"the image has {width} x {height} = {width * height:,} pixels, the limit is {max_pixels:,}"
        )


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # the picture is whole, only the notes beside it are broken
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        samples = np.asarray(image)
        grey = (samples >> 8).astype(np.uint8)
        if "transparency" in image.info:
            grey[samples == image.info["transparency"]] = 255
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("I", "F"):
        raise ImageError("the image has 32-bit samples, whose white is unknown; save it with 8 or 16 bits")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


_IGNORE_PILLOW = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
_lock = threading.Lock()
_num_decoding = 0


@contextlib.contextmanager
def _without_pillow_warnings() -> Iterator[None]:
    """Ignores Pillow's warnings while any thread decodes; catch_warnings would race between threads."""
    global _num_decoding
    with _lock:
        _num_decoding += 1
        if _IGNORE_PILLOW not in warnings.filters:
            warnings.filters.insert(0, _IGNORE_PILLOW)
    try:
        yield
    finally:
        with _lock:
            _num_decoding -= 1
            if _num_decoding == 0:
                with contextlib.suppress(ValueError):  # the caller may have replaced the filters meanwhile
                    warnings.filters.remove(_IGNORE_PILLOW)
