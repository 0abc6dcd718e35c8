"""Pretrained image encoders: published files, local files in Keras's layouts, and what is said offline."""

import h5py
import keras
import numpy as np
import pytest
from keras.src.applications import efficientnet, efficientnet_v2, resnet

from captioner.model.image_encoders import build_image_encoder, list_image_encoders
from captioner.weights import WeightsError, load_image_encoder
from captioner.weights.image_encoders import published_weights

SIZE = (33, 65)
APPLICATIONS = [name for name in list_image_encoders() if "lite" not in name]


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(0, 255, (2, *SIZE, 3)).astype("float32")


def features(encoder, images):
    return keras.ops.convert_to_numpy(encoder(images, training=False))


def vary(encoder):
    rng = np.random.default_rng(1)
    for variable in encoder.variables:
        if variable.dtype == "float32":
            variable.assign(keras.ops.convert_to_numpy(variable) + rng.uniform(0, 0.1, variable.shape))


def write_published_layout(path, encoder):
    """Writes the layout of the files that Keras publishes: one group a layer, the order in attributes."""
    with h5py.File(path, "w") as file:
        layers = [layer for layer in encoder.layers if layer.weights]
        file.attrs["layer_names"] = [layer.name.encode() for layer in encoder.layers]
        for layer in encoder.layers:
            group = file.create_group(layer.name)
            weights = [*layer.trainable_weights, *layer.non_trainable_weights] if layer in layers else []
            names = [f"{layer.name}/{i}:0" for i in range(len(weights))]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, weight in zip(names, weights, strict=True):
                group[name] = keras.ops.convert_to_numpy(weight)


@pytest.mark.parametrize("name", ["efficientnet_v2_b0", "resnet50"])
@pytest.mark.parametrize("ending", [".h5", ".weights.h5"])
def test_a_local_file_of_either_keras_layout_is_loaded(name, ending, images, tmp_path):
    source = build_image_encoder(name, SIZE)
    vary(source)
    path = tmp_path / f"file{ending}"
    source.save_weights(path) if ending == ".weights.h5" else write_published_layout(path, source)
    loaded = load_image_encoder(name, SIZE, weights=path)
    np.testing.assert_array_equal(features(loaded, images), features(source, images))


def test_a_whole_model_that_keras_applications_saved_is_loaded(images, tmp_path):
    """Not built by us: the layers' names and their order are those of the user's own session."""
    donor = keras.applications.EfficientNetV2B0(include_top=False, weights=None, input_shape=(*SIZE, 3))
    vary(donor)
    donor.save(tmp_path / "file.h5")
    loaded = load_image_encoder("efficientnet_v2_b0", SIZE, weights=tmp_path / "file.h5")
    np.testing.assert_array_equal(features(loaded, images), features(donor, images))


def test_efficientnet_b0_equals_what_keras_builds_around_its_published_file(images, tmp_path, monkeypatch):
    """The published file holds standard deviations as variances, and Keras adds a layer that makes up for it.

    A plain load into a model without that layer is wrong by the square root of the deviation, in silence.
    """
    donor = keras.applications.EfficientNetB0(include_top=False, weights=None, input_shape=(*SIZE, 3))
    donor.layers[2].adapt_mean.assign([0.485, 0.456, 0.406])
    donor.layers[2].adapt_variance.assign([0.229, 0.224, 0.225])
    path = tmp_path / "efficientnetb0_notop.h5"
    write_published_layout(path, donor)
    monkeypatch.setattr(efficientnet.file_utils, "get_file", lambda *args, **kwargs: str(path))
    expected = keras.applications.EfficientNetB0(
        include_top=False, weights="imagenet", input_shape=(*SIZE, 3)
    )
    loaded = load_image_encoder("efficientnet_b0", SIZE, weights=path)
    np.testing.assert_allclose(features(loaded, images), features(expected, images), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", APPLICATIONS)
def test_file_address_and_checksum_are_those_of_keras(name):
    file, address, md5 = published_weights(name)
    module = resnet if "resnet" in name else efficientnet_v2 if "v2" in name else efficientnet
    size = name.rsplit("_")[-1]
    hashes = {key.removeprefix("-"): pair for key, pair in module.WEIGHTS_HASHES.items()}
    assert address == module.BASE_WEIGHTS_PATH + file
    assert md5 == hashes[size][1]
    assert file.endswith("notop.h5")


def test_offline_the_error_names_the_file_its_address_and_the_way_out(monkeypatch):
    def offline(*args, **kwargs):
        raise Exception("URL fetch failure\nwith details")

    monkeypatch.setattr(keras.utils, "get_file", offline)
    with pytest.raises(WeightsError) as error:
        load_image_encoder("efficientnet_v2_b0", SIZE)
    message = str(error.value)
    assert message.count("\n") == 1
    address = "https://storage.googleapis.com/tensorflow/keras-applications/efficientnet_v2/efficientnetv2-b0_notop.h5"
    assert f"Fetch efficientnetv2-b0_notop.h5 from {address}" in message
    assert "weights=PATH" in message


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"there is no file '.*none\.h5'"):
        load_image_encoder("efficientnet_lite0", SIZE, weights=tmp_path / "none.h5")


def test_an_unknown_ending_is_refused_with_those_that_are_read(tmp_path):
    (tmp_path / "weights.bin").write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"read from \.weights\.h5 or \.h5"):
        load_image_encoder("resnet50", SIZE, weights=tmp_path / "weights.bin")


@pytest.mark.parametrize("ending", [".h5", ".weights.h5"])
def test_weights_of_another_network_are_refused(ending, tmp_path):
    source, path = build_image_encoder("efficientnet_lite0", SIZE), tmp_path / f"lite0{ending}"
    source.save_weights(path) if ending == ".weights.h5" else write_published_layout(path, source)
    with pytest.raises(WeightsError, match="does not hold the weights of efficientnet_lite1"):
        load_image_encoder("efficientnet_lite1", SIZE, weights=path)
