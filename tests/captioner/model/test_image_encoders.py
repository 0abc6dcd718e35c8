"""Image encoders by name: shapes, pixel scaling, re-creation, refusals."""

import shutil
import warnings

import keras
import keras_hub
import numpy as np
import pytest
from tiny_captioner import tiny_captioner

from captioner.model import CaptionerBackbone
from captioner.model.image_encoders import CaffePixels, build_image_encoder, list_image_encoders

SIZE = (65, 97)  # odd, and not a square
PIXEL = np.array([255, 0, 51], "float32")
IMAGENET_MEAN, IMAGENET_STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
SMALL_MEMBERS = {
    "efficientnet_v2_b0": 1280,
    "efficientnet_b0": 1280,
    "resnet50": 2048,
    "efficientnet_lite0": 1280,
}


@pytest.fixture(scope="module")
def photos():
    return np.random.default_rng(0).uniform(0, 255, (2, *SIZE, 3)).astype("float32")


@pytest.fixture(scope="module")
def hub_preset(tmp_path_factory):
    """A tiny KerasHub image backbone with an image converter, saved as a preset."""
    folder = tmp_path_factory.mktemp("tiny_resnet")
    backbone = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 64],
        stackwise_num_blocks=[1, 1],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
    )
    backbone.save_to_preset(folder)
    keras_hub.layers.ResNetImageConverter(scale=[0.1, 0.2, 0.3], offset=[1, 2, 3]).save_to_preset(folder)
    return folder


def features(encoder, images):
    return keras.ops.convert_to_numpy(keras.ops.cast(encoder(images, training=False), "float32"))


@pytest.mark.parametrize("name", SMALL_MEMBERS)
def test_the_feature_map_has_a_cell_for_each_32_pixels_begun(name, photos):
    encoder = build_image_encoder(name, SIZE)
    channels = SMALL_MEMBERS[name]
    assert encoder.input_shape == (None, *SIZE, 3)
    assert encoder.output_shape == (None, 3, 4, channels)
    assert features(encoder, photos).shape == (2, 3, 4, channels)


@pytest.mark.parametrize("name", SMALL_MEMBERS)
def test_a_second_build_takes_the_weights_of_the_first_and_gives_the_same_features(name, photos, tmp_path):
    first, second = build_image_encoder(name, SIZE), build_image_encoder(name, SIZE)
    rng = np.random.default_rng(1)
    for variable in first.variables:  # moving statistics too, or their exchange would go unseen
        if variable.dtype == "float32":
            variable.assign(rng.uniform(0.01, 0.02, variable.shape))
    first.save_weights(tmp_path / "encoder.weights.h5")
    assert not np.allclose(features(second, photos), features(first, photos))
    second.load_weights(tmp_path / "encoder.weights.h5")
    np.testing.assert_array_equal(features(second, photos), features(first, photos))


@pytest.mark.parametrize(
    ("name", "layer", "expected"),
    [
        ("efficientnet_v2_b0", "stem_conv", (PIXEL / 255 - IMAGENET_MEAN) / IMAGENET_STD),
        ("efficientnet_v2_s", "stem_conv", PIXEL / 128 - 1),
        ("efficientnet_b0", "stem_conv_pad", (PIXEL / 255 - IMAGENET_MEAN) / IMAGENET_STD),
        ("resnet50", "conv1_pad", [51 - 103.939, 0 - 116.779, 255 - 123.68]),
        ("efficientnet_lite0", "stem_conv", (PIXEL - 127) / 128),
    ],
)  # fmt: skip
def test_pixels_from_0_to_255_reach_the_first_convolution_as_the_network_was_trained(name, layer, expected):
    encoder = build_image_encoder(name, (32, 32))
    before = keras.Model(encoder.inputs, encoder.get_layer(layer).input)
    image = np.broadcast_to(PIXEL, (1, 32, 32, 3))
    np.testing.assert_allclose(features(before, [image])[0, 5, 7], expected, atol=1e-5)


def test_caffe_pixels_survive_serialisation():
    layer = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(CaffePixels(name="pixels"))
    )
    assert isinstance(layer, CaffePixels)
    assert layer.name == "pixels"


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16", "float16"])
@pytest.mark.parametrize("name", ["efficientnet_v2_b0", "resnet50", "efficientnet_lite0"])
def test_a_dtype_policy_governs_the_layers_and_leaves_the_global_one(name, dtype, photos):
    policy = keras.DTypePolicy(dtype)
    encoder = build_image_encoder(name, SIZE, dtype=dtype)
    assert keras.config.dtype_policy().name == "float32"
    assert {layer.compute_dtype for layer in encoder.layers} == {policy.compute_dtype}
    assert encoder.trainable_variables[0].dtype == policy.variable_dtype
    assert np.isfinite(features(encoder, photos)).all()


