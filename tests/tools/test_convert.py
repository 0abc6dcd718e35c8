"""`captioner convert`: a folder becomes a preset and goes back, or an error leaves nothing behind."""

import json

import keras
import numpy as np
import pytest
from gpt2_folders import (
    SIZES,
    hugging_face_tensors,
    openai_variables,
    write_hugging_face_folder,
    write_openai_folder,
)
from tiny_captioner import tiny_captioner

import tools
from captioner.model import ImageCaptioner
from captioner.weights import load_gpt2
from tools.main import main

TWO = SIZES["two_layers"]
SMALL = ["--image-encoder", "efficientnet_lite0", "--image-encoder-weights", "none", "--image-size-px", "32"]


@pytest.fixture
def hugging_face(tmp_path):
    return write_hugging_face_folder(tmp_path / "hf", TWO, hugging_face_tensors(TWO))


def weights_of(decoder):
    return {v.path.split("/", 1)[1]: keras.ops.convert_to_numpy(v) for v in decoder.weights}


def test_openai_to_a_preset_and_on_to_hugging_face_and_back(tmp_path, capsys):
    folder = write_openai_folder(tmp_path / "oa", TWO, openai_variables(TWO))
    assert main(["convert", "openai", str(folder), str(tmp_path / "preset"), *SMALL]) == 0
    assert "28 tensors assigned, 0 ignored, 16 variables new" in capsys.readouterr().out
    report = json.loads((tmp_path / "preset" / "weights_report.json").read_text())
    assert len(report["assigned"]) == 28 and len(report["new"]) == 16
    captioner = ImageCaptioner.from_preset(tmp_path / "preset")
    assert captioner.backbone.image_size == (32, 32) and captioner.backbone.image_encoder_name == SMALL[1]

    assert main(["convert", "--to", "huggingface", str(tmp_path / "preset"), str(tmp_path / "back")]) == 0
    tensors = load_gpt2(tmp_path / "back").tensors
    for name, array in hugging_face_tensors(TWO).items():
        np.testing.assert_array_equal(tensors[name], array, err_msg=name)


def test_hugging_face_to_a_preset(hugging_face, tmp_path, capsys):
    assert main(["convert", "huggingface", str(hugging_face), str(tmp_path / "preset"), *SMALL]) == 0
    decoder = ImageCaptioner.from_preset(tmp_path / "preset").backbone.decoder
    np.testing.assert_array_equal(
        decoder.token_embedding.embeddings, hugging_face_tensors(TWO)["transformer.wte.weight"]
    )


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: truncate(folder / "model.safetensors"), "not a whole safetensors file"),
        (lambda folder: (folder / "vocab.json").unlink(), "must hold a tokenizer"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'), "`model_type`"),
    ],
)
def test_a_damaged_folder_is_one_line_and_leaves_nothing(damage, says, hugging_face, tmp_path, capsys):
    damage(hugging_face)
    assert main(["convert", "huggingface", str(hugging_face), str(tmp_path / "out" / "preset"), *SMALL]) == 1
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def test_a_failure_while_writing_leaves_nothing(hugging_face, tmp_path, capsys, monkeypatch):
    def fail(self, path):
        (tmp_path / "seen").write_text(path)
        raise OSError("disk full")

    monkeypatch.setattr(ImageCaptioner, "save_to_preset", fail)
    assert main(["convert", "huggingface", str(hugging_face), str(tmp_path / "out" / "preset"), *SMALL]) == 1
    assert "disk full" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == [] and (tmp_path / "seen").read_text().startswith(
        str(tmp_path)
    )


@pytest.mark.parametrize("words", [["openai"], ["huggingface"], ["--to", "huggingface"]])
def test_an_existing_out_is_never_touched(words, hugging_face, tmp_path, capsys):
    (hugging_face / "hparams.json").write_text("{}")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    assert main(["convert", *words, str(hugging_face), str(tmp_path / "out")]) == 2
    assert "`out` must not exist" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_the_other_kind_of_folder_is_a_usage_error(hugging_face, tmp_path, capsys):
    assert main(["convert", "openai", str(hugging_face), str(tmp_path / "out")]) == 2
    assert "no hparams.json" in capsys.readouterr().err


def test_load_and_load_hdf5_fill_a_decoder_of_ours(tmp_path):
    import h5py

    variables = openai_variables(TWO)
    write_openai_folder(tmp_path / "oa", TWO, variables)
    sizes = {"vocabulary_size": 257, "num_special_tokens": 0, "max_sequence_length": 11, "hidden_dim": 8}
    decoder = tiny_captioner(**sizes, intermediate_dim=32).backbone.decoder
    tools.load(decoder, tmp_path / "oa")
    loaded = weights_of(decoder)
    with h5py.File(tmp_path / "tf_model.h5", "w") as file:
        for name, array in variables.items():
            *path, last = name.split("/")[1:]
            array = array[0] if last == "w" else array[None] if last == "b" and "c_" in name else array
            path = [part.replace("h", "h_._") if part in ("h0", "h1") else part for part in path]
            norm = {"g": "gamma", "b": "beta"} if "ln_" in name else {"w": "weight", "b": "bias"}
            kinds = norm | {"wte": "wte/weight", "wpe": "wpe/embeddings"}
            file["/".join(["transformer/tfgp_t2lm_head_model/transformer", *path, kinds[last] + ":0"])] = (
                array
            )
    for variable in decoder.weights:
        variable.assign(variable * 0)
    tools.load_hdf5(decoder, tmp_path / "tf_model.h5")
    for name, array in weights_of(decoder).items():
        if "cross_attention" not in name:
            np.testing.assert_array_equal(array, loaded[name], err_msg=name)
            assert np.any(array)


def test_files_that_changed_since_their_download_are_refused(tmp_path, capsys):
    folder = write_openai_folder(tmp_path / "oa", TWO, openai_variables(TWO))
    record = {"num_bytes": 3, "sha256": "0" * 64, "server_md5": None}
    (folder / "download.json").write_text(json.dumps({"files": {"hparams.json": record}}))
    assert main(["convert", "openai", str(folder), str(tmp_path / "preset"), *SMALL]) == 1
    assert "is not what was downloaded: hparams.json differ" in capsys.readouterr().err
    assert not (tmp_path / "preset").exists()
