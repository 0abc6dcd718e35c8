"""The backbone: texts per image, freezing by part, number formats, re-creation."""

import keras
import numpy as np
import pytest
from tiny_captioner import (
    NUM_IMAGE_TOKENS,
    logits_of,
    random_batch,
    random_images,
    tiny_captioner,
    tiny_encoder,
)

from captioner.model import CaptionerBackbone, ImageCaptioner
from captioner.model.backbone import PARTS
from captioner.model.encoder_split import split_image_encoder


@pytest.fixture(scope="module")
def model():
    return tiny_captioner()


def test_texts_of_one_pass_equal_separate_passes(model):
    batch = random_batch(model, 2, 3, 6)
    together = logits_of(model, batch)
    for g in range(3):
        texts = {key: batch[key][:, g : g + 1] for key in ("token_ids", "padding_mask")}
        alone = logits_of(model, {"images": batch["images"], **texts})
        np.testing.assert_allclose(together[:, g : g + 1], alone, atol=1e-4, rtol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 0.1


def test_a_text_without_the_axis_of_texts_is_one_text_per_image(model):
    batch = random_batch(model, 2, 1, 6)
    flat = {"images": batch["images"], **{k: batch[k][:, 0] for k in ("token_ids", "padding_mask")}}
    logits = logits_of(model, flat)
    assert logits.shape == (2, 6, model.preprocessor.tokenizer.vocabulary_size())
    np.testing.assert_allclose(logits, logits_of(model, batch)[:, 0], atol=1e-5)


def test_a_text_reads_its_image(model):
    batch = random_batch(model, 2, 1, 6)
    swapped = batch | {"images": batch["images"][::-1].copy()}
    assert np.abs(logits_of(model, batch) - logits_of(model, swapped)).max() > 0.1


def test_encoded_images_are_what_the_full_pass_reads(model):
    tokens = model.backbone.encode_images(random_batch(model, 2, 1, 3)["images"])
    assert tokens.shape == (2, NUM_IMAGE_TOKENS, 22)


BLOCK = (
    "self_attention_norm",
    "query_key_value",
    "self_attention_output",
    "mlp_norm",
    "mlp_intermediate",
    "mlp_output",
)
CROSS = tuple(f"cross_attention_{name}" for name in ("norm", "query", "key_value", "output"))
SPECIAL = {"decoder/token_embedding/special_embeddings"}


def weights_of(prefix, layers):
    ends = {True: ("gamma", "beta"), False: ("kernel", "bias")}
    return {f"{prefix}/{name}/{end}" for name in layers for end in ends[name.endswith("norm")]}


VARIABLES = {
    "image_encoder": {"cells/kernel", "cells/bias"},
    "image_blocks": weights_of("image_tokens/tokens", ("norm", "projection"))
    | {"image_tokens/tokens/positions"}
    | weights_of("image_tokens/block_0", BLOCK)
    | weights_of("image_tokens", ("final_norm",)),
    "cross_attention": weights_of("decoder/block_0", CROSS) | weights_of("decoder/block_1", CROSS),
    "decoder": weights_of("decoder/block_0", BLOCK)
    | weights_of("decoder/block_1", BLOCK)
    | weights_of("decoder", ("final_norm",)),
    "embeddings": {"decoder/position_embedding", "decoder/token_embedding/embeddings"},
}


def trainable_paths(model):
    return sorted(variable.path for variable in model.trainable_variables)


@pytest.mark.parametrize(
    "parts", [(), *[(part,) for part in PARTS], ("cross_attention", "image_blocks"), PARTS]
)
def test_exactly_the_named_parts_and_the_special_tokens_are_trained(parts):
    model = tiny_captioner()
    model.backbone.set_trainable_parts(("decoder", "image_encoder"))  # what was set before leaves no trace
    model.backbone.set_trainable_parts(parts)
    assert trainable_paths(model) == sorted(SPECIAL.union(*(VARIABLES[part] for part in parts)))
    assert trainable_paths(model.backbone) == trainable_paths(model)


def test_an_unknown_part_is_refused(model):
    with pytest.raises(ValueError, match=r"`parts` must be of image_encoder.*received \['head'\]"):
        model.backbone.set_trainable_parts(["decoder", "head"])


def deep_encoder():
    images = keras.Input((9, 15, 3))
    x = keras.layers.Conv2D(4, 3, strides=3, name="front")(images)
    x = keras.layers.BatchNormalization(name="front_norm")(x)
    return keras.Model(images, keras.layers.Conv2D(5, 1, name="back")(x))


def test_the_front_of_the_image_encoder_may_stay_frozen():
    model = tiny_captioner(image_encoder=deep_encoder())
    model.backbone.set_trainable_parts(["image_encoder"], frozen_until="front_norm")
    assert trainable_paths(model) == sorted({"back/bias", "back/kernel"} | SPECIAL)


def test_cached_features_give_the_same_logits():
    model = tiny_captioner(image_encoder=deep_encoder())
    split = split_image_encoder(model.backbone.image_encoder, "front_norm")
    batch = random_batch(model, 2, 3, 5)
    cached = {key: keras.ops.convert_to_tensor(value) for key, value in batch.items()}
    cached["images"] = split.frozen(batch["images"], training=False)
    logits = keras.ops.convert_to_numpy(model.backbone.feature_model(split)(cached, training=False))
    np.testing.assert_allclose(logits, logits_of(model, batch), atol=1e-5)


def test_one_step_beside_a_frozen_embedding_moves_special_tokens_only():
    model = tiny_captioner()
    model.backbone.set_trainable_parts(())
    before = {v.path: keras.ops.convert_to_numpy(v) for v in model.variables}
    model.compile(optimizer=keras.optimizers.Adam(0.1), jit_compile=False, run_eagerly=True)
    x, y, weight = model.preprocessor(
        {"images": random_batch(model, 1, 1, 2)["images"], "captions": ["a dog"]}
    )
    preprocessor, model.preprocessor = model.preprocessor, None
    model.train_on_batch(x, y, weight)
    model.preprocessor = preprocessor
    moved = {v.path for v in model.variables if (keras.ops.convert_to_numpy(v) != before[v.path]).any()}
    assert moved == SPECIAL


@pytest.mark.parametrize("train_batch_norm", [False, True])
def test_batch_statistics_are_learned_only_on_demand(train_batch_norm):
    """A functional graph hands its `training` on to nested models, whatever they were built with."""
    model = tiny_captioner(image_encoder=deep_encoder(), train_batch_norm=train_batch_norm)
    mean = next(v for v in model.variables if v.path == "front_norm/moving_mean")
    batch = random_batch(model, 2, 1, 3)
    trained = keras.ops.convert_to_numpy(model(batch, training=True))
    assert (np.abs(keras.ops.convert_to_numpy(mean)).max() > 0) == train_batch_norm
    if not train_batch_norm:
        np.testing.assert_allclose(trained, logits_of(model, batch), atol=1e-5)


def test_training_from_cached_features_keeps_the_batch_statistics():
    model = tiny_captioner(image_encoder=deep_encoder())
    split = split_image_encoder(model.backbone.image_encoder, "front")
    from_features = model.backbone.feature_model(split)
    model.backbone.set_trainable_parts(["image_encoder"], frozen_until="front")
    mean = next(v for v in model.variables if v.path == "front_norm/moving_mean")
    gamma = next(v for v in model.variables if v.path == "front_norm/gamma")
    before = keras.ops.convert_to_numpy(gamma).copy()
    batch = random_batch(model, 2, 2, 4)
    targets = batch["token_ids"]
    batch["images"] = keras.ops.convert_to_numpy(split.frozen(batch["images"], training=False))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    from_features.compile(keras.optimizers.Adam(0.1), loss, run_eagerly=True, jit_compile=False)
    from_features.train_on_batch(batch, targets)
    assert np.abs(keras.ops.convert_to_numpy(mean)).max() == 0
    assert np.abs(keras.ops.convert_to_numpy(gamma) - before).max() > 0


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "bfloat16", "mixed_float16", "float16"])
def test_number_formats_stay_close_to_float32(dtype):
    keras.utils.set_random_seed(0)
    sizes = {
        "image_size": (9, 15),
        "vocabulary_size": 31,
        "num_special_tokens": 2,
        "hidden_dim": 22,
        "num_heads": 2,
    }
    sizes |= {"num_image_layers": 1, "num_layers": 2, "max_sequence_length": 8}
    single, other = (CaptionerBackbone(tiny_encoder(), **sizes, dtype=d) for d in ("float32", dtype))
    other.set_weights(single.get_weights())
    batch = {
        "images": np.random.default_rng(0).uniform(0, 255, (2, 9, 15, 3)).astype("float32"),
        "token_ids": np.random.default_rng(1).integers(0, 33, (2, 3, 5)).astype("int32"),
        "padding_mask": np.ones((2, 3, 5), bool),
    }
    exact, close = (
        keras.ops.convert_to_numpy(b.token_embedding(b(batch, training=False), reverse=True))
        for b in (single, other)
    )
    assert close.dtype == "float32"
    assert {v.dtype for v in other.decoder.variables} == {
        dtype.removeprefix("mixed_") if "mixed" not in dtype else "float32"
    }
    assert 0 < np.abs(close - exact).max() < 0.05 * np.abs(exact).max() + 0.01


