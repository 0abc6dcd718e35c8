"""Augmentation: a function of the seed, equal to the transform when off, and obedient about flips."""

import numpy as np
import pytest
import tensorflow as tf

from captioner.images import Augmentation, ImageTransform

IMAGE = np.random.default_rng(0).integers(0, 256, (30, 44, 3), dtype=np.uint8)
TRANSFORM = ImageTransform(image_size=(16, 20))
ALL = Augmentation(min_crop_area=0.4, horizontal_flip=True, color_jitter=0.3)


@pytest.mark.parametrize("mode", ["stretch", "center_crop", "pad"])
def test_everything_off_is_the_plain_transform(mode):
    transform = ImageTransform(image_size=(16, 20), resize=mode)
    np.testing.assert_array_equal(Augmentation()(IMAGE, transform, (3, 4)), transform(IMAGE))


def test_the_seed_alone_decides():
    first = ALL(IMAGE, TRANSFORM, (1, 2)).numpy()
    np.testing.assert_array_equal(ALL(IMAGE, TRANSFORM, (1, 2)), first)
    assert np.abs(ALL(IMAGE, TRANSFORM, (1, 3)) - first).max() > 1
    assert np.abs(ALL(IMAGE, TRANSFORM, (2, 2)) - first).max() > 1


def test_tf_data_gives_what_the_eager_call_gives():
    seeds = tf.constant([[5, index] for index in range(6)], tf.int32)
    dataset = tf.data.Dataset.from_tensor_slices(seeds).map(lambda seed: ALL(IMAGE, TRANSFORM, seed))
    assert dataset.element_spec.shape == (16, 20, 3)
    for seed, result in zip(seeds, dataset, strict=True):
        np.testing.assert_allclose(result, ALL(IMAGE, TRANSFORM, seed), atol=1e-3)


def test_flips_happen_half_of_the_time_and_never_where_they_are_forbidden():
    flip = Augmentation(horizontal_flip=True)
    plain = TRANSFORM(IMAGE).numpy()
    num_flipped = 0
    for index in range(60):
        result = flip(IMAGE, TRANSFORM, (0, index)).numpy()
        flipped = not np.array_equal(result, plain)
        np.testing.assert_array_equal(result, plain[:, ::-1] if flipped else plain)
        num_flipped += flipped
        kept = flip(IMAGE, TRANSFORM, (0, index), allow_flip=tf.constant(False))
        np.testing.assert_array_equal(kept, plain)
    assert 18 <= num_flipped <= 42


def test_crops_keep_their_share_and_reach_every_side():
    # Coordinates as colours: the corners of the result tell the box that was cut.
    rows, columns = np.mgrid[0:200, 0:240]
    image = np.stack([rows, columns, rows], -1).astype(np.uint8)
    crop = Augmentation(min_crop_area=0.5)
    boxes = []
    for index in range(80):
        result = crop(image, ImageTransform(image_size=(200, 240)), (7, index)).numpy()
        boxes.append((*result[0, 0, :2], *result[-1, -1, :2]))
    top, left, bottom, right = np.array(boxes).T
    height, width = (bottom - top + 1) / 200, (right - left + 1) / 240
    assert (height * width).min() > 0.48 and (height * width).max() > 0.9
    assert (width / height).min() > 0.73 and (width / height).max() < 1.36
    assert (width / height).min() < 0.95 and (width / height).max() > 1.05
    assert top.max() > 20 and left.max() > 20 and bottom.min() < 180 and right.min() < 220


def test_jitter_is_brightness_then_contrast_then_saturation():
    image = np.full((2, 2, 3), 100, np.uint8)
    image[0, 0] = (150, 90, 60)
    transform = ImageTransform(image_size=(2, 2))
    draws = tf.random.stateless_uniform((8,), (3, 9), alg="philox").numpy()
    brightness, contrast, saturation = 1 + 0.2 * (2 * draws[4:7] - 1)
    luma = np.array([0.299, 0.587, 0.114])
    expected = image * brightness
    mean = (expected @ luma).mean()
    expected = mean + (expected - mean) * contrast
    grey = (expected @ luma)[..., None]
    expected = np.clip(grey + (expected - grey) * saturation, 0, 255)
    np.testing.assert_allclose(Augmentation(color_jitter=0.2)(image, transform, (3, 9)), expected, rtol=1e-4)


def test_the_margins_are_those_of_captioning():
    transform = ImageTransform(image_size=(20, 20), resize="pad")
    result = Augmentation(color_jitter=0.5)(IMAGE, transform, (1, 1)).numpy()
    assert (result[:2] == 127).all() and (result[-2:] == 127).all()


@pytest.mark.parametrize("settings", [{"min_crop_area": 0.0}, {"min_crop_area": 1.5}, {"color_jitter": 1.0}])
def test_an_impossible_setting_is_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        Augmentation(**settings)
