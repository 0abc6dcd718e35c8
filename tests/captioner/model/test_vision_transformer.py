"""The vision transformers: sequence layout, pixel scaling, and equality with the PyTorch originals."""

import keras
import numpy as np
import pytest
from tiny_captioner import IMAGE_SIZE, random_images, tiny_captioner

from captioner.model import CaptionerBackbone
from captioner.model.encoder_split import split_image_encoder
from captioner.model.vision_transformer import KINDS, ImageBlock, vision_transformer
from captioner.weights.assign import assign_strictly
from captioner.weights.vision_transformer import IGNORED, vision_transformer_table

SIZES = {
    "image_size": (12, 30),
    "patch_size": (6, 10),
    "hidden_dim": 21,
    "num_layers": 2,
    "num_heads": 3,
    "intermediate_dim": 26,
}
NUM_PATCHES = 2 * 3


def images(count=2):
    return np.random.default_rng(0).uniform(0, 255, (count, 12, 30, 3)).astype("float32")


@pytest.mark.parametrize(("kind", "num_more"), [("vit", 1), ("deit", 2)])
def test_the_sequence_has_the_patches_behind_the_tokens_of_its_own(kind, num_more):
    encoder = vision_transformer(kind, **SIZES)
    assert encoder.output_shape == (None, num_more + NUM_PATCHES, 21)


@pytest.mark.parametrize("kind", KINDS)
def test_attention_is_about_the_patches_whatever_tokens_stand_before_them(kind):
    sizes = {
        "image_size": IMAGE_SIZE,
        "patch_size": (3, 3),
        "hidden_dim": 22,
        "num_layers": 1,
        "num_heads": 2,
    }
    encoder = vision_transformer(kind, **sizes, intermediate_dim=26)
    captioner = tiny_captioner(image_encoder=encoder, plain_image_tokens=True, num_image_layers=0)
    ((maps,),) = captioner.attention(random_images(1), [["a dog"]])
    assert maps.shape[1:] == (IMAGE_SIZE[0] // 3, IMAGE_SIZE[1] // 3)
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), 1.0, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_an_encoder_survives_its_configuration(kind):
    encoder = vision_transformer(kind, **SIZES)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(encoder))
    again.set_weights(encoder.get_weights())
    np.testing.assert_array_equal(again.predict(images(), verbose=0), encoder.predict(images(), verbose=0))


def test_the_first_blocks_can_be_frozen():
    encoder = vision_transformer("vit", **SIZES)
    split = split_image_encoder(encoder, "block_0")
    parts = split.trained(split.frozen(images()))
    np.testing.assert_allclose(parts, encoder(images()), atol=1e-6)
    (trained,) = (layer for layer in split.trained.layers if isinstance(layer, ImageBlock))
    assert trained is encoder.get_layer("block_1")


def test_blocks_that_are_computed_again_have_the_same_gradients():
    import tensorflow as tf

    sizes = {"hidden_dim": 21, "num_heads": 3, "num_layers": 1, "intermediate_dim": 26}
    backbone = CaptionerBackbone(
        image_encoder=vision_transformer("deit", **SIZES),
        image_size=SIZES["image_size"],
        vocabulary_size=9,
        num_special_tokens=2,
        num_image_layers=0,
        max_sequence_length=4,
        plain_image_tokens=True,
        **sizes,
    )
    encoder, found = backbone.image_encoder, []
    for _ in range(2):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(encoder(images(), training=True)) * np.arange(21))
        found.append(tape.gradient(loss, [v.value for v in encoder.trainable_variables]))
        backbone.recompute_blocks()
    assert [layer.recompute for layer in encoder.layers if isinstance(layer, ImageBlock)] == [True, True]
    for expected, again in zip(*found, strict=True):
        np.testing.assert_allclose(again, expected, rtol=1e-4, atol=1e-6)
        assert np.abs(expected).max() > 0


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match=r"`kind` must be one of vit, deit; received 'swin'"):
        vision_transformer("swin", **SIZES)


def test_a_size_that_patches_do_not_cover_is_refused():
    with pytest.raises(ValueError, match=r"multiple of `patch_size`; received \(13, 30\) and \(6, 10\)"):
        vision_transformer("vit", **SIZES | {"image_size": (13, 30)})


@pytest.mark.oracle
@pytest.mark.parametrize("kind", KINDS)
def test_features_equal_the_pytorch_originals(kind):
    torch = pytest.importorskip("torch", reason='needs pip install "captioner[oracle]"')
    transformers = pytest.importorskip("transformers", reason='needs pip install "captioner[oracle]"')
    config_class, model_class = {
        "vit": (transformers.ViTConfig, transformers.ViTModel),
        "deit": (transformers.DeiTConfig, transformers.DeiTModel),
    }[kind]
    theirs = model_class(
        config_class(
            image_size=list(SIZES["image_size"]), patch_size=list(SIZES["patch_size"]), hidden_size=21,
            num_hidden_layers=2, num_attention_heads=3, intermediate_size=26,
        )
    ).eval()  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.3
            parameter.copy_(1 + noise if "layernorm" in name and name.endswith("weight") else noise)
    ours = vision_transformer(kind, **SIZES, pixel_mean=(0.4, 0.5, 0.6), pixel_std=(0.2, 0.3, 0.4))
    report = assign_strictly(
        saved_tensors(theirs), vision_transformer_table(ours), targets=ours.variables, ignored=IGNORED
    )
    assert report.new == () and set(report.ignored) == {"pooler.dense.weight", "pooler.dense.bias"}
    pixels = images()
    normalised = (pixels / 255 - [0.4, 0.5, 0.6]) / [0.2, 0.3, 0.4]
    with torch.no_grad():
        expected = theirs(
            torch.tensor(normalised.transpose(0, 3, 1, 2), dtype=torch.float32)
        ).last_hidden_state.numpy()
    found = keras.ops.convert_to_numpy(ours(pixels, training=False))
    assert expected.std() > 0.5
    np.testing.assert_allclose(found, expected, atol=1e-4)


def saved_tensors(model) -> dict:
    """The tensors under the names that `save_pretrained` writes."""
    import tempfile

    safetensors = pytest.importorskip("safetensors.numpy", reason='needs pip install "captioner[oracle]"')
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return safetensors.load_file(f"{folder}/model.safetensors")
