"""Blocks that are computed again in the backward pass: the same gradients, the same dropout, on each backend."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from tiny_captioner import IMAGE_SIZE, logits_of, random_batch, tiny_captioner

from captioner.model.encoder_split import split_image_encoder
from captioner.model.feature_map import FeatureMap

SCRIPT = """
import keras, numpy as np
from captioner.model.lora import add_lora
from tiny_captioner import random_batch, tiny_captioner
results = []
for recompute in (False, True):
    model = tiny_captioner(dropout=0.3)
    if recompute:
        model.backbone.recompute_blocks()
    add_lora(model.backbone.decoder, ["cross_attention"], 2, 4.0)
    adapted = model.backbone.decoder.blocks[0].cross_attention_output
    before = [keras.ops.convert_to_numpy(v) for v in adapted.variables]
    batch = random_batch(model, 2, 3, 5)
    model.preprocessor = None
    model.compile(optimizer=keras.optimizers.SGD(1e-3), jit_compile=False)
    losses = [float(model.train_on_batch(batch, batch["token_ids"], return_dict=True)["loss"]) for _ in range(2)]
    if keras.config.backend() == "jax":
        model.jax_state_sync()
    unchanged = [np.array_equal(v, keras.ops.convert_to_numpy(w)) for v, w in zip(before, adapted.variables)]
    assert unchanged == ["lora" not in v.path for v in adapted.variables], unchanged
    results.append((losses, [keras.ops.convert_to_numpy(v) for v in model.weights]))
(losses, values), (losses_again, values_again) = results
np.testing.assert_allclose(losses_again, losses, rtol=1e-5)
assert abs(losses[0] - losses[1]) > 0.01
for a, b in zip(values, values_again, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
"""


def residual_encoder():
    """Convolutions, batch statistics and a sum: float `(B, 9, 15, 3)` to `(B, 3, 5, 7)`."""
    images = keras.Input((*IMAGE_SIZE, 3))
    x = keras.layers.Conv2D(7, 3, strides=3)(keras.layers.Rescaling(1 / 255)(images))
    branch = keras.layers.Activation("swish")(keras.layers.BatchNormalization()(x))
    x = keras.layers.Add()([x, keras.layers.Conv2D(7, 3, padding="same")(branch)])
    return keras.Model(images, keras.layers.BatchNormalization()(x))


def gradients(recompute, dropout=0.3, compiled=True, dtype=None, **changes):
    """Loss, gradients and the dropout's state after a step, on TensorFlow."""
    import tensorflow as tf

    keras.utils.set_random_seed(1)
    model = tiny_captioner(image_encoder=residual_encoder(), dropout=dropout, dtype=dtype, **changes)
    if recompute:
        model.backbone.recompute_blocks()
    batch = random_batch(model, 2, 3, 5)
    training_model = keras.Model(model.input, model.output)

    def step():
        with tf.GradientTape() as tape:
            logits = training_model(batch, training=True)
            loss = tf.reduce_mean(tf.square(logits))
        return loss, tape.gradient(loss, [v.value for v in training_model.trainable_variables])

    loss, found = tf.function(step)() if compiled else step()
    states = [np.asarray(v.value) for v in model.variables if "seed_generator" in v.path]
    return float(loss), [np.asarray(tf.convert_to_tensor(g)) for g in found], states, model


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "graph"])
def test_gradients_and_dropout_are_those_of_blocks_that_keep_everything(compiled):
    loss, expected, states, _ = gradients(False, compiled=compiled)
    again, found, states_again, _ = gradients(True, compiled=compiled)
    assert again == loss
    largest = max(np.abs(gradient).max() for gradient in expected)
    for gradient, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=1e-5 * largest)
    assert len(states) == 8 and any(state[1] == 3 for state in states)
    np.testing.assert_array_equal(states_again, states)
    assert abs(loss - gradients(False, dropout=0.0, compiled=compiled)[0]) > 1e-3 * abs(loss)


def test_blocks_are_run_twice(monkeypatch):
    from captioner.model.transformer_block import TransformerBlock

    calls = []

    def counted(run):
        def count(self, *arguments):
            calls.append(self.name)
            return run(self, *arguments)

        return count

    for name in ("_attention_branches", "_mlp_branch"):
        monkeypatch.setattr(TransformerBlock, name, counted(getattr(TransformerBlock, name)))
    for recompute, number in ((False, 1), (True, 2)):
        calls.clear()
        gradients(recompute, compiled=False)
        assert len(calls) == 2 * 3 * number  # two parts of one image block and two decoder blocks


def test_an_image_encoder_is_run_twice_unless_its_statistics_are_learned(monkeypatch):
    calls, convolve = [], keras.layers.Conv2D.call

    def count(self, inputs):
        calls.append(self.name)
        return convolve(self, inputs)

    monkeypatch.setattr(keras.layers.Conv2D, "call", count)
    for changes, number in (({}, 2), ({"train_batch_norm": True}, 1)):
        built = len(residual_encoder().operations) and len(calls)
        calls.clear()
        *_, model = gradients(True, compiled=False, **changes)
        assert len(calls) == built + 2 * number
        calls.clear()
        model(random_batch(model, 2, 3, 5), training=False)
        assert len(calls) == 2
        calls.clear()


def test_cached_features_go_through_the_rest_of_the_image_encoder_twice():
    *_, model = gradients(True, compiled=False)
    encoder = model.backbone.image_encoder
    split = split_image_encoder(encoder, encoder.layers[2].name)
    [feature_map] = [
        layer for layer in model.backbone.feature_model(split).layers if isinstance(layer, FeatureMap)
    ]
    assert feature_map.recompute


def test_bfloat16_works_and_nothing_changes_in_inference():
    _, found, _, model = gradients(True, dtype="mixed_bfloat16", compiled=False)
    assert all(np.isfinite(gradient).all() for gradient in found)
    batch = random_batch(model, 2, 3, 5)
    *_, plain = gradients(False, dtype="mixed_bfloat16", compiled=False)
    np.testing.assert_array_equal(logits_of(model, batch), logits_of(plain, batch))


@pytest.mark.oracle
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_train_alike_with_and_without(backend):
    pytest.importorskip(backend, reason='needs pip install "captioner[oracle]"')
    environment = os.environ | {"KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    result = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-4000:]
