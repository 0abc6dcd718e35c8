"""Captioners for images of another size: positions are stretched, everything else stays."""

import keras
import numpy as np
import pytest
from tiny_captioner import IMAGE_SIZE, random_images, tiny_captioner

from captioner.model import ImageCaptioner
from captioner.model.image_grid import ImageGrid
from captioner.model.resizing import interpolate_positions, resize_captioner
from captioner.sampling import DecodingSettings

GRID = ImageGrid(3, 5)
POSITIONS = np.random.default_rng(0).normal(size=(15, 4))


def test_positions_of_the_same_grid_are_the_same():
    np.testing.assert_allclose(interpolate_positions(POSITIONS, GRID, GRID), POSITIONS, atol=1e-12)


def test_constant_positions_stay_constant():
    stretched = interpolate_positions(np.full((15, 4), 2.5), GRID, ImageGrid(7, 4))
    np.testing.assert_allclose(stretched, np.full((28, 4), 2.5))


def test_each_axis_is_stretched_for_itself_with_cells_split_in_place():
    rows, columns = np.meshgrid(np.arange(3.0), np.arange(5.0), indexing="ij")
    positions = np.stack([rows.ravel(), columns.ravel()], axis=1)
    stretched = interpolate_positions(positions, GRID, ImageGrid(6, 5)).reshape(6, 5, 2)
    np.testing.assert_allclose(stretched[:, 0, 0], [0, 0.25, 0.75, 1.25, 1.75, 2])
    np.testing.assert_allclose(stretched[..., 1], np.tile(np.arange(5.0), (6, 1)))


def test_the_position_of_a_class_token_stays():
    positions = np.concatenate([np.full((1, 4), 9.0), POSITIONS])
    stretched = interpolate_positions(positions, ImageGrid(3, 5, 1), ImageGrid(6, 10, 1))
    np.testing.assert_array_equal(stretched[0], np.full(4, 9.0))
    np.testing.assert_allclose(stretched[1:], interpolate_positions(POSITIONS, GRID, ImageGrid(6, 10)))


def test_the_same_size_is_the_same_captioner():
    model = tiny_captioner()
    assert resize_captioner(model, list(IMAGE_SIZE)) is model


def test_a_size_with_the_same_grid_gives_the_same_image_tokens():
    model = tiny_captioner()
    resized = resize_captioner(
        model, (11, 17)
    )  # cells of 3 x 3 px: the last two rows and columns are in none
    images = random_images(2).astype("float32")
    larger = np.pad(images, ((0, 0), (0, 2), (0, 2), (0, 0)), constant_values=99)
    tokens, expected = resized.backbone.encode_images(larger), model.backbone.encode_images(images)
    np.testing.assert_allclose(*map(keras.ops.convert_to_numpy, (tokens, expected)), atol=1e-5)


def test_a_preset_loads_at_a_larger_size_captions_and_is_saved_with_it(tmp_path):
    model = tiny_captioner()
    model.save_to_preset(str(tmp_path / "preset"))
    larger = ImageCaptioner.from_preset(str(tmp_path / "preset"), image_size=(18, 27))
    assert larger.backbone.features_shape == (None, 6, 9, 7)
    photo = random_images(1)[0]
    assert larger.preprocessor.prepare_images([photo]).shape == (1, 18, 27, 3)
    [[caption]] = larger.caption([photo], DecodingSettings(sampler="greedy", max_length=5))
    assert larger.attention([photo], [caption])[0][0].shape == (len(caption.token_ids), 6, 9)
    larger.save_to_preset(str(tmp_path / "larger"))
    [[again]] = ImageCaptioner.from_preset(str(tmp_path / "larger")).caption(
        [photo], DecodingSettings(sampler="greedy", max_length=5)
    )
    assert again.token_ids == caption.token_ids


def test_an_encoder_by_name_is_built_anew_with_its_weights():
    model = tiny_captioner(image_encoder="efficientnet_lite0", image_size=(32, 64))
    resized = resize_captioner(model, (64, 64))
    assert resized.backbone.image_encoder_name == "efficientnet_lite0"
    assert resized.backbone.features_shape == (None, 2, 2, 1280)
    for old, new in zip(
        model.backbone.image_encoder.weights, resized.backbone.image_encoder.weights, strict=True
    ):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(old), keras.ops.convert_to_numpy(new))


def test_an_encoder_whose_weights_depend_on_the_size_is_refused():
    images = keras.Input((*IMAGE_SIZE, 3))
    x = keras.layers.Dense(15 * 7)(keras.layers.Flatten()(images))
    model = tiny_captioner(image_encoder=keras.Model(images, keras.layers.Reshape((3, 5, 7))(x)))
    with pytest.raises(
        ValueError, match=r"`image_size` must be \(9, 15\) for this image encoder, whose weight"
    ):
        resize_captioner(model, (18, 30))


def test_weights_that_came_later_are_refused():
    model = tiny_captioner()
    model.backbone.enable_lora(2)
    with pytest.raises(ValueError, match="before LoRA"):
        resize_captioner(model, (18, 30))


def test_the_rest_of_the_preprocessing_and_the_decoding_settings_stay():
    model = tiny_captioner()
    old = model.preprocessor
    model.preprocessor = type(old)(
        old.tokenizer, old.image_transform.image_size, interpolation="bicubic", decoding={"num_beams": 3}
    )
    larger = resize_captioner(model, (18, 27)).preprocessor
    assert larger.image_transform.image_size == (18, 27)
    assert larger.image_transform.interpolation == "bicubic" and larger.decoding == {"num_beams": 3}
