"""Decoding: every format, mode and rotation against a picture of four coloured quadrants."""

import io
import struct
import subprocess
import sys
import threading
import warnings
import zlib

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from captioner.images import ImageError, decode_image, decode_in_graph, read_image
from captioner.images.decode import is_plain_jpeg

RED, GREEN, BLUE, GREY = (224, 32, 32), (32, 192, 32), (32, 32, 224), (128, 128, 128)


def quadrants(height=32, width=48):
    """uint8 (H, W, 3): red | green above blue | grey, so that every turn and mirror looks different."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2] = RED
    picture[: height // 2, width // 2 :] = GREEN
    picture[height // 2 :, : width // 2] = BLUE
    picture[height // 2 :, width // 2 :] = GREY
    return picture


def encoded(image, kind, **options):
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("JPEG", {"quality": 95, "subsampling": 0}, 4),
        ("JPEG", {"quality": 95, "subsampling": 0, "progressive": True}, 4),
        ("PNG", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("BMP", {}, 0),
        ("GIF", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
    ],
)
def test_each_format_gives_the_picture(kind, options, tolerance):
    decoded = decode_image(encoded(quadrants(), kind, **options))
    assert decoded.dtype == np.uint8
    np.testing.assert_allclose(decoded.astype(int), quadrants(), atol=tolerance)


def test_grey_is_repeated_in_three_channels():
    grey = np.arange(35, dtype=np.uint8).reshape(5, 7)
    np.testing.assert_array_equal(decode_image(encoded(grey, "PNG")), np.stack([grey] * 3, -1))


def test_cmyk_jpeg_is_converted_to_rgb():
    data = encoded(Image.fromarray(quadrants()).convert("CMYK"), "JPEG", quality=95)
    np.testing.assert_allclose(decode_image(data)[4, 4].astype(int), RED, atol=8)


@pytest.mark.parametrize(("alpha", "expected"), [(255, RED), (0, (255, 255, 255)), (128, (239, 143, 143))])
def test_transparency_shows_white(alpha, expected):
    data = encoded(Image.new("RGBA", (3, 2), (*RED, alpha)), "PNG")
    np.testing.assert_allclose(decode_image(data)[1, 2].astype(int), expected, atol=1)


def test_grey_with_alpha_shows_white():
    data = encoded(Image.new("LA", (3, 2), (10, 0)), "PNG")
    assert (decode_image(data) == 255).all()


def test_a_transparent_palette_entry_shows_white():
    image = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    image.putpalette([*RED, *GREEN])
    decoded = decode_image(encoded(image, "PNG", transparency=bytes([255, 0])))
    assert decoded.tolist() == [[list(RED), [255, 255, 255]]]


def test_sixteen_bits_are_scaled_and_not_clipped():
    samples = np.array([[0, 256, 32768, 65535]], np.uint16)
    assert decode_image(encoded(samples, "PNG"))[0, :, 1].tolist() == [0, 1, 128, 255]


def test_samples_without_a_white_are_refused():
    with pytest.raises(ImageError, match="32-bit samples"):
        decode_image(encoded(Image.new("F", (3, 2), 0.5), "TIFF"))


def test_the_first_frame_of_an_animation_is_taken():
    frames = [Image.new("RGB", (4, 3), color) for color in (RED, GREEN)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(data)[0, 0].tolist() == list(RED)


# What a camera stores for each orientation, written with NumPy instead of Pillow's transpositions.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_turned_upright(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    stored = np.ascontiguousarray(STORED[orientation](quadrants()))
    data = encoded(stored, kind, exif=exif, **options)
    np.testing.assert_allclose(decode_image(data).astype(int), quadrants(), atol=4)
    in_graph = next(iter(tf.data.Dataset.from_tensors(data).map(decode_in_graph)))
    np.testing.assert_array_equal(in_graph, decode_image(data))


def test_a_broken_exif_block_counts_as_none():
    data = encoded(
        quadrants(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff\x12\x01", quality=95, subsampling=0
    )
    np.testing.assert_allclose(decode_image(data).astype(int), quadrants(), atol=4)


def png_claiming(width, height):
    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"0"))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [50_000, 11_000])
def test_a_bomb_is_refused_by_its_header(side):
    with pytest.raises(ImageError, match=r"pixels.*limit"):
        decode_image(png_claiming(side, side))


def test_max_pixels_is_the_last_size_that_is_accepted():
    data = encoded(quadrants(), "PNG")
    assert decode_image(data, max_pixels=32 * 48).shape == (32, 48, 3)
    with pytest.raises(ImageError, match="48 x 32 = 1,536 pixels, the limit is 1,535"):
        decode_image(data, max_pixels=32 * 48 - 1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_truncated_image_is_refused(kind):
    noise = np.random.default_rng(0).integers(0, 256, (60, 70, 3), dtype=np.uint8)
    data = encoded(noise, kind)
    with pytest.raises(ImageError) as caught:
        decode_image(data[: len(data) // 2])
    assert "\n" not in str(caught.value)


def test_empty_and_foreign_bytes_are_refused():
    with pytest.raises(ImageError, match="empty"):
        decode_image(b"")
    with pytest.raises(ImageError, match="begins with b'<html>"):
        decode_image(b"<html>not found</html>")
    with pytest.raises(TypeError, match="read_image"):
        decode_image("photo.jpg")


def test_read_image_names_the_file(tmp_path):
    good, text = tmp_path / "good.png", tmp_path / "text.jpg"
    good.write_bytes(encoded(quadrants(), "PNG"))
    text.write_text("no picture")
    np.testing.assert_array_equal(read_image(good), quadrants())
    for path in (text, tmp_path / "missing.jpg", tmp_path):
        with pytest.raises(ImageError) as caught:
            read_image(path)
        assert str(caught.value).startswith(f"{path}: ")


def test_a_file_above_the_size_limit_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "big.png"
    path.write_bytes(encoded(quadrants(), "PNG"))
    monkeypatch.setattr("captioner.images.decode.MAX_FILE_BYTES", 10)
    with pytest.raises(ImageError, match=r"big\.png: the file has"):
        read_image(path)


def test_pillow_warnings_stay_inside_and_the_filters_are_restored():
    data = png_claiming(9_500, 9_500)  # above the size at which Pillow warns, below ours
    before = list(warnings.filters)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        threads = [threading.Thread(target=decodes_or_is_refused, args=(data, 10**8)) for _ in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert seen == []
    assert list(warnings.filters) == before


def test_the_graph_gives_the_same_pixels_by_the_short_way_and_by_the_long_one():
    noise = np.random.default_rng(1).integers(0, 256, (45, 67, 3), dtype=np.uint8)
    plain = [
        encoded(noise, "JPEG"),
        encoded(noise, "JPEG", progressive=True),
        encoded(noise[:, :, 0], "JPEG"),
    ]
    other = [encoded(noise, "PNG"), encoded(Image.fromarray(noise).convert("CMYK"), "JPEG")]
    assert [bool(is_plain_jpeg(data, 10**6)) for data in plain + other] == [True] * 3 + [False] * 2
    dataset = tf.data.Dataset.from_tensor_slices(plain + other).map(decode_in_graph)
    assert dataset.element_spec.shape.as_list() == [None, None, 3]
    for data, decoded in zip(plain + other, dataset, strict=True):
        np.testing.assert_array_equal(decoded, decode_image(data))


@pytest.mark.parametrize(
    "data",
    [b"text", encoded(quadrants(), "JPEG")[:300], png_claiming(50_000, 50_000)],
    ids=["text", "cut", "bomb"],
)
def test_the_graph_refuses_what_decode_image_refuses(data):
    with pytest.raises(tf.errors.InvalidArgumentError):
        next(iter(tf.data.Dataset.from_tensors(data).map(decode_in_graph)))
    with pytest.raises(ImageError):
        decode_in_graph(tf.constant(data))


def test_importing_images_leaves_tensorflow_alone():
    code = "import sys, captioner.images; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


SEEDS = [encoded(quadrants(), kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")]


def decodes_or_is_refused(data, max_pixels=10**6):
    try:
        decoded = decode_image(data, max_pixels)
    except ImageError as error:
        assert "\n" not in str(error)
    else:
        assert decoded.dtype == np.uint8 and decoded.shape[2] == 3


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=0, max_size=200))
def test_random_bytes_decode_or_are_refused(data):
    decodes_or_is_refused(data)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8),
    st.integers(0, 100),
)
def test_mutated_images_decode_or_are_refused(data, changes, cut):
    mutated = bytearray(data)
    for position, value in changes:
        mutated[position % len(data)] = value
    decodes_or_is_refused(bytes(mutated[: len(data) - (cut if cut < 30 else 0)]))
