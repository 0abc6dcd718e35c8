"""Training data comes in order, and nothing of tf.data sleeps when it ends."""

import tensorflow as tf

from trainers.tf_data import steady


def test_a_steady_dataset_keeps_its_order_and_is_not_tuned():
    squares = tf.data.Dataset.range(9).map(lambda number: number**2, num_parallel_calls=3, deterministic=None)
    dataset = steady(squares).prefetch(1)  # what follows is as steady
    assert list(dataset.as_numpy_iterator()) == [number**2 for number in range(9)]
    options = dataset.options()
    assert options.deterministic and options.autotune.enabled is False
