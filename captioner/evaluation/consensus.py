"""Consensus reranking: of many captions of an image, the one that agrees most with the others."""

from collections.abc import Sequence

from captioner.evaluation.ngram_scores import CiderD
from captioner.evaluation.tokenization import tokenize_pure_python
from captioner.model.caption import Caption


def rank_by_consensus(captions: Sequence[Caption], cider: CiderD | None = None) -> list[Caption]:
    """Sorts the captions of an image by how much they agree with each other: minimum Bayes risk.

    If the captions are drawn from the model, the mean CIDEr-D of one with the others estimates its expected CIDEr-D with what
    the model thinks people would say; the caption with the highest expected value is taken, rather than the likeliest.

    Args:
        captions: captions of one image, drawn by nucleus sampling, say. What was drawn twice counts twice.
        cider: the metric; by default `CiderD()`, in which all n-grams weigh alike, so that an image's result depends on no
            other image. `CiderD(corpus)` weighs them by how rare they are in a corpus.

    Returns:
        The same captions, each text once, the one that agrees most with all others first, ties in the order given; then the
        repeated ones.

    References:
        - [Kumar and Byrne, 2004](https://aclanthology.org/N04-1022/), section 2
    """
    similarities = (cider or CiderD()).similarities(tokenize_pure_python([c.text for c in captions]))
    agreement = [sum(row) - row[index] for index, row in enumerate(similarities)]
    texts = [caption.text for caption in captions]
    repetition = [texts[:index].count(text) for index, text in enumerate(texts)]
    order = sorted(range(len(captions)), key=lambda index: (repetition[index], -agreement[index], index))
    return [captions[index] for index in order]
