"""Logit processors, by hand."""

import numpy as np
import pytest
from keras import ops

from captioner.sampling import logit_processors
from captioner.sampling.logit_processors import IMPOSSIBLE

LOGITS = np.log([[0.1, 0.4, 0.2, 0.3], [0.7, 0.05, 0.2, 0.05]]).astype("float32")
TEXTS = np.array([[0, 1, 3, 1, 2, 2], [2, 2, 2, 3, 0, 0]], "int32")


def kept(scores):
    scores = ops.convert_to_numpy(scores)
    rest = scores[scores > IMPOSSIBLE / 2]
    np.testing.assert_array_equal(rest, LOGITS[scores > IMPOSSIBLE / 2])  # what is kept, is kept as it is
    return (scores > IMPOSSIBLE / 2).astype(int).tolist()


def test_temperature_divides():
    np.testing.assert_allclose(logit_processors.scale_by_temperature(LOGITS, 2.0), LOGITS / 2)


def test_top_k_keeps_the_likeliest_and_ties():
    assert kept(logit_processors.keep_top_k(LOGITS, 1)) == [[0, 1, 0, 0], [1, 0, 0, 0]]
    assert kept(logit_processors.keep_top_k(LOGITS, 3)) == [[0, 1, 1, 1], [1, 1, 1, 1]]
    assert kept(logit_processors.keep_top_k(LOGITS, 9)) == [[1, 1, 1, 1], [1, 1, 1, 1]]


def test_top_p_keeps_the_token_that_crosses_it():
    assert kept(logit_processors.keep_top_p(LOGITS, 0.69)) == [[0, 1, 0, 1], [1, 0, 0, 0]]
    assert kept(logit_processors.keep_top_p(LOGITS, 0.71)) == [[0, 1, 1, 1], [1, 0, 1, 0]]
    # Of the two likeliest alone the first has 0.57 and 0.78.
    assert kept(logit_processors.keep_top_p(LOGITS, 0.6, 2)) == [[0, 1, 0, 1], [1, 0, 0, 0]]


def test_min_p_is_a_share_of_the_likeliest():
    assert kept(logit_processors.keep_min_p(LOGITS, 0.49)) == [[0, 1, 1, 1], [1, 0, 0, 0]]
    assert kept(logit_processors.keep_min_p(LOGITS, 0.28)) == [[0, 1, 1, 1], [1, 0, 1, 0]]


def test_repetition_is_penalised_on_either_side_of_zero_but_not_the_end():
    scores = np.array([[-1.0, 2.0, 3.0, 4.0]] * 2, "float32")
    found = logit_processors.penalise_repetition(scores, TEXTS, 2, 2.0)
    np.testing.assert_allclose(found, [[-2.0, 1.0, 3.0, 4.0], [-1.0, 2.0, 1.5, 4.0]])
    found = logit_processors.penalise_repetition(scores, TEXTS, 5, 2.0, end_token_ids=(1, 3))
    np.testing.assert_allclose(found, [[-2.0, 2.0, 1.5, 4.0], [-2.0, 2.0, 1.5, 4.0]])


@pytest.mark.parametrize(
    ("size", "index", "expected"),
    [
        (1, 2, [[0, 0, 1, 1], [1, 1, 0, 1]]),
        (2, 2, [[1, 1, 1, 1], [1, 1, 0, 1]]),  # 2 2 was said
        (2, 4, [[1, 1, 1, 0], [1, 1, 1, 1]]),  # 1 3 was said, and the row ends with 1
        (3, 3, [[1, 1, 1, 1], [1, 1, 0, 1]]),
        (7, 5, [[1, 1, 1, 1], [1, 1, 1, 1]]),  # longer than the text
        (3, 1, [[1, 1, 1, 1], [1, 1, 1, 1]]),  # nothing to repeat yet
    ],
)
def test_an_ngram_comes_once(size, index, expected):
    assert kept(logit_processors.ban_repeated_ngrams(LOGITS, TEXTS, index, size)) == expected


def test_an_end_token_is_no_repetition():
    found = logit_processors.ban_repeated_ngrams(LOGITS, TEXTS, 2, 1, end_token_ids=(0, 2))
    assert kept(found) == [[1, 0, 1, 1], [1, 1, 1, 1]]


def test_tokens_are_ruled_out_until_a_length():
    assert kept(logit_processors.ban_until(LOGITS, 2, 3, (0, 3))) == [[0, 1, 1, 0]] * 2
    assert kept(logit_processors.ban_until(LOGITS, 3, 3, (0, 3))) == [[1, 1, 1, 1]] * 2


def test_classes_of_tokens_are_ruled_out():
    allowed = np.array([[True, False, True], [False, True, True]])
    found = logit_processors.keep_classes(LOGITS, allowed, np.array([0, 1, 2, 1]))
    assert kept(found) == [[1, 0, 1, 0], [0, 1, 1, 1]]


def test_tokens_are_counted_by_row():
    counted = np.array([[True, True, True, True, False, False]] * 2)
    found = logit_processors.count_tokens(TEXTS, counted, 4)
    np.testing.assert_array_equal(found, [[1, 2, 0, 1], [0, 0, 3, 1]])
