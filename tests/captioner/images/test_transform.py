"""The transform by arithmetic on tiny images, and eagerly as in tf.data."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

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


def photo_like(rows, columns):
    """Smooth waves with one sharp edge."""
    y, x = np.mgrid[0:rows, 0:columns]
    waves = np.stack([np.sin(y / 5) + np.cos(x / 7), np.sin(x / 4), np.cos(y * x / 99)], -1) * 60 + 127
    waves[:, columns // 2 :] += 40
    return waves.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(("interpolation", "number"), [("bilinear", 2), ("bicubic", 3)])
@pytest.mark.parametrize("shape", [(41, 67), (160, 90), (20, 33)])
def test_pixels_are_within_a_grey_level_of_pillows(interpolation, number, shape):
    image = photo_like(*shape)
    result = ImageTransform(image_size=(24, 32), interpolation=interpolation)(image)
    pillow = np.asarray(Image.fromarray(image).resize((32, 24), Image.Resampling(number)))
    np.testing.assert_allclose(result, pillow.astype(np.float32), atol=1.1)
    other = ImageTransform(image_size=(24, 32), interpolation="bicubic" if number == 2 else "bilinear")(image)
    assert np.abs(other - pillow).max() > 2


def test_bicubic_stays_within_the_range_at_an_edge():
    image = colored([[0, 0, 0, 255, 255, 255]] * 4)
    result = ImageTransform(image_size=(4, 15), interpolation="bicubic")(image)
    assert result.numpy().min() == 0 and result.numpy().max() == 255


def test_crop_from_takes_the_middle_of_a_larger_size():
    image = colored(np.arange(35).reshape(5, 7))
    result = ImageTransform(image_size=(2, 3), crop_from=(5, 7))(image)
    np.testing.assert_array_equal(result[:, :, 0], image[1:3, 2:5, 0])


def test_the_view_of_a_crop_is_its_part_of_the_photo_in_the_photos_proportions():
    image = colored(np.arange(60).reshape(6, 10))
    view = ImageTransform(image_size=(4, 4), crop_from=(6, 5)).view(image)
    np.testing.assert_array_equal(view, image[1:5])  # of the columns 4 in 5 are left, none on the left of two
    assert view.dtype == "uint8"
    np.testing.assert_array_equal(ImageTransform(image_size=(4, 4)).view(image), image)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop_from": (1, 9)}, r"`crop_from` must be at least `image_size`=\(2, 3\)"),
        ({"crop_from": (4, 9), "resize": "pad"}, 'with resize="stretch"'),
        ({"crop_from": 4}, "`crop_from` must be two whole numbers"),
        ({"interpolation": "nearest"}, "`interpolation` must be one of bilinear, bicubic"),
    ],
)
def test_impossible_crops_and_interpolations_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ImageTransform(image_size=(2, 3), **settings)


@pytest.mark.parametrize(
    "shape", [(37, 53), (20, 20), (5, 9), (1, 1), (300, 7), (90, 200), (16, 9), (50, 23), (16, 23)]
)
def test_axis_by_axis_gives_the_bits_of_both_axes_at_once(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype="uint8")
    expected = tf.image.resize(tf.cast(image, tf.float32)[None], (16, 23), antialias=True)[0]
    np.testing.assert_array_equal(ImageTransform(image_size=(16, 23))(image), expected)


def test_a_box_of_a_smaller_decoded_image_covers_the_same_place():
    # A ramp over the place: halving by averages keeps it a ramp, and the same box must give the same colours.
    rows, columns = np.mgrid[0:40, 0:48].astype("float32")
    image = np.stack([rows, columns, rows + columns], -1)
    halved = image.reshape(20, 2, 24, 2, 3).mean((1, 3))
    transform = ImageTransform(image_size=(4, 5))
    expected = transform.resized(image[11:31, 7:42])
    boxed = transform.resized_box(halved[5:16, 3:21], (11 - 2 * 5, 7 - 2 * 3, 20, 35), ratio=2)
    np.testing.assert_allclose(boxed[1:-1, 1:-1], expected[1:-1, 1:-1], atol=0.1)  # edges see beyond the box
