"""Hugging Face's ViT-GPT2 captioners: every tensor finds its place, and what does not fit is refused in one line."""

import numpy as np
import pytest
from hugging_face_captioners import DECODING, photos, rewrite_json, write_captioner_tensors, write_tensors

from captioner.model import ImageCaptioner
from captioner.weights import WeightsError
from captioner.weights.hugging_face_captioner import is_hugging_face_captioner, load_hugging_face_captioner
from tools.main import main


@pytest.fixture
def tensors(tmp_path):
    return write_captioner_tensors(tmp_path / "vit-gpt2")


@pytest.fixture
def folder(tmp_path, tensors):
    return tmp_path / "vit-gpt2"


def test_only_an_encoder_with_a_decoder_is_taken_for_a_captioner(folder, tmp_path):
    assert is_hugging_face_captioner(folder)
    rewrite_json(folder / "config.json", model_type="gpt2")
    assert not is_hugging_face_captioner(folder)
    assert not is_hugging_face_captioner(tmp_path)


def test_every_tensor_is_used_or_has_its_reason(folder, tensors):
    _, report = load_hugging_face_captioner(folder)
    assert {*report.assigned, *report.ignored} == set(tensors) and report.new == ()
    assert set(report.ignored) == {"encoder.pooler.dense.weight", "encoder.pooler.dense.bias"}


def test_masks_of_older_releases_are_left_out(folder, tensors):
    mask = {
        f"decoder.transformer.h.1.{name}.bias": np.ones((1, 1, 17, 17), "float32")
        for name in ("attn", "crossattention")
    }
    write_tensors(folder, tensors | mask | {"decoder.transformer.h.0.attn.masked_bias": np.float32(-1e4)})
    _, report = load_hugging_face_captioner(folder)
    assert len(report.ignored) == 5


def test_a_pickle_is_refused_with_the_way_out(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(
        WeightsError, match=r"is a pickle.*import VisionEncoderDecoderModel as M; .*save_pretrained"
    ):
        load_hugging_face_captioner(folder)


def test_a_distillation_token_goes_between_class_token_and_patches(tmp_path):
    tensors = write_captioner_tensors(tmp_path, "deit")
    captioner, _ = load_hugging_face_captioner(tmp_path)
    assert captioner.backbone.image_encoder.output_shape == (None, 8, 15)
    _, token = captioner.backbone.image_encoder.get_layer("patch_tokens").tokens
    np.testing.assert_array_equal(token, tensors["encoder.embeddings.distillation_token"])


def test_the_command_makes_a_preset_that_captions_with_the_folders_settings(folder, tmp_path, capsys):
    out = tmp_path / "preset"
    assert main(["convert", "huggingface", str(folder), str(out)]) == 0
    assert "2 ignored, 0 variables new" in capsys.readouterr().out
    captioner = ImageCaptioner.from_preset(out)
    assert captioner.preprocessor.decoding == DECODING
    converted, _ = load_hugging_face_captioner(folder)
    assert captioner.caption(photos(2)) == converted.caption(photos(2))


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"early_stopping": None}, {"early_stopping": "likely"}),  # their default is false
        ({"early_stopping": True, "no_repeat_ngram_size": 2}, {"early_stopping": "first", "no_repeat_ngram_size": 2}),
        ({"num_beams": None, "early_stopping": None}, {"num_beams": 1, "early_stopping": "first"}),  # greedy
        ({"min_length": 7}, {"min_length": 7}),
        ({"min_length": 7, "min_new_tokens": 8}, {"min_length": 9}),  # theirs counts no end token, ours does
        ({"max_length": 9, "max_new_tokens": 11}, {"max_length": 11}),
        ({"max_length": None}, {"max_length": 17}),  # 19, but for the decoder's positions
        ({"decoder_start_token_id": 0, "repetition_penalty": 1.5}, {"repetition_penalty": 1.5}),
    ],
    ids=str,
)  # fmt: skip
def test_generation_settings_become_decoding_settings(folder, theirs, ours):
    rewrite_json(folder / "generation_config.json", **theirs)
    captioner, _ = load_hugging_face_captioner(folder)
    assert captioner.preprocessor.decoding == DECODING | ours


def test_flags_of_an_image_side_are_refused_for_a_whole_captioner(folder, tmp_path, capsys):
    words = ["convert", "huggingface", str(folder), str(tmp_path / "out"), "--image-encoder", "resnet50"]
    assert main(words) == 2
    assert "--image-encoder does not apply" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_tensor_too_many_or_too_few_is_named(folder, tensors):
    write_tensors(folder, tensors | {"encoder.extra": np.zeros((2, 3), "float32")})
    with pytest.raises(WeightsError, match=r"has tensors that the model does not: encoder\.extra \(2, 3\)"):
        load_hugging_face_captioner(folder)
    del tensors["enc_to_dec_proj.bias"]
    write_tensors(folder, tensors)
    with pytest.raises(WeightsError, match=r"the checkpoint lacks: enc_to_dec_proj\.bias"):
        load_hugging_face_captioner(folder)


