"""Splitting an image encoder: halves and chains are the whole, and impossible cuts are refused."""

import keras
import numpy as np
import pytest

from captioner.model.encoder_split import chain, split_image_encoder
from captioner.model.image_encoders import build_image_encoder

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


def operations_of(parts):
    """The names of each part's operations, without the input that it was given."""
    return [[operation.name for operation in part.operations[1:]] for part in parts]


def test_a_chain_is_cut_where_every_path_leads_through(encoder):
    # 60 numbers a result, 75 the last: 315 in all. A part has at least 315 / sqrt(6) = 129.
    assert operations_of(chain(encoder)) == [["stem", "branch", "sum"], ["norm", "head"]]


@pytest.mark.parametrize("name", ["efficientnet_v2_b0", "efficientnet_lite0", "resnet50"])
def test_a_chain_of_a_network_is_the_network_in_parts_of_like_size(name):
    network = build_image_encoder(name, (64, 64))
    parts = chain(network)
    names = [operation for part in operations_of(parts) for operation in part]
    assert names == [operation.name for operation in network.operations[1:]]
    sizes = [sum(np.prod(operation.output.shape[1:]) for operation in part.operations[1:]) for part in parts]
    assert len(parts) > 5 and max(sizes) < sum(sizes) / 4
    images = np.random.default_rng(1).uniform(0, 255, (2, 64, 64, 3)).astype("float32")
    features = images
    for part in parts:
        features = part(features, training=False)
    np.testing.assert_allclose(features, network(images, training=False), rtol=1e-4, atol=1e-4)


def test_a_network_without_a_place_to_cut_is_one_part():
    images = keras.Input((9, 15, 3))
    x = keras.layers.Conv2D(3, 1)(images)
    whole = keras.Model(images, keras.layers.Add()([keras.layers.Conv2D(3, 1)(x), images]))
    assert [part.operations[-1] for part in chain(whole)] == [whole.operations[-1]]
