"""Which JPEGs every decoder reads; TensorFlow's decoder is held against them."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from captioner.images import ImageError, decode_image, is_plain_jpeg
from captioner.images.jpeg import read_header

NOISE = Image.fromarray(np.random.default_rng(1).integers(0, 256, (33, 47, 3), dtype="uint8"))
ADOBE_RGB = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"  # transform 0: the components are R, G and B


def jpeg(image=NOISE, **options):
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


BASELINE, PROGRESSIVE = jpeg(), jpeg(progressive=True)
FRAME = BASELINE.index(b"\xff\xc0")


def replaced(data, position, value):
    return data[:position] + bytes([value]) + data[position + 1 :]


WHOLE = {
    "baseline": BASELINE,
    "progressive": PROGRESSIVE,
    "grey": jpeg(NOISE.convert("L")),
    "full chroma": jpeg(subsampling=0),
    "optimized": jpeg(subsampling=2, optimize=True),
    "restarts": jpeg(restart_marker_blocks=1),
    "end mark in the notes": jpeg(exif=b"Exif\0\0" + b"\xff\xd9" * 50),
    "garbage behind": BASELINE + b"anything at all",
    "fill bytes": BASELINE[:2] + b"\xff\xff" + BASELINE[2:],
}
RARE_OR_CUT = {
    "empty": b"",
    "start": b"\xff\xd8",
    "short": b"\xff\xd8\xff",
    "no picture": b"\xff\xd8\xff\xd9",
    "garbage before": b"garbage" + BASELINE,
    "without a byte": BASELINE[:-1],
    "without its end": BASELINE[:-2],
    "CMYK": jpeg(NOISE.convert("CMYK")),
    "RGB": BASELINE[:2] + ADOBE_RGB + BASELINE[2:],
    "arithmetic codes": replaced(BASELINE, FRAME + 1, 0xC9),
    "lossless": replaced(BASELINE, FRAME + 1, 0xC3),
    "12 bits": replaced(BASELINE, FRAME + 4, 12),
    "much chroma": replaced(BASELINE, FRAME + 14, 0x22),
    "two frames": BASELINE[:FRAME] + 2 * BASELINE[FRAME : FRAME + 19] + BASELINE[FRAME + 19 :],
}


@pytest.mark.parametrize("data", WHOLE.values(), ids=WHOLE)
def test_a_whole_jpeg_is_common(data):
    assert read_header(data) is not None
    decode_image(data)


@pytest.mark.parametrize("data", RARE_OR_CUT.values(), ids=RARE_OR_CUT)
def test_a_rare_or_cut_jpeg_is_not(data):
    assert read_header(data) is None


@pytest.mark.parametrize("whole", [BASELINE, PROGRESSIVE], ids=["baseline", "progressive"])
def test_tensorflow_decodes_every_damaged_jpeg_that_is_called_plain(whole):
    random = np.random.default_rng(0)
    damaged = [whole[:length] for length in range(2, len(whole), 23)] + [whole[:-1], whole[:-2]]
    for _ in range(400):
        flipped = bytearray(whole)
        flipped[random.integers(2, len(whole))] ^= 1 << random.integers(8)
        damaged.append(bytes(flipped))
    num_plain = 0
    for data in filter(is_plain_jpeg, damaged):
        try:
            expected = decode_image(data)
        except ImageError:
            continue
        num_plain += 1
        decoded = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE", fancy_upscaling=True)
        np.testing.assert_array_equal(decoded, expected)
    assert num_plain > 100  # or this test has shown nothing
