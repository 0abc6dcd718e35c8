"""A captioner that begins from a pretrained GPT-2."""

import keras
import numpy as np
import pytest
from gpt2_folders import SIZES, hugging_face_tensors, numpy_gpt2, openai_variables, write_hugging_face_folder
from runs import read_metrics

from trainers.build import build_captioner

TWO = SIZES["two_layers"]
FRESH = {
    "preset": None, "image_encoder_weights": "none", "image_size_px": 32, "num_image_layers": 1,
}  # fmt: skip


@pytest.fixture
def gpt2(tmp_path):
    return write_hugging_face_folder(tmp_path / "gpt2", TWO, hugging_face_tensors(TWO))


def test_before_the_first_step_a_pretrained_decoder_predicts_as_without_an_image(gpt2, settings, tmp_path):
    captioner = build_captioner(settings(tmp_path / "run", gpt2=gpt2, stages=(), **FRESH), [])
    generator = np.random.default_rng(0)
    token_ids = generator.integers(0, 257, (2, 3, 9)).astype("int32")
    images = generator.uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    inputs = {"images": images, "token_ids": token_ids, "padding_mask": np.ones(token_ids.shape, bool)}
    logits = keras.ops.convert_to_numpy(captioner(inputs, training=False))
    _, expected = numpy_gpt2(openai_variables(TWO), TWO["n_head"], token_ids.reshape(6, 9))
    np.testing.assert_allclose(logits, expected.reshape(logits.shape), atol=1e-4)
    assert captioner.preprocessor.tokenizer.vocabulary_size() == 257


def test_a_pretrained_decoder_is_trained_in_its_stages_and_learns_to_look_at_the_image(
    gpt2, train, settings, tmp_path
):
    from captioner.model import ImageCaptioner

    train(tmp_path / "run", gpt2=gpt2, epochs=15, cache_features=True, **FRESH)  # 15 is the default
    assert [line["stage"] for line in read_metrics(tmp_path / "run")] == [1, 2, 3, 3, 3]
    trained = ImageCaptioner.from_preset(tmp_path / "run" / "preset").backbone.decoder
    kernels = [keras.ops.convert_to_numpy(b.cross_attention_output.kernel) for b in trained.blocks]
    assert all(np.any(kernel) for kernel in kernels)
    moved = np.abs(
        keras.ops.convert_to_numpy(trained.token_embedding.embeddings)
        - hugging_face_tensors(TWO)["transformer.wte.weight"]
    )
    assert 0 < moved.max() < 0.1  # it began there


def test_gradient_checkpointing_reaches_each_image_and_decoder_block(settings, tmp_path):
    for wanted in (False, True):
        backbone = build_captioner(settings(tmp_path, gradient_checkpointing=wanted), []).backbone
        blocks = (*backbone.image_tokens.blocks, *backbone.decoder.blocks)
        assert len(blocks) == 2 and all(block.recompute is wanted for block in blocks)
