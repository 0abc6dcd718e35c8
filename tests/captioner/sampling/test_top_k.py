"""The quick top-k against the library's."""

import numpy as np
import pytest
from keras import ops

from captioner.sampling.top_k import CHUNK, top_k


@pytest.mark.parametrize("vocabulary_size", [5, CHUNK * 12, CHUNK * 12 + 1, CHUNK * 20 + 17])
@pytest.mark.parametrize("kinds", [3, 50, 10**6])
def test_it_gives_what_the_library_gives_equal_scores_included(vocabulary_size, kinds):
    generator = np.random.default_rng(vocabulary_size)
    scores = generator.integers(0, kinds, (7, vocabulary_size)).astype("float32")
    scores[1] = 0.0
    scores[2, -1] = 1e7  # behind the last whole chunk, or its end
    for k in (1, 3, 5):
        for found, expected in zip(top_k(scores, k), ops.top_k(scores, k), strict=True):
            np.testing.assert_array_equal(found, expected)
