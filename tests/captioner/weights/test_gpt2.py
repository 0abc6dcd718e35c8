"""Pretrained GPT-2: every format gives the same predictions, and what does not fit is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from gpt2_folders import (
    SIZES,
    decoder_outputs,
    hugging_face_tensors,
    numpy_gpt2,
    openai_variables,
    write_arrays,
    write_byte_vocabulary,
    write_hugging_face_folder,
    write_openai_folder,
)
from tiny_captioner import IMAGE_SIZE, random_images, tiny_encoder

from captioner.model.gpt2_decoder import GPT2Decoder
from captioner.sampling import DecodingSettings
from captioner.weights import WeightsError, from_pretrained_gpt2, load_gpt2
from captioner.weights.gpt2_tokenizer import read_gpt2_tokenizer

DATA = Path(__file__).with_name("data")
TWO = SIZES["two_layers"]


def load_decoder(folder, **arguments):
    checkpoint = load_gpt2(folder)
    decoder = GPT2Decoder(**checkpoint.decoder_arguments, **arguments)
    decoder.build()
    return decoder, checkpoint.assign(decoder)


def random_inputs(sizes, length, seed=1):
    generator = np.random.default_rng(seed)
    token_ids = generator.integers(0, sizes["n_vocab"], (2, length)).astype("int32")
    return token_ids, generator.normal(size=(2, 5, sizes["n_embd"])).astype("float32")


def assert_same_predictions(decoder, sizes, variables):
    for length in (1, 4, sizes["n_ctx"]):
        token_ids, image_tokens = random_inputs(sizes, length)
        hidden, logits = decoder_outputs(decoder, token_ids, image_tokens)
        expected_hidden, expected_logits = numpy_gpt2(variables, sizes["n_head"], token_ids)
        assert expected_logits.std() > 0.5
        for ours, theirs in zip(hidden, expected_hidden, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4)
        np.testing.assert_allclose(logits, expected_logits, atol=1e-4)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_openai_checkpoint_predicts_as_the_original_whatever_the_image(sizes, tmp_path):
    variables = openai_variables(sizes)
    decoder, report = load_decoder(write_openai_folder(tmp_path / "gpt2", sizes, variables))
    assert_same_predictions(decoder, sizes, variables)
    assert report.assigned.keys() == variables.keys() and not report.ignored


def test_checkpoint_of_the_save_operation_loads_as_the_savers_does(tmp_path):
    import tensorflow as tf

    variables = openai_variables(TWO)
    folder = write_openai_folder(tmp_path / "gpt2", TWO, variables)
    for path in [*folder.glob("model.ckpt*"), folder / "checkpoint"]:
        path.unlink()
    tf.raw_ops.SaveV2(
        prefix=str(folder / "other.ckpt"), tensor_names=list(variables), shape_and_slices=[""] * len(variables),
        tensors=[tf.constant(array) for array in variables.values()],
    )  # fmt: skip
    assert_same_predictions(load_decoder(folder)[0], TWO, variables)


@pytest.mark.parametrize("prefix", ["transformer.", "", "decoder.transformer."])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_safetensors_predict_as_the_original_with_and_without_prefix(sizes, prefix, tmp_path):
    tensors = hugging_face_tensors(sizes, prefix)
    decoder, report = load_decoder(write_hugging_face_folder(tmp_path / "gpt2", sizes, tensors))
    assert_same_predictions(decoder, sizes, openai_variables(sizes))
    assert report.assigned.keys() == tensors.keys()


def test_shards_are_one_checkpoint(tmp_path):
    tensors = hugging_face_tensors(TWO)
    folder = write_hugging_face_folder(tmp_path / "gpt2", TWO, tensors)
    (folder / "model.safetensors").unlink()
    parts = {
        "a.safetensors": dict(list(tensors.items())[::2]),
        "b.safetensors": dict(list(tensors.items())[1::2]),
    }
    for name, part in parts.items():
        write_arrays(folder / name, part)
    index = {"weight_map": {tensor: name for name, part in parts.items() for tensor in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert_same_predictions(load_decoder(folder)[0], TWO, openai_variables(TWO))


@pytest.mark.parametrize("name", ["hdf5_bare", "hdf5_cross_attention"])
def test_tf_model_h5_of_transformers_predicts_as_it_did_there(name, tmp_path):
    folder = shutil.copytree(DATA / name, tmp_path / name)
    write_byte_vocabulary(folder)
    decoder, report = load_decoder(folder)
    expected = np.load(folder / "expected.npz")
    hidden, logits = decoder_outputs(decoder, expected["token_ids"], expected["image_tokens"])
    assert expected["logits"].std() > 0.3
    # Theirs begin with the embeddings, and end with the normalised state.
    for ours, theirs in zip(hidden[:-1], expected["hidden_states"][1:-1], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    np.testing.assert_allclose(logits, expected["logits"], atol=1e-4)
    assert bool(report.new) == (name == "hdf5_bare") and not report.ignored


def test_masks_and_the_tied_head_are_ignored_with_a_reason(tmp_path):
    tensors = hugging_face_tensors(TWO)
    mask = np.ones((1, 1, 11, 11), "float32")
    extra = {
        "transformer.h.0.attn.bias": mask,
        "transformer.h.1.attn.masked_bias": np.float32(-1e4).reshape(1),
    }
    extra["lm_head.weight"] = tensors["transformer.wte.weight"]
    decoder, report = load_decoder(write_hugging_face_folder(tmp_path / "gpt2", TWO, tensors | extra))
    assert report.ignored.keys() == extra.keys() and "tied" in report.ignored["lm_head.weight"]
    assert_same_predictions(decoder, TWO, openai_variables(TWO))


def test_fresh_cross_attention_is_new_silent_and_can_learn(tmp_path):
    folder = write_hugging_face_folder(tmp_path / "gpt2", TWO, hugging_face_tensors(TWO))
    decoder, report = load_decoder(folder)
    variables = [
        v for block in decoder.blocks for layer in block.cross_attention_layers for v in layer.weights
    ]
    assert set(report.new) == {variable.path for variable in variables}
    block = decoder.blocks[0]
    assert not np.any(block.cross_attention_output.kernel) and np.any(block.cross_attention_query.kernel)
    token_ids, image_tokens = random_inputs(TWO, 4)
    before = decoder_outputs(decoder, token_ids, image_tokens)[1]
    block.cross_attention_output.kernel.assign(np.eye(8))
    after, other = (decoder_outputs(decoder, token_ids, image)[1] for image in (image_tokens, -image_tokens))
    assert np.abs(after - before).max() > 1e-2 and np.abs(after - other).max() > 1e-2


def test_added_tokens_become_special_tokens(tmp_path):
    sizes = TWO | {"n_vocab": 259}
    folder = write_hugging_face_folder(tmp_path / "gpt2", sizes, hugging_face_tensors(sizes))
    (folder / "added_tokens.json").write_text(json.dumps({"<pad>": 258, "<start>": 257}))
    checkpoint = load_gpt2(folder)
    assert checkpoint.tokenizer.special_token_names == ["<start>", "<pad>"]
    decoder, report = load_decoder(folder)
    assert report.assigned["transformer.wte.weight"].count("embeddings") == 2
    assert decoder.token_embedding.special_embeddings.shape == (2, 8)
    assert_same_predictions(decoder, sizes, openai_variables(sizes))


def test_one_line_makes_a_captioner_around_it(tmp_path):
    folder = write_hugging_face_folder(tmp_path / "gpt2", TWO, hugging_face_tensors(TWO))
    captioner = from_pretrained_gpt2(folder, image_encoder=tiny_encoder(), image_size=IMAGE_SIZE)
    assert_same_predictions(captioner.backbone.decoder, TWO, openai_variables(TWO))
    (captions,) = captioner.caption(random_images(1), DecodingSettings(sampler="greedy", max_length=3))
    assert len(captions[0].token_ids) <= 3


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("activation_function", "relu"),
        ("scale_attn_weights", False),
        ("scale_attn_by_inverse_layer_idx", True),
        ("tie_word_embeddings", False),
        ("model_type", "gpt_neo"),
        ("layer_norm_epsilon", 0),
        ("n_head", 3),
        ("n_layer", 10**9),
        ("n_layer", 3),
        ("n_embd", 10**12),
        ("n_embd", "8"),
        ("n_inner", 31),
        ("n_positions", True),
        ("n_positions", 10**6),
        ("vocab_size", 50257),
        ("eos_token_id", 50256),
    ],
)
def test_a_config_that_our_decoder_cannot_follow_is_refused_by_name(option, value, tmp_path):
    folder = write_hugging_face_folder(tmp_path / "gpt2", TWO, hugging_face_tensors(TWO), **{option: value})
    with pytest.raises(WeightsError) as error:
        load_decoder(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("transformer.h.1.ln_2.bias"), r"lacks: transformer\.h\.1\.ln_2\.bias"),
        (lambda t: t.pop("transformer.wte.weight"), r"one tensor named wte\.weight"),
        (lambda t: t.update(surplus=np.zeros(3, "float32")), r"the model does not: surplus \(3,\)"),
        (
            lambda t: t.update({"transformer.h.0.ln_1.bias": np.zeros((1, 8), "float32")}),
            r"shapes differ: transformer\.h\.0\.ln_1\.bias \(1, 8\)",
        ),
        (
            lambda t: t.update({"transformer.h.0.crossattention.c_proj.bias": np.zeros(8, "float32")}),
            r"lacks: .*crossattention",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(change, message, tmp_path):
    tensors = hugging_face_tensors(TWO)
    change(tensors)
    with pytest.raises(WeightsError, match=message):
        load_decoder(write_hugging_face_folder(tmp_path / "gpt2", TWO, tensors))


def test_a_pickle_is_refused_with_the_way_out(tmp_path):
    folder = write_hugging_face_folder(tmp_path / "gpt2", TWO, {})
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    with pytest.raises(WeightsError, match=r"is a pickle.*save_pretrained"):
        load_gpt2(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [("vocab.json", "[]"), ("vocab.json", '{"a": 0}'), ("config.json", "{"), ("config.json", "[" * 10**5)],
)
def test_damaged_json_is_an_error_of_one_line(name, content, tmp_path):
    folder = write_hugging_face_folder(tmp_path / "gpt2", TWO, hugging_face_tensors(TWO))
    (folder / name).write_text(content)
    with pytest.raises(WeightsError) as error:
        load_gpt2(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "vocab.json"])
def test_a_link_out_of_the_folder_is_refused(name, tmp_path):
    folder = write_hugging_face_folder(tmp_path / "gpt2", TWO, hugging_face_tensors(TWO))
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(WeightsError, match="link out of its folder"):
        load_gpt2(folder)


def test_the_links_of_the_hugging_face_cache_are_followed(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshots").mkdir()
    folder = write_hugging_face_folder(tmp_path / "snapshots" / "1a2b", TWO, hugging_face_tensors(TWO))
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(tmp_path / "blobs" / str(number))
        path.symlink_to(f"../../blobs/{number}")
    assert_same_predictions(load_decoder(folder)[0], TWO, openai_variables(TWO))


@pytest.mark.parametrize("model", [None, [], "BPE"])
def test_a_tokenizer_json_of_another_shape_is_refused(tmp_path, model):
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model}))
    with pytest.raises(WeightsError, match="the tokenizer cannot be used"):
        read_gpt2_tokenizer(tmp_path, {"bos_token_id": 0, "eos_token_id": 0})
