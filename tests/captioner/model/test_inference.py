"""Where bfloat16 is fast, and what it leaves in float32."""

import keras
import numpy as np
import pytest
from tiny_captioner import logits_of, random_batch, tiny_captioner

from captioner.model import CaptionerBackbone, ImageCaptioner
from captioner.model.inference import CALLS_BEFORE_XLA, compile_inference, has_fast_bfloat16
from captioner.sampling import DecodingSettings


@pytest.mark.parametrize(
    ("cpu_info", "expected"),
    [
        ("flags : avx2 avx512f avx512_bf16", True),
        ("flags : amx_bf16", True),
        ("Features : asimd bf16", True),
        ("flags : avx2 avx512f avx512_bf16x", False),
        ("", False),
    ],
)
def test_bfloat16_is_fast_where_the_processor_has_instructions_for_it(cpu_info, expected):
    assert has_fast_bfloat16(cpu_info) is expected


def test_a_preset_in_bfloat16_keeps_its_image_encoder_in_float32_and_nearly_its_logits(tmp_path):
    model = tiny_captioner()
    model.save_to_preset(str(tmp_path / "preset"))
    fast = ImageCaptioner.from_preset(str(tmp_path / "preset"), dtype="bfloat16")
    assert {v.dtype for v in fast.backbone.decoder.variables} == {"bfloat16"}
    inputs = random_batch(model, 2, 3, 5)
    expected = logits_of(model, inputs)
    difference = logits_of(fast, inputs) - expected
    assert 0 < np.abs(difference).max() < expected.std()
    assert np.abs(difference).mean() < 0.05 * expected.std()


def test_a_named_image_encoder_stays_in_float32():
    backbone = CaptionerBackbone(
        "efficientnet_lite0", image_size=(32, 32), vocabulary_size=5, num_special_tokens=1, hidden_dim=4,
        num_heads=2, num_image_layers=1, num_layers=1, dtype="bfloat16",
    )  # fmt: skip
    assert {v.dtype for v in backbone.image_encoder.variables} == {"float32"}
    assert {v.dtype for v in backbone.image_tokens.weights} == {"bfloat16"}
    hidden = backbone.encode_images(np.zeros((1, 32, 32, 3), "float32"))
    assert keras.backend.standardize_dtype(hidden.dtype) == "bfloat16"


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="counts traces of TensorFlow")
def test_a_short_last_batch_is_not_traced_again():
    traced = []

    def double(x, y):
        traced.append(x.shape)
        return x * 2 + y

    compiled = compile_inference(None, double)
    for num_rows, num_traced in (
        (4, 1),
        (3, 1),
        (1, 2),
        (5, 2),
        (1, 2),
    ):  # a single row has a graph of its own
        x = np.arange(num_rows * 2.0).reshape(num_rows, 2)
        np.testing.assert_array_equal(compiled(x, np.ones(2)), 2 * x + 1)
        assert len(traced) == num_traced
    compiled(np.zeros((4, 5)), np.ones(5))
    assert len(traced) == 3


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="XLA inside of TensorFlow")
def test_xla_compiles_a_shape_that_has_come_often():
    import tensorflow as tf

    def call_python(x):  # XLA cannot, and says so
        return tf.numpy_function(lambda x: 2 * x, [x], tf.float32)

    compiled = compile_inference(None, call_python, xla_after=2)
    for _ in range(2):
        np.testing.assert_array_equal(compiled(np.ones((3, 2), "float32")), 2)
    with pytest.raises(tf.errors.InvalidArgumentError, match="XLA"):
        compiled(np.ones((3, 2), "float32"))
    np.testing.assert_array_equal(compiled(np.ones((5, 2), "float32")), 2)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="XLA inside of TensorFlow")
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"sampler": "greedy"},
        {"sampler": "nucleus", "top_p": 0.8, "seed": 3},
        {"sampler": "contrastive"},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
        {"no_repeat_ngram_size": 2, "repetition_penalty": 1.3, "min_length": 4},
    ],
    ids=str,
)
def test_captions_by_xla_are_those_before(settings):
    model = tiny_captioner()
    images = np.random.default_rng(0).uniform(0, 255, (3, *model.backbone.image_size, 3)).astype("float32")
    settings = DecodingSettings(max_length=8, **settings)
    by_call = [model.caption_batch(images, settings) for _ in range(CALLS_BEFORE_XLA + 1)]
    for [before], [by_xla] in zip(by_call[0], by_call[-1], strict=True):
        assert by_xla.token_ids == before.token_ids
        assert by_xla.score == pytest.approx(before.score, abs=1e-5)
