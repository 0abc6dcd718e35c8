"""Streams of training batches as arrays."""

import keras
import numpy as np


def collect(dataset) -> list:
    """All batches."""
    return [keras.tree.map_structure(np.asarray, batch) for batch in dataset.as_numpy_iterator()]


def assert_batches_equal(actual: list, expected: list) -> None:
    """Two streams are equal to the bit."""
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        keras.tree.map_structure(np.testing.assert_array_equal, a, b)
