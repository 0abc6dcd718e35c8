"""Splitting an image encoder: the two halves are the whole, and impossible cuts are refused."""

import keras
import numpy as np
import pytest

from captioner.model.encoder_split import split_image_encoder

IMAGES = np.random.default_rng(0).uniform(0, 255, (2, 9, 15, 3)).astype("float32")


@pytest.fixture(scope="module")
def encoder():
    """A residual block between two convolutions."""
    images = keras.Input((9, 15, 3))
    x = keras.layers.Conv2D(4, 3, strides=3, name="stem")(images)
    branch = keras.layers.Conv2D(4, 1, name="branch")(x)
    x = keras.layers.Add(name="sum")([x, branch])
    x = keras.layers.BatchNormalization(name="norm")(x)
    return keras.Model(images, keras.layers.Conv2D(5, 1, name="head")(x))


@pytest.mark.parametrize("frozen_until", ["stem", "sum", "norm", "head", None])
def test_the_halves_are_the_whole(encoder, frozen_until):
    split = split_image_encoder(encoder, frozen_until)
    features = split.frozen(IMAGES, training=False)
    np.testing.assert_allclose(split.feature_map(features), encoder(IMAGES, training=False), rtol=1e-5)


def test_the_halves_share_the_encoders_variables(encoder):
    split = split_image_encoder(encoder, "sum")
    front, back = ({id(v) for v in half.variables} for half in (split.frozen, split.trained))
    assert front | back == {id(v) for v in encoder.variables}
    assert not front & back


def test_without_a_layer_all_is_frozen(encoder):
    split = split_image_encoder(encoder)
    assert split.frozen is encoder and split.trained is None


def test_a_layer_that_a_path_leads_around_is_refused(encoder):
    with pytest.raises(ValueError, match=r"every path leads.*received 'branch'"):
        split_image_encoder(encoder, "branch")


def test_an_unknown_layer_is_refused_with_the_names_there_are(encoder):
    with pytest.raises(ValueError, match=r"input_layer.* \.\.\. head.*received 'block7'"):
        split_image_encoder(encoder, "block7")
