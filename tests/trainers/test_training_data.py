"""Which batches a run that diverged keeps: three steps in an epoch, each batch a number."""

import re
import types

import numpy as np
import pytest
import tensorflow as tf

from trainers.divergence import DivergenceError
from trainers.records import Problem
from trainers.run_folder import RunFolder
from trainers.training_data import diverging_batch_stored, explained_data_errors

NUM_STEPS = 3


def training(first_epoch: int, first_step: int) -> tf.data.Dataset:
    numbers = tf.data.Dataset.range(first_epoch * NUM_STEPS + first_step, 4 * NUM_STEPS)
    return numbers.map(lambda number: ({"images": number}, number, number))


DATA = types.SimpleNamespace(training=training, steps_per_epoch=NUM_STEPS)


@pytest.mark.parametrize(
    ("state", "stored"),
    [
        ({"epoch": 0, "step": 0}, {"images": 0}),
        ({"epoch": 0, "step": 2}, {"images": 2, "previous_images": 1}),
        ({"epoch": 2, "step": 0}, {"images": 6, "previous_images": 5}),  # the one before ends an epoch
        ({"epoch": 1, "step": 3}, {"images": 5, "previous_images": 4}),  # seen after the epoch's last step
        ({"epoch": 2, "step": 0, "first_epoch": 2}, {"images": 6}),  # a stage has other weights and batches
    ],
    ids=str,
)
def test_the_batch_of_the_step_and_the_one_before_are_kept(state, stored, tmp_path):
    run = RunFolder(tmp_path)
    with (
        pytest.raises(DivergenceError, match=r"It diverged\. The last batches are in .*diverged_batch\.npz"),
        diverging_batch_stored(run, DATA, state),
    ):
        raise DivergenceError("It diverged.")
    with np.load(run.diverged_batch) as arrays:
        assert {name: arrays[name] for name in arrays.files if name.endswith("images")} == stored


def test_a_process_that_does_not_write_keeps_nothing(tmp_path):
    run = RunFolder(tmp_path, writes=False)
    with pytest.raises(DivergenceError, match=r"^It diverged\.$"), diverging_batch_stored(run, DATA, {}):
        raise DivergenceError("It diverged.")
    assert not run.diverged_batch.exists()


def test_an_error_of_python_in_a_pipeline_is_told_in_its_own_words_behind_what_became_unusable():
    def read(number):
        raise OSError("the cache is too small")

    dataset = tf.data.Dataset.range(3).map(lambda number: tf.numpy_function(read, [number], tf.int64))
    data = types.SimpleNamespace(
        find_problems=lambda: [Problem("truncated shard", "a.tar/0", "7 bytes are left")]
    )
    words = (
        "Training stopped while reading images. The last checkpoint is intact. Since the start these became unusable: "
        "a.tar/0: truncated shard: 7 bytes are left. the cache is too small"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"), explained_data_errors(data):
        list(dataset)
