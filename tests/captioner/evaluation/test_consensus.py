"""Consensus reranking against the definition, with counts by hand."""

import numpy as np
import pytest

from captioner.evaluation.consensus import rank_by_consensus
from captioner.evaluation.ngram_scores import CiderD
from captioner.model.caption import Caption

DRAWN = [
    "a red bike",
    "a dog runs on grass",
    "a dog runs",
    "the dog runs on the grass",
    "a dog runs",
    "two cats",
]


def captions(texts):
    return [
        Caption(text=t, token_ids=(1,), token_log_probs=(-1.0,), log_prob=-1.0, score=-1.0) for t in texts
    ]


@pytest.mark.parametrize("cider", [CiderD(), CiderD([["a dog runs"], ["a dog", "a cat"], ["two cats"]])])
def test_the_first_has_the_highest_mean_cider_with_all_others(cider):
    ranked = rank_by_consensus(captions(DRAWN), cider)
    agreement = {
        text: np.mean([cider(text, [other]) for other in DRAWN[:i] + DRAWN[i + 1 :]])
        for i, text in enumerate(DRAWN)
    }
    assert [caption.text for caption in ranked[:5]] == sorted(
        dict.fromkeys(DRAWN), key=lambda text: -agreement[text]
    )


def test_each_text_comes_once_before_any_comes_twice():
    ranked = [caption.text for caption in rank_by_consensus(captions(DRAWN))]
    assert sorted(ranked) == sorted(DRAWN)
    assert ranked[-1] == "a dog runs" and ranked[0] == "a dog runs"


def test_ties_and_captions_without_words_keep_their_order():
    assert [c.text for c in rank_by_consensus(captions(["a b", "c d", "", "."]))] == ["a b", "c d", "", "."]
    assert rank_by_consensus([]) == []


def test_without_a_corpus_every_ngram_weighs_alike():
    # Unigrams: 2 of 3 shared, cosine 2/3; bigrams: 1 of 2, cosine 1/2; trigrams: 0; no four-grams.
    assert CiderD()("a dog runs", ["a dog sleeps"]) == pytest.approx(10 * (2 / 3 + 1 / 2) / 4)
