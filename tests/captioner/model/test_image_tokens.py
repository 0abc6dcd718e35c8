"""Image tokens with weights set by hand."""

import keras
import numpy as np
import pytest

from captioner.model.image_tokens import FeatureMapTokens, ImageTokens, PlainImageTokens

FEATURES = np.random.default_rng(0).normal(size=(2, 3, 5, 7)).astype("float32")  # (B, H, W, C)


def hand_made_tokens(features_shape):
    """Tokens that are the normalised cells themselves, positions being zero."""
    layer = FeatureMapTokens(hidden_dim=7)
    layer.build(features_shape)
    layer.projection.set_weights([np.eye(7), np.zeros(7)])
    layer.positions.assign(np.zeros(layer.positions.shape))
    return layer


def normalised(cell):
    return (cell - cell.mean(-1, keepdims=True)) / np.sqrt(cell.var(-1, keepdims=True) + 1e-5)


def test_tokens_follow_the_rows_of_the_feature_map():
    layer = hand_made_tokens(FEATURES.shape)
    tokens = keras.ops.convert_to_numpy(layer(FEATURES))
    assert tokens.shape == (2, 15, 7)
    for h, w in ((0, 1), (1, 0), (1, 3), (2, 4)):
        np.testing.assert_allclose(tokens[:, h * 5 + w], normalised(FEATURES[:, h, w]), atol=1e-5)


def test_each_token_gets_its_own_position():
    layer = hand_made_tokens(FEATURES.shape)
    layer.positions.assign(np.arange(15 * 7).reshape(15, 7))
    zero = np.zeros(FEATURES.shape, "float32")
    tokens = keras.ops.convert_to_numpy(layer(zero))
    np.testing.assert_allclose(tokens[1], np.arange(15 * 7).reshape(15, 7), atol=1e-5)


def test_an_encoder_that_gives_a_sequence_is_read_as_it_is():
    sequence = FEATURES.reshape(2, 15, 7)
    from_map = hand_made_tokens(FEATURES.shape)(FEATURES)
    from_sequence = hand_made_tokens(sequence.shape)(sequence)
    np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (from_map, from_sequence)))


@pytest.mark.parametrize("shape", [(None, None, 5, 7), (None, 3, None, 7), (None, None, 7), (None, 7)])
def test_a_feature_map_of_unknown_size_is_refused(shape):
    with pytest.raises(ValueError, match=r"static size.*fixed image size"):
        FeatureMapTokens(hidden_dim=4).build(shape)


@pytest.mark.parametrize("num_layers", [0, 2])
def test_image_tokens_have_the_shape_they_announce_and_see_each_other_only_through_blocks(num_layers):
    layer = ImageTokens(hidden_dim=6, num_layers=num_layers, num_heads=2, intermediate_dim=11)
    layer.build(FEATURES.shape)
    for block in layer.blocks:
        for variable in block.trainable_variables:
            if "kernel" in variable.path:
                variable.assign(variable * 20)
    changed = FEATURES.copy()
    changed[:, 2, 4, 3] += 1  # the last cell
    before, after = (keras.ops.convert_to_numpy(layer(x)) for x in (FEATURES, changed))
    assert before.shape == layer.compute_output_shape(FEATURES.shape) == (2, 15, 6)
    np.testing.assert_allclose(before.mean(-1), 0, atol=1e-5)
    differs = np.abs(after - before).max(-1) > 1e-5
    assert differs[:, 14].all()
    assert differs[:, :14].any() == (num_layers > 0)


def test_layers_come_back_from_their_config():
    for layer in (
        FeatureMapTokens(6, dropout=0.2),
        ImageTokens(6, 2, 3, 8, dropout=0.1, layer_norm_epsilon=1e-3),
    ):
        again = type(layer).from_config(layer.get_config())
        assert again.get_config() == layer.get_config()


def test_plain_tokens_of_the_decoders_width_are_the_features_themselves():
    features = np.arange(2 * 3 * 5 * 4, dtype="float32").reshape(2, 3, 5, 4)
    layer = PlainImageTokens(hidden_dim=4)
    tokens = keras.ops.convert_to_numpy(layer(features))
    np.testing.assert_array_equal(tokens, features.reshape(2, 15, 4))
    assert layer.weights == []


def test_plain_tokens_of_another_width_are_projected_and_nothing_else():
    features = np.arange(2 * 7 * 3, dtype="float32").reshape(2, 7, 3)
    layer = PlainImageTokens(hidden_dim=2)
    layer.build(features.shape)
    kernel, bias = np.arange(6.0).reshape(3, 2), np.array([10.0, 20.0])
    layer.projection.set_weights([kernel, bias])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(layer(features)), features @ kernel + bias)
    assert layer.compute_output_shape((None, 7, 3)) == (None, 7, 2)
