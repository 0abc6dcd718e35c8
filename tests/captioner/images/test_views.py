"""What the model sees of an encoded image, against decoding it wholly first."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from captioner.images import Augmentation, ImageTransform, decode_in_graph, load_view
from captioner.images.views import jpeg_ratio

VARIED = Augmentation(min_crop_area=0.3, horizontal_flip=True, color_jitter=0.2)


def photo_like(rows, columns, softness=1):
    """Noise at all sizes: the finest has pixels of `softness` px."""
    generator = np.random.default_rng(rows)
    image = np.zeros((rows, columns, 3))
    for size in (1, 2, 4, 8, 16, 32, 64):
        size *= softness
        small = generator.normal(
            0, 6 * size**0.5 / softness**0.5, (-(-rows // size) + 1, -(-columns // size) + 1, 3)
        )
        image += np.kron(small, np.ones((size, size, 1)))[:rows, :columns]
    return Image.fromarray(np.clip(image + 128, 0, 255).astype("uint8"))


def encoded(image, kind="JPEG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def views(files, transform, augmentation, load):
    seeds = np.arange(2 * len(files), dtype="int32").reshape(-1, 2)
    dataset = tf.data.Dataset.from_tensor_slices((files, seeds))
    return list(dataset.map(lambda data, seed: load(data, transform, augmentation, seed)).as_numpy_iterator())


def whole(data, transform, augmentation, seed):
    return (augmentation or Augmentation())(decode_in_graph(data), transform, seed)


@pytest.mark.parametrize(
    ("mode", "augmentation"), [("stretch", None), ("center_crop", VARIED), ("pad", VARIED)]
)
def test_what_is_not_decoded_smaller_has_the_pixels_of_decoding_wholly(mode, augmentation):
    image = photo_like(131, 203)
    files = [
        encoded(image), encoded(image, quality=95, subsampling=0), encoded(image.convert("L")), encoded(image, progressive=True),
        encoded(image, "PNG"), encoded(image.convert("CMYK")), encoded(Image.new("RGB", (1, 1))),
    ] * 2  # fmt: skip
    transform = ImageTransform(image_size=(90, 101), resize=mode)
    for actual, expected in zip(
        views(files, transform, augmentation, load_view),
        views(files, transform, augmentation, whole),
        strict=True,
    ):
        np.testing.assert_allclose(actual, expected, atol=2e-3 if augmentation else 0)


@pytest.mark.parametrize("augmentation", [None, VARIED], ids=["plain", "varied"])
@pytest.mark.parametrize("side", [40, 110, 224])
def test_decoding_smaller_stays_within_a_grey_level(side, augmentation):
    kinds = [(1, 90), (3, 75), (8, 90), (20, 50)]
    files = [encoded(photo_like(701, 907, softness), quality=quality) for softness, quality in kinds]
    transform = ImageTransform(image_size=(side, side + 1), resize="pad" if augmentation else "stretch")
    actual, expected = (views(files, transform, augmentation, load) for load in (load_view, whole))
    assert np.abs(np.array(actual) - expected).mean((1, 2, 3)).max() < 1.0


@pytest.mark.parametrize(
    ("bits_per_pixel", "shrinkage", "ratio"),
    [
        (1.0, (1.9, 9.0), 1),
        (0.3, (2.0, 2.0), 2),
        (4.1, (4.0, 4.0), 1),
        (3.9, (4.0, 4.0), 2),
        (1.0, (4.0, 4.0), 2),
        (1.0, (8.0, 8.0), 4),
        (1e-3, (9.0, 8.0), 8),
    ],
)
def test_the_ratio_grows_with_shrinking_and_falls_with_detail(bits_per_pixel, shrinkage, ratio):
    box = tuple(int(100 * side) for side in shrinkage)
    num_bits = int(bits_per_pixel * 1000 * 1000)
    assert int(jpeg_ratio(num_bits, (1000, 1000), box, (100, 100))) == ratio


def test_a_large_soft_photo_is_decoded_smaller():
    """Guards the tests above: what is always decoded wholly is within any bound."""
    data = encoded(photo_like(701, 907, 8), quality=75)
    transform = ImageTransform(image_size=(110, 110))
    assert (
        np.abs(views([data], transform, None, load_view)[0] - views([data], transform, None, whole)[0]).max()
        > 0.01
    )