def test_a_backbone_comes_back_from_its_config():
    backbone = tiny_captioner().backbone
    again = CaptionerBackbone.from_config(backbone.get_config())
    again.set_weights(backbone.get_weights())
    assert again.get_config() | {"name": ""} == backbone.get_config() | {"name": ""}
    batch = random_batch(tiny_captioner(), 2, 2, 4)
    np.testing.assert_array_equal(
        *(keras.ops.convert_to_numpy(b(batch, training=False)) for b in (backbone, again))
    )


def test_lora_changes_nothing_until_it_is_trained(model):
    model = tiny_captioner()
    batch = random_batch(model, 1, 2, 4)
    before = logits_of(model, batch)
    model.backbone.enable_lora(2)
    np.testing.assert_allclose(logits_of(model, batch), before, atol=1e-4)
    adapted = {path.split("/")[-2] for path in trainable_paths(model) if "lora" in path}
    cross = {f"cross_attention_{name}" for name in ("query", "key_value", "output")}
    assert adapted == {"query_key_value", "self_attention_output"} | cross


def test_plain_image_tokens_are_the_encoders_sequence_and_survive_a_preset(tmp_path):
    model = tiny_captioner(
        image_encoder=tiny_encoder(channels=22), plain_image_tokens=True, num_image_layers=0
    )
    images = random_images(2).astype("float32")
    tokens = keras.ops.convert_to_numpy(model.backbone.encode_images(images))
    features = keras.ops.convert_to_numpy(model.backbone.image_encoder(images))
    np.testing.assert_array_equal(tokens, features.reshape(2, NUM_IMAGE_TOKENS, 22))
    inputs = random_batch(model, 2, 3, 5)
    expected = logits_of(model, inputs)
    model.save_to_preset(tmp_path / "preset")
    again = ImageCaptioner.from_preset(tmp_path / "preset")
    np.testing.assert_array_equal(logits_of(again, inputs), expected)


def test_plain_image_tokens_with_blocks_of_ours_are_refused():
    with pytest.raises(ValueError, match=r"`num_image_layers` must be 0.*received num_image_layers=1"):
        tiny_captioner(plain_image_tokens=True)