def test_every_listed_encoder_has_a_builder_and_none_is_missing():
    names = list_image_encoders()
    assert len(names) == len(set(names)) == 7 + 8 + 3 + 3
    assert {"efficientnet_v2_l", "efficientnet_b7", "resnet152", "efficientnet_lite2"} <= set(names)


def test_an_unknown_name_is_answered_with_the_nearest_ones():
    with pytest.raises(ValueError, match=r"Unknown image encoder 'EfficientNetV2S'.*efficientnet_v2_s,"):
        build_image_encoder("EfficientNetV2S", SIZE)


def test_an_image_too_small_is_refused():
    with pytest.raises(ValueError, match=r"`image_size` must be at least 32 px.*\(31, 64\)"):
        build_image_encoder("efficientnet_lite0", (31, 64))


def test_more_than_1024_image_tokens_are_warned_of_and_1024_are_not():
    with pytest.warns(UserWarning, match="gives 1056 image tokens"):
        build_image_encoder("efficientnet_lite0", (1024, 1056))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_image_encoder("efficientnet_lite0", (1024, 1024))


def test_a_hub_preset_gets_the_scaling_of_its_image_converter(hub_preset, photos):
    encoder = build_image_encoder(f"hub:{hub_preset}", SIZE, load_hub_weights=True)
    backbone = keras_hub.models.Backbone.from_preset(str(hub_preset))
    expected = features(backbone, photos * [0.1, 0.2, 0.3] + [1, 2, 3])
    np.testing.assert_allclose(features(encoder, photos), expected, rtol=1e-4, atol=1e-4)
    assert encoder.output_shape[1:] == expected.shape[1:]


def test_a_hub_preset_is_built_with_random_weights_and_takes_saved_ones(hub_preset, photos, tmp_path):
    trained = build_image_encoder(f"hub:{hub_preset}", SIZE, load_hub_weights=True)
    fresh = build_image_encoder(f"hub:{hub_preset}", SIZE)
    assert not np.allclose(features(fresh, photos), features(trained, photos))
    trained.save_weights(tmp_path / "encoder.weights.h5")
    fresh.load_weights(tmp_path / "encoder.weights.h5")
    np.testing.assert_array_equal(features(fresh, photos), features(trained, photos))


def test_a_captioner_needs_the_hub_preset_no_more_once_it_is_saved(hub_preset, tmp_path):
    shutil.copytree(hub_preset, tmp_path / "hub")
    encoder = f"hub:{tmp_path / 'hub'}"
    model = tiny_captioner(image_encoder=encoder, image_size=SIZE)
    model.backbone.save_to_preset(str(tmp_path / "preset"))
    shutil.rmtree(tmp_path / "hub")
    loaded = CaptionerBackbone.from_preset(str(tmp_path / "preset"))
    images = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3)).astype("float32")
    np.testing.assert_allclose(loaded.encode_images(images), model.backbone.encode_images(images), atol=1e-5)
    half = CaptionerBackbone.from_preset(str(tmp_path / "preset"), dtype="bfloat16")
    assert {v.dtype for v in half.decoder.weights} == {"bfloat16"}


def test_a_hub_preset_without_an_image_converter_says_that_pixels_go_in_unscaled(
    hub_preset, tmp_path, photos
):
    keras_hub.models.Backbone.from_preset(str(hub_preset)).save_to_preset(tmp_path)
    with pytest.warns(UserWarning, match="no image converter"):
        encoder = build_image_encoder(f"hub:{tmp_path}", SIZE, dtype="mixed_bfloat16")
    assert features(encoder, photos).shape[1:] == encoder.output_shape[1:]


def test_a_hub_preset_of_a_text_model_is_refused(tmp_path):
    keras_hub.models.BertBackbone(
        vocabulary_size=7, num_layers=1, num_heads=2, hidden_dim=4, intermediate_dim=6, max_sequence_length=5
    ).save_to_preset(tmp_path)
    with pytest.raises(ValueError, match="BertBackbone does not take images alone"):
        build_image_encoder(f"hub:{tmp_path}", SIZE)
