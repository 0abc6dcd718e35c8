"""Training targets against arrays written by hand."""

import numpy as np
import pytest

from captioner.text.targets import training_targets

SPECIAL = {"start_token_id": 1, "end_token_id": 2, "pad_token_id": 0}


def test_inputs_and_targets_are_shifted_by_one():
    result = training_targets([[5, 6, 7], [8]], **SPECIAL, max_length=9)
    np.testing.assert_array_equal(result.token_ids, [[1, 5, 6, 7], [1, 8, 0, 0]])
    np.testing.assert_array_equal(result.targets, [[5, 6, 7, 2], [8, 2, 0, 0]])
    np.testing.assert_array_equal(result.padding_mask, [[1, 1, 1, 1], [1, 1, 0, 0]])
    np.testing.assert_array_equal(result.sample_weight, [[1, 1, 1, 1], [1, 1, 0, 0]])
    assert (result.token_ids.dtype, result.targets.dtype) == ("int32", "int32")
    assert (result.padding_mask.dtype, result.sample_weight.dtype) == ("bool", "float32")


def test_truncation_keeps_the_end_token():
    result = training_targets([[5, 6, 7, 8]], **SPECIAL, max_length=3)
    np.testing.assert_array_equal(result.token_ids, [[1, 5, 6]])
    np.testing.assert_array_equal(result.targets, [[5, 6, 2]])
    np.testing.assert_array_equal(result.sample_weight, [[1, 1, 1]])


def test_the_end_token_counts_even_if_it_is_also_the_pad_token():
    result = training_targets([[5], [6, 7]], start_token_id=9, end_token_id=9, pad_token_id=9, max_length=9)
    np.testing.assert_array_equal(result.targets, [[5, 9, 9], [6, 7, 9]])
    np.testing.assert_array_equal(result.sample_weight, [[1, 1, 0], [1, 1, 1]])


def test_the_length_is_what_the_longest_caption_needs_or_the_maximum_on_demand():
    assert training_targets([[5, 6]], **SPECIAL, max_length=7).token_ids.shape == (1, 3)
    padded = training_targets([[5, 6]], **SPECIAL, max_length=7, pad_to_max_length=True)
    np.testing.assert_array_equal(padded.targets, [[5, 6, 2, 0, 0, 0, 0]])


def test_a_length_without_room_for_a_word_is_refused():
    with pytest.raises(ValueError, match="max_length=1"):
        training_targets([[5]], **SPECIAL, max_length=1)
