"""DALI gives the pixels of captioner.images, in the order of its input, with the numbers that belong to them."""

import io
import resource
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from captioner.images import (
    Augmentation,
    ImageError,
    ImageTransform,
    decode_image,
    decode_in_graph,
    is_plain_jpeg,
)
from trainers.shards.dali_decode import decode_batches, is_available

PHOTOS = [path.read_bytes() for path in sorted(Path("res/photos").glob("*.jpg"))]
SMALL = ImageTransform(image_size=(24, 20))
CROP = Augmentation(min_crop_area=0.3)
ALL = Augmentation(min_crop_area=0.3, horizontal_flip=True, color_jitter=0.3)

with_dali = [
    pytest.mark.dali,
    pytest.mark.skipif(not is_available(), reason="needs DALI; run `captioner doctor --install-dali`"),
]


def ppm(image: np.ndarray) -> bytes:
    height, width = image.shape[:2]
    return b"P6 %d %d 255\n" % (width, height) + image.tobytes()


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded_batches(images, data, *, batch_size: int) -> tf.data.Dataset:
    """Batches as the reader gives them; sample n has the seed (7, n), and may be flipped unless 3 divides n."""
    numbers = np.arange(len(data), dtype="int32")
    encoded = {
        "data": tf.constant(data, tf.string),
        "size": np.array([image.shape[:2] for image in images], "int32").reshape(-1, 2),
        "seed": np.stack([np.full_like(numbers, 7), numbers], axis=1),
        "allow_flip": numbers % 3 > 0,
    }
    rest = {
        "token_ids": np.arange(len(data) * 6, dtype="int32").reshape(-1, 2, 3),
        "padding_mask": np.arange(len(data) * 6).reshape(-1, 2, 3) % 5 > 1,
        "sample_weight": np.linspace(0, 1, len(data) * 2, dtype="float32").reshape(-1, 2),
        "number": numbers.astype("int64"),
    }
    return tf.data.Dataset.from_tensor_slices((encoded, rest)).batch(batch_size)


def decoded(images, data=None, *, batch_size=8, transform=SMALL, augmentation=None, input_batch_size=None):
    """All batches, as a list of (images, rest) in NumPy."""
    data = [ppm(image) for image in images] if data is None else data
    batches = encoded_batches(images, data, batch_size=input_batch_size or batch_size)
    results = decode_batches(batches, batch_size=batch_size, transform=transform, augmentation=augmentation)
    return list(results.as_numpy_iterator())


def pixels(batches) -> np.ndarray:
    return np.concatenate([images for images, rest in batches])


def reference(images, transform, augmentation) -> np.ndarray:
    def one(n, image):
        if augmentation is None:
            return transform(image)
        return augmentation(image, transform, tf.stack([7, n]), n % 3 > 0)

    spec = (tf.TensorSpec((), tf.int32), tf.TensorSpec((None, None, 3), tf.uint8))
    dataset = tf.data.Dataset.from_generator(lambda: enumerate(images), output_signature=spec)
    return np.stack(list(dataset.map(one).as_numpy_iterator()))