def test_a_decoder_that_cannot_see_is_refused(folder, tensors):
    write_tensors(folder, {name: x for name, x in tensors.items() if "cross" not in name})
    with pytest.raises(WeightsError, match="no cross-attention, so it cannot see the image"):
        load_hugging_face_captioner(folder)


def test_an_output_projection_of_its_own_is_refused(folder, tensors):
    head = tensors["decoder.transformer.wte.weight"].copy()
    write_tensors(folder, tensors | {"decoder.lm_head.weight": head})
    load_hugging_face_captioner(folder)  # a copy of the embedding is welcome
    head[3, 4] += 1
    write_tensors(folder, tensors | {"decoder.lm_head.weight": head})
    with pytest.raises(
        WeightsError, match=r"decoder\.lm_head\.weight differs from decoder\.transformer\.wte\.weight"
    ):
        load_hugging_face_captioner(folder)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (
            "config.json",
            {"model_type": "blip"},
            "`model_type` must be vision-encoder-decoder; received 'blip'",
        ),
        ("config.json", {"decoder": None}, "`decoder` of config.json must be an object"),
        ("config.json", {"encoder": {"model_type": "swin"}}, "must be vit or deit; received 'swin'"),
        (
            "config.json",
            {"encoder": {"model_type": "vit", "hidden_act": "relu"}},
            "`hidden_act`.*must be 'gelu'",
        ),
        (
            "config.json",
            {"encoder": {"model_type": "vit", "hidden_size": 2**40}},
            "`hidden_size`.*count from 1",
        ),
        (
            "config.json",
            {"encoder": {"model_type": "vit"}},
            r"projection\.weight must be of shape \(768, 3, 16, 16\)",
        ),
        (
            "preprocessor_config.json",
            {"size": {"shortest_edge": 224}},
            "`size` must have `height` and `width`",
        ),
        ("preprocessor_config.json", {"size": 224}, r"must end at the encoder's `image_size` \(12, 18\)"),
        ("preprocessor_config.json", {"resample": 1}, "`resample` must be 2"),
        ("preprocessor_config.json", {"do_resize": False}, "`do_resize` must be true"),
        ("preprocessor_config.json", {"image_std": [0, 1, 1]}, "`image_std` must be three numbers"),
        ("preprocessor_config.json", {"rescale_factor": "1"}, "`rescale_factor` must be above 0"),
        ("generation_config.json", {"do_sample": True}, "`do_sample`=True .* is not among ours"),
        ("generation_config.json", {"sequence_bias": [[[5], -1.0]]}, "`sequence_bias`=.* is not among ours"),
        ("generation_config.json", {"num_beams": 0}, "`num_beams` must be at least 1"),
        ("generation_config.json", {"num_beams": "5"}, "`num_beams` .* must be a whole number"),
        ("generation_config.json", {"length_penalty": -1.0}, "`length_penalty` must be 0 or more"),
        ("generation_config.json", {"early_stopping": "soon"}, "`early_stopping` .* or 'never'; received"),
        ("generation_config.json", {"min_length": 14}, "`min_length` must be from 0 to max_length=13"),
        (
            "generation_config.json",
            {"repetition_penalty": 1.5},
            "`repetition_penalty`=1.5 .* end of captions",
        ),
        (
            "generation_config.json",
            {"no_repeat_ngram_size": 1},
            "`no_repeat_ngram_size`=1 .* end of captions",
        ),
        (
            "generation_config.json",
            {"decoder_start_token_id": 0, "num_beams": 1, "repetition_penalty": 1.5},
            "`repetition_penalty` with `num_beams`=1 is of logits",
        ),
        ("generation_config.json", {"eos_token_id": [1, 2]}, "`eos_token_id` must be one token's id"),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(folder, file, changes, message):
    rewrite_json(folder / file, **changes)
    with pytest.raises(WeightsError, match=message) as error:
        load_hugging_face_captioner(folder)
    assert str(error.value).startswith(str(folder)) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "file", ["config.json", "preprocessor_config.json", "model.safetensors", "vocab.json"]
)
def test_a_missing_file_is_named(folder, file):
    (folder / file).unlink()
    with pytest.raises(WeightsError, match=rf"must hold .*{file.split('.')[0]}|tokenizer"):
        load_hugging_face_captioner(folder)
