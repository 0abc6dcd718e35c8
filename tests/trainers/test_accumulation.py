"""Accumulated batches of unequal numbers of tokens against the one big batch. T=5."""

import types
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from streams import assert_batches_equal

from trainers.accumulation import accumulated_batches
from trainers.loop import _training_batches, compiled_model
from trainers.settings import TrainSettings
from trainers.stages import Stage

NUM_TOKENS = (1, 5, 2, 4, 3, 1, 5)  # of the caption of each batch
STEPS_PER_EPOCH = 7


def batch(step):
    """A batch of one image, whose caption has as many tokens as `NUM_TOKENS` says."""
    generator = np.random.default_rng(step)
    mask = np.arange(5) < NUM_TOKENS[step % STEPS_PER_EPOCH]
    x = {
        "images": generator.uniform(0, 255, (1, 9, 15, 3)).astype("float32"),
        "token_ids": generator.integers(0, 250, (1, 1, 5)).astype("int32"),
        "padding_mask": mask[None, None],
    }
    targets = generator.integers(0, 250, (1, 1, 5)).astype("int32")
    return x, targets, mask[None, None].astype("float32")


def training(first_epoch, first_step):
    """Two epochs from there."""
    steps = range(first_epoch * STEPS_PER_EPOCH + first_step, 2 * STEPS_PER_EPOCH)
    datasets = [tf.data.Dataset.from_tensors(batch(step)) for step in steps]
    return tf.data.Dataset.from_tensor_slices(datasets).flat_map(lambda dataset: dataset)


def steps_of(dataset):
    return list(dataset.as_numpy_iterator())


def test_the_weights_of_an_update_are_shared_by_all_of_its_tokens():
    found = steps_of(accumulated_batches(training, 3, STEPS_PER_EPOCH, 0, 0))
    assert len(found) == 2 * STEPS_PER_EPOCH
    for step, (x, targets, weight) in enumerate(found):
        expected_x, expected_targets, mask = batch(step)
        np.testing.assert_array_equal(x["images"], expected_x["images"])
        np.testing.assert_array_equal(targets, expected_targets)
        update = [NUM_TOKENS[s % 7] for s in range(step - step % 3, min(step - step % 3 + 3, 14))]
        np.testing.assert_allclose(weight, mask * len(update) / sum(update), rtol=1e-6)


def test_the_first_update_of_a_stage_begins_with_its_optimizer():
    found = steps_of(accumulated_batches(training, 3, STEPS_PER_EPOCH, 1, 0, optimizer_epoch=1))
    for step, (_, _, weight) in enumerate(found):
        update = NUM_TOKENS[step - step % 3 : step - step % 3 + 3]
        np.testing.assert_allclose(weight.sum(), NUM_TOKENS[step] * len(update) / sum(update), rtol=1e-6)
    rest = steps_of(accumulated_batches(training, 3, STEPS_PER_EPOCH, 1, 4, optimizer_epoch=1))
    np.testing.assert_array_equal(rest[0][2], found[4][2])


def test_the_loop_begins_an_update_with_the_stage_and_goes_on_within_one():
    settings = TrainSettings(run_dir=Path("run"), gradient_accumulation_steps=3)
    data = types.SimpleNamespace(training=training, steps_per_epoch=STEPS_PER_EPOCH)
    expected = steps_of(accumulated_batches(training, 3, STEPS_PER_EPOCH, 1, 0, optimizer_epoch=1))
    for step in (0, 4):
        state = {"epoch": 1, "step": step, "first_epoch": 1}
        found = steps_of(_training_batches(settings, data, state))
        assert_batches_equal(found, expected[step:])


@pytest.mark.parametrize("step", [3, 4, 8])
def test_a_resumed_run_goes_on_within_an_update_and_over_the_end_of_an_epoch(step):
    whole = steps_of(accumulated_batches(training, 3, STEPS_PER_EPOCH, 0, 0))
    rest = steps_of(accumulated_batches(training, 3, STEPS_PER_EPOCH, *divmod(step, STEPS_PER_EPOCH)))
    assert len(rest) == len(whole) - step
    for (x, _, weight), (expected_x, _, expected_weight) in zip(rest, whole[step:], strict=True):
        np.testing.assert_array_equal(x["token_ids"], expected_x["token_ids"])
        np.testing.assert_array_equal(weight, expected_weight)


def first_moments(captioner, batches, **changes):
    """AdamW's averages of the gradient after the batches of the first update, and the losses."""
    settings = TrainSettings(run_dir=Path("run"), warmup_fraction=0.0, clip_norm=1e6, **changes)
    model = compiled_model(settings, captioner, num_steps=100)
    model.run_eagerly = True
    losses = [float(model.train_on_batch(*batch)) for batch in batches]
    values = {v.path: np.asarray(v.value) for v in model.optimizer.variables if "momentum" in v.path}
    return values, losses


def test_three_batches_of_unequal_length_act_like_the_big_batch(tiny_captioner):
    three = [batch(step) for step in range(3)]
    big = tf.nest.map_structure(lambda *arrays: np.concatenate(arrays), *three)
    weighted = steps_of(accumulated_batches(training, 3, STEPS_PER_EPOCH, 0, 0))[:3]
    expected, (big_loss,) = first_moments(tiny_captioner(dropout=0.0), [big])
    found, losses = first_moments(tiny_captioner(dropout=0.0), weighted, gradient_accumulation_steps=3)
    assert np.mean(losses) == pytest.approx(big_loss, rel=1e-5)
    assert len(found) == len(expected) > 20
    largest = max(np.abs(value).max() for value in expected.values())
    assert largest > 1e-4
    differences = [np.abs(a - b).max() for a, b in zip(found.values(), expected.values(), strict=True)]
    assert max(differences) < 1e-5 * largest
    means, _ = first_moments(
        tiny_captioner(dropout=0.0), [(x, y, w / w.sum()) for x, y, w in three], gradient_accumulation_steps=3
    )
    off = [np.abs(a - b).max() for a, b in zip(means.values(), expected.values(), strict=True)]
    assert max(off) > 0.1 * largest  # what the mean of each batch's own mean would be


def test_a_run_or_stage_without_an_update_is_refused(train, tmp_path):
    for changes in ({"epochs": 1}, {"epochs": 15, "stages": (Stage(epochs=9), Stage(epochs=1))}):
        with pytest.raises(
            ValueError,
            match="must be at most the 1 steps of the run or stage, or no update is made; received 9",
        ):
            train(tmp_path / "run", batch_size=10, gradient_accumulation_steps=9, **changes)