class TestWithDali:
    pytestmark = with_dali

    @pytest.mark.parametrize("augmentation", [None, ALL], ids=["plain", "all"])
    @pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
    @pytest.mark.parametrize("mode", ["stretch", "center_crop", "pad", "crop_from"])
    def test_pixels_are_those_of_the_library(self, mode, interpolation, augmentation):
        mode = {"crop_from": (150, 161)} if mode == "crop_from" else {"resize": mode}
        transform = ImageTransform(image_size=(128, 112), interpolation=interpolation, **mode)
        images = [decode_in_graph(data).numpy() for data in PHOTOS]
        results = pixels(decoded(images, PHOTOS, transform=transform, augmentation=augmentation))
        assert results.shape == (len(PHOTOS), 128, 112, 3) and results.dtype == "float32"
        difference = np.abs(results - reference(images, transform, augmentation)).mean(axis=(1, 2, 3))
        assert difference.max() < 0.1  # grey levels of 255, on average over an image

    @pytest.mark.parametrize("augmentation", [None, ALL], ids=["plain", "all"])
    def test_images_of_any_shape_are_resized_as_the_library_does(self, augmentation):
        images = [noise(*shape) for shape in ((1, 1), (1, 40), (40, 1), (3, 5), (300, 7), (9, 500))]
        results = pixels(decoded(images, augmentation=augmentation))
        difference = np.abs(results - reference(images, SMALL, augmentation)).mean(axis=(1, 2, 3))
        assert difference.max() < 1.0  # noise; the borders are weighed differently

    @pytest.mark.parametrize("batch_size", [8, 32, 64])
    def test_every_sample_comes_once_in_order_and_with_its_own_numbers(self, batch_size):
        images = [np.full((2 + n % 5, 2 + n % 7, 3), n, np.uint8) for n in range(150)]
        batches = decoded(images, batch_size=batch_size)
        sizes = [len(images) for images, rest in batches]
        assert sizes == [batch_size] * (150 // batch_size) + [150 % batch_size]
        np.testing.assert_allclose(pixels(batches).mean(axis=(1, 2, 3)), range(150), atol=1e-3)
        _, rest = next(encoded_batches(images, [b""] * 150, batch_size=150).as_numpy_iterator())
        for name, values in rest.items():
            got = np.concatenate([rest[name] for images, rest in batches])
            assert got.dtype == values.dtype
            np.testing.assert_array_equal(got, values)

    def test_pixels_depend_on_no_other_sample_and_on_no_earlier_epoch(self):
        images = [noise(30, 20 + n, n) for n in range(11)]
        batches = encoded_batches(images, [ppm(image) for image in images], batch_size=4)
        results = decode_batches(batches, batch_size=4, transform=SMALL, augmentation=ALL)
        first = pixels(results.as_numpy_iterator())
        np.testing.assert_array_equal(pixels(results.as_numpy_iterator()), first)
        for batch_size, input_batch_size in ((1, 11), (16, 3)):
            others = decoded(
                images, batch_size=batch_size, input_batch_size=input_batch_size, augmentation=ALL
            )
            np.testing.assert_array_equal(pixels(others), first)

    @pytest.mark.parametrize("num_samples", [0, 1, 8, 9])
    def test_it_ends_with_its_input(self, num_samples):
        batches = decoded([noise(3, 3)] * num_samples)
        assert sum(len(images) for images, rest in batches) == num_samples
        assert all(len(images) > 0 for images, rest in batches)

    def test_its_length_is_unknown_and_not_infinite(self):
        batches = encoded_batches([noise(3, 3)], [ppm(noise(3, 3))], batch_size=1)
        results = decode_batches(batches, batch_size=1, transform=SMALL)
        assert results.cardinality() == tf.data.UNKNOWN_CARDINALITY

    def test_kinds_of_jpeg_are_decoded_to_the_same_pixels(self):
        photo = Image.open(io.BytesIO(PHOTOS[1]))
        settings = [
            {"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2}, {"progressive": True}, {"quality": 1},
            {"restart_marker_blocks": 3}, {"exif": b"Exif\0\0garbage"},
        ]  # fmt: skip
        data = [jpeg(photo, **setting) for setting in settings] + [
            jpeg(photo.convert("L")),
            PHOTOS[1] + b"x" * 999,
        ]
        images = [decode_image(one) for one in data]
        transform = ImageTransform(image_size=(photo.height, photo.width))  # nothing to resize
        np.testing.assert_array_equal(pixels(decoded(images, data, transform=transform)), images)

    def test_damaged_jpegs_that_count_as_plain_are_decoded_to_the_same_pixels(self):
        generator = np.random.default_rng(3)
        photo = jpeg(Image.open(io.BytesIO(PHOTOS[3])).resize((64, 48)))
        images, data = [], []
        while len(data) < 64:
            damaged = bytearray(photo)
            damaged[generator.integers(2, len(photo))] ^= 1 << generator.integers(8)
            try:
                image = decode_image(bytes(damaged))
            except ImageError:
                continue
            if is_plain_jpeg(bytes(damaged)) and image.shape == (48, 64, 3):
                images.append(image)
                data.append(bytes(damaged))
        transform = ImageTransform(image_size=(48, 64))
        results = decoded(images, data, batch_size=32, transform=transform)
        np.testing.assert_array_equal(pixels(results), images)

    def test_memory_stays_flat(self):
        batches = encoded_batches([noise(200, 200)] * 32, [ppm(noise(200, 200))] * 32, batch_size=32)
        transform = ImageTransform(image_size=(128, 128))
        results = decode_batches(batches.repeat(50), batch_size=32, transform=transform, augmentation=CROP)
        peaks = [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss for _ in results]
        assert peaks[-1] - peaks[20] < 10 * 1024  # KiB; one batch takes 6 MiB

    def test_numbers_of_unknown_shape_are_refused(self):
        batches = encoded_batches([noise(3, 3)], [b""], batch_size=1)
        ragged = batches.map(lambda encoded, rest: (encoded, tf.ensure_shape(rest["number"], (None,))))
        ragged = ragged.map(lambda encoded, number: (encoded, tf.zeros((1, number[0]))))
        with pytest.raises(ValueError, match="known shape"):
            decode_batches(ragged, batch_size=1, transform=SMALL)

    def test_an_empty_batch_is_refused(self):
        batches = encoded_batches([noise(3, 3)], [b""], batch_size=1)
        with pytest.raises(ValueError, match="batch_size=0"):
            decode_batches(batches, batch_size=0, transform=SMALL)


def test_without_dali_the_error_names_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia.dali.plugin.tf", None)
    assert not is_available()
    with pytest.raises(ImportError, match="captioner doctor --install-dali"):
        decode_batches(encoded_batches([], [], batch_size=1), batch_size=1, transform=SMALL)


def jpeg(image: Image.Image, **settings) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **settings)
    return file.getvalue()
