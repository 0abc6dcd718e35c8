"""Loss, schedule and optimizer against formulas. B=2, G=3, T=5, V=7."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainers.checkpoint import averaged_weights
from trainers.optimization import CaptionLoss, build_optimizer
from trainers.settings import TrainSettings


def settings(**changes):
    return TrainSettings(run_dir=Path("run"), **changes)


def batch():
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 3, (2, 3, 5, 7)).astype("float32")
    targets = generator.integers(0, 7, (2, 3, 5))
    weight = (generator.random((2, 3, 5)) < 0.6).astype("float32")
    weight[1, 2] = 0  # an image with fewer captions
    return logits, targets, weight


def test_label_smoothing_is_cross_entropy_with_the_mixed_distribution():
    logits, targets, weight = batch()
    wanted = 0.8 * np.eye(7)[targets] + 0.2 / 7
    log_probs = logits - np.log(np.exp(logits.astype("float64")).sum(-1, keepdims=True))
    by_hand = (-(wanted * log_probs).sum(-1) * weight).sum() / weight.sum()
    assert float(CaptionLoss(0.2)(targets, logits, weight)) == pytest.approx(by_hand, rel=1e-6)
    keras_loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2, reduction=None)
    by_keras = np.array(keras_loss(np.eye(7, dtype="float32")[targets], logits))
    assert (by_keras * weight).sum() / weight.sum() == pytest.approx(by_hand, rel=1e-5)


def test_the_loss_is_the_mean_over_real_tokens_and_blank_captions_have_no_say():
    logits, targets, weight = batch()
    loss = CaptionLoss()
    changed = logits.copy()
    changed[1, 2] += np.arange(7) * 9
    assert float(loss(targets, changed, weight)) == float(loss(targets, logits, weight))
    assert float(loss(targets[:, :2], logits[:, :2], weight[:, :2])) == pytest.approx(
        float(loss(np.delete(targets, 2, 1), np.delete(logits, 2, 1), np.delete(weight, 2, 1)))
    )
    half = CaptionLoss()(targets, keras.ops.cast(logits, "bfloat16"), weight)
    assert keras.backend.standardize_dtype(half.dtype) == "float32"


def test_the_rate_rises_to_its_peak_and_falls_along_a_cosine():
    optimizer = build_optimizer(
        settings(learning_rate=0.8, warmup_fraction=0.25, final_learning_rate_fraction=0.1), 40
    )
    schedule = optimizer._learning_rate

    def cosine(step):
        return 0.8 * (0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * step / 30)))

    rates = {0: 0.0, 5: 0.4, 10: 0.8, 20: cosine(10), 25: cosine(15), 40: 0.08}
    for step, rate in rates.items():
        assert float(schedule(step)) == pytest.approx(rate, abs=1e-6), step
    assert float(build_optimizer(settings(learning_rate=0.8, warmup_fraction=0.0), 40)._learning_rate(0)) == (
        pytest.approx(0.8)
    )


def quadratic(optimizer, gradients):
    """Applies gradients to one weight of 1.0; gives the weight and the rate after each."""
    weight = keras.Variable(np.ones(2, "float32"), name="kernel")
    optimizer.build([weight])
    values, rates = [], []
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(np.float32(gradient))], [weight])
        values.append(np.array(weight.value))
        rates.append(float(optimizer.learning_rate))
    return values, rates, weight


def test_accumulated_gradients_act_like_the_big_batch_under_the_same_schedule_and_average():
    generator = np.random.default_rng(0)
    small = generator.normal(size=(12, 2))
    big = small.reshape(4, 3, 2).mean(1)
    common = {"learning_rate": 0.1, "warmup_fraction": 0.25, "clip_norm": 0.5}
    accumulated, rates, _ = quadratic(
        build_optimizer(settings(**common, gradient_accumulation_steps=3), 12), small
    )
    # Each update takes place at the last of its three batches; the schedule is looked up there.
    whole = build_optimizer(settings(**common), 12)
    schedule = whole._learning_rate
    whole = keras.optimizers.AdamW(0.1, weight_decay=0.01, beta_2=0.98, global_clipnorm=0.5)
    weight = keras.Variable(np.ones(2, "float32"), name="kernel")
    whole.build([weight])
    for update in range(4):
        whole.learning_rate = float(schedule(3 * update + 2))
        whole.apply([keras.ops.convert_to_tensor(np.float32(big[update]))], [weight])
        np.testing.assert_allclose(accumulated[3 * update + 2], np.array(weight.value), rtol=1e-5)
        # Nothing moves between updates.
        if update:
            np.testing.assert_array_equal(accumulated[3 * update], accumulated[3 * update - 1])
    assert rates[-1] == pytest.approx(0.0, abs=1e-6)  # the cosine ends with the run, not after a third of it
    assert rates[5] > 0.05


def test_the_average_of_accumulated_updates_forgets_at_the_rate_asked_for():
    optimizer = build_optimizer(settings(ema_momentum=0.9, gradient_accumulation_steps=4), 8)
    assert optimizer.ema_momentum**4 == pytest.approx(0.9)


def test_norms_biases_and_positions_do_not_decay_and_matrices_and_embeddings_do(tiny_captioner):
    backbone = tiny_captioner().backbone
    variables = backbone.trainable_variables
    for variable in variables:
        variable.assign(keras.ops.ones_like(variable))
    optimizer = build_optimizer(settings(weight_decay=0.5, warmup_fraction=0.0, learning_rate=0.1), 10)
    optimizer.build(variables)
    optimizer.apply([keras.ops.zeros_like(variable.value) for variable in variables], variables)
    decayed = {v.path: float(np.array(v.value).max()) < 0.99 for v in variables}
    for path, is_decayed in decayed.items():
        kept = any(word in path.split("/")[-1] for word in ("bias", "gamma", "beta", "position"))
        assert is_decayed != kept, path
    assert sum(decayed.values()) >= 10 and sum(not d for d in decayed.values()) >= 10
    assert any("position_embedding" in path for path in decayed)
    assert decayed[next(path for path in decayed if path.endswith("token_embedding/embeddings"))]


def test_averaged_weights_are_the_moving_average_and_come_back_also_after_an_error():
    optimizer = build_optimizer(settings(ema_momentum=0.75, learning_rate=0.1, warmup_fraction=0.0), 10)
    values, _, weight = quadratic(optimizer, np.random.default_rng(0).normal(size=(4, 2)))
    average = values[0]
    for value in values[1:]:
        average = 0.75 * average + 0.25 * value
    with averaged_weights(optimizer):
        np.testing.assert_allclose(np.array(weight.value), average, rtol=1e-6)
    np.testing.assert_array_equal(np.array(weight.value), values[-1])
    with pytest.raises(KeyboardInterrupt), averaged_weights(optimizer):
        raise KeyboardInterrupt
    np.testing.assert_array_equal(np.array(weight.value), values[-1])


def test_float16_scales_the_loss_and_keeps_the_average():
    optimizer = build_optimizer(settings(dtype="mixed_float16", ema_momentum=0.75, warmup_fraction=0.0), 10)
    assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    weight = keras.Variable(np.ones(2, "float32"), name="kernel")
    optimizer.build([weight])
    scale = float(optimizer.scale_loss(1.0))
    assert scale > 1000
    optimizer.apply([keras.ops.convert_to_tensor(np.float32([scale, -scale]))], [weight])
    first = np.array(weight.value)
    assert first[0] < 1 < first[1]
    with averaged_weights(optimizer):
        np.testing.assert_allclose(np.array(weight.value), first)


@pytest.mark.parametrize("run", [lambda step: step, tf.function], ids=["eager", "graph"])
def test_a_float16_step_whose_gradients_overflow_is_skipped_and_the_loss_scale_halved(run):
    optimizer = build_optimizer(settings(dtype="mixed_float16", ema_momentum=0.75, warmup_fraction=0.0), 10)
    weight = keras.Variable(np.ones(2, "float32"), name="kernel")
    optimizer.build([weight])
    step = run(lambda gradient: optimizer.apply([gradient], [weight]))
    before = [np.array(variable) for variable in optimizer.inner_optimizer.variables]
    scale = float(optimizer.scale_loss(1.0))
    step(tf.constant([np.inf, 1.0]))
    np.testing.assert_array_equal(np.array(weight), 1.0)
    for variable, value in zip(optimizer.inner_optimizer.variables, before, strict=True):
        np.testing.assert_array_equal(np.array(variable), value, err_msg=variable.path)
    assert float(optimizer.scale_loss(1.0)) == scale / 2
    step(tf.constant([scale, -scale]))
    assert np.array(weight)[0] < 1 < np.array(weight)[1]
    assert float(optimizer.scale_loss(1.0)) == scale / 2
