"""The transform by arithmetic on tiny images, and eagerly as in tf.data."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from captioner.images import ImageTransform


def colored(red_channel):
    red = np.asarray(red_channel, np.uint8)
    return np.stack([red, red // 2, 255 - red], -1)


def test_stretch_averages_neighbours_when_it_halves():
    # Antialiased bilinear by 1/2 weighs the samples 1 3 3 1, at the border 3 3 1.
    image = colored([[0, 80, 160, 240]] * 2)
    result = ImageTransform(image_size=(2, 2))(image)
    left = (3 * 0 + 3 * 80 + 1 * 160) / 7
    np.testing.assert_allclose(result[0, :, 0], [left, 240 - left], rtol=1e-5)


def test_the_same_size_changes_nothing():
    image = colored(np.arange(15).reshape(3, 5) * 17)
    for mode in ("stretch", "center_crop", "pad"):
        result = ImageTransform(image_size=(3, 5), resize=mode)(image)
        assert result.dtype == tf.float32
        np.testing.assert_array_equal(result, image.astype(np.float32))


def test_center_crop_takes_the_middle():
    image = colored(np.arange(14).reshape(2, 7))
    result = ImageTransform(image_size=(2, 3), resize="center_crop")(image)
    np.testing.assert_array_equal(result[:, :, 0], [[2, 3, 4], [9, 10, 11]])
    upright = ImageTransform(image_size=(3, 2), resize="center_crop")(image.swapaxes(0, 1))
    np.testing.assert_array_equal(upright[:, :, 0], [[2, 9], [3, 10], [4, 11]])


def test_pad_keeps_the_whole_image_between_grey_margins():
    image = colored([[10, 20, 30]])
    result = ImageTransform(image_size=(4, 3), resize="pad")(image)
    np.testing.assert_array_equal(result[:, :, 0], [[127] * 3, [10, 20, 30], [127] * 3, [127] * 3])


@pytest.mark.parametrize("mode", ["stretch", "center_crop", "pad"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 999), (999, 1), (37, 53), (300, 211)])
def test_every_shape_gives_the_fixed_size_within_the_range_in_tf_data_as_eagerly(mode, shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    transform = ImageTransform(image_size=(20, 28), resize=mode)
    spec = tf.TensorSpec((None, None, 3), tf.uint8)
    dataset = tf.data.Dataset.from_generator(lambda: [image], output_signature=spec).map(transform)
    assert dataset.element_spec.shape == (20, 28, 3)
    eager = transform(image).numpy()
    assert eager.min() >= 0 and eager.max() <= 255.001
    np.testing.assert_array_equal(next(iter(dataset)), eager)


def test_settings_survive_json():
    transform = ImageTransform(image_size=(224, 160), resize="pad")
    assert ImageTransform(**json.loads(json.dumps(dataclasses.asdict(transform)))) == transform


@pytest.mark.parametrize("settings", [{"image_size": 224}, {"image_size": (0, 3)}, {"image_size": (2.5, 3)}])
def test_an_impossible_size_is_refused(settings):
    with pytest.raises(ValueError, match="image_size"):
        ImageTransform(**settings)


def test_an_unknown_mode_and_a_batch_are_refused():
    with pytest.raises(ValueError, match="stretch, center_crop, pad; received 'crop'"):
        ImageTransform(image_size=(2, 2), resize="crop")
    with pytest.raises(ValueError, match=r"\(height, width, 3\); received shape \(1, 4, 4, 3\)"):
        ImageTransform(image_size=(2, 2))(np.zeros((1, 4, 4, 3), np.uint8))
