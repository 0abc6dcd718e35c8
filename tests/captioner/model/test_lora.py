"""Low-rank updates by hand: the forward pass, the merge, what is trained, and what stays. D=22, R=3."""

import keras
import numpy as np
import pytest
from tiny_captioner import logits_of, random_batch, tiny_captioner

from captioner.model import CaptionerBackbone, ImageCaptioner
from captioner.model.lora import LORA_PARTS, add_lora, merged_weights

ATTENTION = {"query_key_value", "self_attention_output"}
CROSS = {"cross_attention_query", "cross_attention_key_value", "cross_attention_output"}
MLP = {"mlp_intermediate", "mlp_output"}


def adapted(parts=LORA_PARTS, rank=3, alpha=6.0, **changes):
    """A captioner whose updates are random, not zero."""
    model = tiny_captioner()
    add_lora(model.backbone.decoder, parts, rank, alpha, **changes)
    generator = np.random.default_rng(0)
    for variable in model.variables:
        if "lora" in variable.path:
            variable.assign(generator.normal(0, 0.3, variable.shape))
    return model


def trained_layers(model):
    return {variable.path.split("/")[-2] for variable in model.backbone.decoder.trainable_variables}


def merged(model):
    backbone = CaptionerBackbone.from_config(model.backbone.get_config())
    backbone.set_weights(merged_weights(model.backbone))
    return ImageCaptioner(backbone, model.preprocessor)


def test_a_projection_adds_its_scaled_update_to_its_kernel():
    layer = adapted().backbone.decoder.blocks[1].cross_attention_query
    kernel, bias, down, up = (
        np.array(v) for v in (layer._kernel, layer.bias, layer.lora_kernel_a, layer.lora_kernel_b)
    )
    assert down.shape == (22, 3) and up.shape == (3, 22)
    x = np.random.default_rng(1).normal(size=(2, 5, 22)).astype("float32")
    by_hand = x @ kernel + 6.0 / 3 * (x @ down) @ up + bias
    np.testing.assert_allclose(np.array(layer(x)), by_hand, rtol=1e-4, atol=1e-4)
    assert np.abs(by_hand - (x @ kernel + bias)).max() > 1


def test_before_training_nothing_is_said_otherwise():
    model = tiny_captioner()
    batch = random_batch(model, 1, 2, 4)
    before = logits_of(model, batch)
    add_lora(model.backbone.decoder, LORA_PARTS, 3, 6.0, mlp=True)
    np.testing.assert_array_equal(logits_of(model, batch), before)


def test_merged_weights_give_the_logits_of_base_and_updates():
    model = adapted(mlp=True)
    batch = random_batch(model, 2, 3, 5)
    expected = logits_of(model, batch)
    np.testing.assert_allclose(logits_of(merged(model), batch), expected, rtol=1e-4, atol=1e-4)
    assert np.abs(expected - logits_of(tiny_captioner(), batch)).max() > 1


def test_merged_weights_without_lora_are_the_weights():
    backbone = tiny_captioner().backbone
    for merged_weight, weight in zip(merged_weights(backbone), backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(merged_weight, weight)


def test_the_merge_is_exact_also_where_the_model_computes_in_bfloat16():
    model = tiny_captioner(dtype="mixed_bfloat16")
    add_lora(model.backbone.decoder, ["decoder"], 1, 1.0)
    layer = model.backbone.decoder.blocks[0].self_attention_output
    layer._kernel.assign(np.full((22, 22), 1 + 2**-12))  # bfloat16 would make it 1
    layer.lora_kernel_a.assign(np.ones((22, 1)))
    layer.lora_kernel_b.assign(np.full((1, 22), 2**-14))
    plain = merged(model).backbone.decoder.blocks[0].self_attention_output
    assert set(np.array(plain.kernel).ravel()) == {np.float32(1 + 2**-12 + 2**-14)}


def test_a_saved_preset_has_the_merged_weights(tmp_path):
    model = adapted()
    model.save_to_preset(str(tmp_path))
    batch = random_batch(model, 1, 2, 4)
    loaded = ImageCaptioner.from_preset(str(tmp_path))
    assert not any("lora" in variable.path for variable in loaded.variables)
    np.testing.assert_allclose(logits_of(loaded, batch), logits_of(model, batch), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("parts", "mlp", "layers", "inputs_and_outputs"),
    [
        (["decoder"], False, ATTENTION, (22 + 66) + (22 + 22)),
        (["decoder"], True, ATTENTION | MLP, (22 + 66) + (22 + 22) + 2 * (22 + 26)),
        (["cross_attention"], False, CROSS, (22 + 22) + (22 + 44) + (22 + 22)),
        (LORA_PARTS, False, ATTENTION | CROSS, (22 + 66) + (22 + 22) + (22 + 22) + (22 + 44) + (22 + 22)),
    ],
)
def test_exactly_the_updates_of_the_parts_are_trained(parts, mlp, layers, inputs_and_outputs):
    model = adapted(parts, mlp=mlp)
    model.backbone.set_trainable_parts(parts)
    assert trained_layers(model) == layers | (set() if "decoder" in parts else {"token_embedding"})
    updates = [v for v in model.backbone.decoder.trainable_variables if "special" not in v.path]
    assert all("lora" in variable.path for variable in updates)
    assert sum(np.prod(variable.shape) for variable in updates) == 2 * 3 * inputs_and_outputs


def test_parts_chosen_anew_never_train_what_has_updates():
    model = adapted(["decoder"])
    model.backbone.set_trainable_parts(("decoder", "embeddings", "image_blocks", "cross_attention"))
    assert trained_layers(model) == ATTENTION | CROSS | {"cross_attention_norm"}
    assert all(
        ("lora" in v.path) == ("cross" not in v.path) for v in model.backbone.decoder.trainable_variables
    )
    assert model.backbone.image_tokens.trainable_variables
    model.backbone.set_trainable_parts(("cross_attention",))
    assert not any("lora" in variable.path for variable in model.trainable_variables)


def test_a_step_moves_the_updates_and_leaves_the_weights_under_them_bit_identical():
    model = tiny_captioner()
    model.backbone.set_trainable_parts(("decoder", "cross_attention"))
    add_lora(model.backbone.decoder, LORA_PARTS, 3, 6.0, mlp=True)
    before = {v.path: np.array(v) for v in model.variables}
    model.compile(optimizer=keras.optimizers.AdamW(0.1, weight_decay=0.1), run_eagerly=True)
    batch = random_batch(model, 2, 2, 5)
    model.preprocessor = None
    for _ in range(2):  # A moves as soon as B is not zero
        model.train_on_batch(batch, batch["token_ids"])
    moved = {v.path for v in model.variables if not np.array_equal(np.array(v), before[v.path])}
    updates = {path for path in before if "lora" in path}
    assert len(updates) == 2 * 2 * 7
    assert {path for path in moved if "seed_generator" not in path} == updates


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["image_blocks"], 2), r"`parts` must be of cross_attention, decoder; received \['image_blocks'\]"),
        ((["decoder"], 0), "`rank` must be at least 1; received rank=0"),
        ((["cross_attention"], 2), r"must not have LoRA yet; received \['cross_attention'\]"),
    ],
)
def test_impossible_updates_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        add_lora(adapted(["cross_attention"]).backbone.decoder, *arguments, 1.0)
