"""BLEU and CIDEr by their formulas, for a cheap check while training: no Java, no extra package.

`evaluate_captions` gives the official numbers; on the same tokens both agree to rounding.
"""

import collections
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence

from captioner.evaluation.matching import check_same_images
from captioner.evaluation.tokenization import tokenize_pure_python

MAX_ORDER = 4
CIDER_SIGMA = 6.0

NgramCounts = collections.Counter[tuple[str, ...]]


def quick_scores(
    predictions: Mapping[Hashable, str], references: Mapping[Hashable, Sequence[str]]
) -> dict[str, float]:
    """BLEU-4 and CIDEr with the pure-Python tokenisation: to compare epochs, not to publish.

    Args:
        predictions: mapping from image to its caption.
        references: mapping from the same images to their reference captions.

    Returns:
        `{"BLEU-4": float, "CIDEr": float}`; CIDEr of a single image is 0 by its formula.

    Raises:
        ValueError: If the images differ or an image has no reference.
    """
    check_same_images(predictions, references)
    predicted = [tokenize_pure_python([predictions[image]])[0] for image in references]
    expected = [tokenize_pure_python(texts) for texts in references.values()]
    return {"BLEU-4": bleu(predicted, expected)[-1], "CIDEr": cider(predicted, expected)[0]}


def bleu(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Corpus BLEU-1 to BLEU-4 of tokenised captions, against the reference of the closest length.

    References:
        - [Papineni et al., 2002](https://aclanthology.org/P02-1040/), section 2
    """
    matches, guesses = [0] * MAX_ORDER, [0] * MAX_ORDER
    predicted_length = reference_length = 0
    for prediction, texts in zip(predictions, references, strict=True):
        length, lengths = len(prediction.split()), [len(text.split()) for text in texts]
        predicted_length += length
        reference_length += min(lengths, key=lambda other: (abs(other - length), other))
        allowed = NgramCounts()
        for text in texts:
            allowed |= _ngrams(text)
        for ngram, count in _ngrams(prediction).items():
            guesses[len(ngram) - 1] += count
            matches[len(ngram) - 1] += min(count, allowed[ngram])
    if predicted_length == 0 or reference_length == 0:
        return [0.0] * MAX_ORDER
    brevity_penalty = min(1.0, math.exp(1 - reference_length / predicted_length))
    scores, log_precision = [], 0.0
    for order in range(MAX_ORDER):
        if not matches[order]:
            return scores + [0.0] * (MAX_ORDER - order)
        log_precision += math.log(matches[order] / guesses[order])
        scores.append(brevity_penalty * math.exp(log_precision / (order + 1)))
    return scores


def cider(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, list[float]]:
    """CIDEr-D of tokenised captions, over all images and for each one; what COCO calls CIDEr."""
    metric = CiderD(references)
    scores = [metric(prediction, texts) for prediction, texts in zip(predictions, references, strict=True)]
    return (sum(scores) / len(scores) if scores else 0.0), scores


class CiderD:
    """CIDEr-D of one caption after another, with the document frequencies of a corpus that is counted once.

    Args:
        corpus: for each image of the corpus its tokenised captions. An n-gram weighs less the more images it occurs in.
            Without a corpus, all n-grams weigh alike.

    Call arguments:
        prediction: str. A tokenised caption.
        references: sequence of str. The tokenised captions of its image, of the corpus or not.

    Returns:
        float from 0 to 10.

    References:
        - [Vedantam et al., 2015](https://arxiv.org/abs/1411.5726), sections 4 and 7
    """

    def __init__(self, corpus: Iterable[Sequence[str]] | None = None):
        self._frequency, num_images = NgramCounts(), 0  # In how many images' captions an n-gram occurs.
        if corpus is None:
            self._log_images = 1.0
            return
        for texts in corpus:
            self._frequency.update(set().union(*map(_ngrams, texts)))
            num_images += 1
        self._log_images = math.log(max(1, num_images))

    def __call__(self, prediction: str, references: Sequence[str]) -> float:
        weighed = self._weigh(_ngrams(prediction))
        similarities = [_similarity(weighed, self._weigh(_ngrams(text))) for text in references]
        return 10.0 * sum(similarities) / len(similarities)

    def similarities(self, captions: Sequence[str]) -> list[list[float]]:
        """Each caption's value with each one as its only reference; captions are weighed once."""
        weighed = [self._weigh(_ngrams(text)) for text in captions]
        return [[10.0 * _similarity(one, other) for other in weighed] for one in weighed]

    def _weigh(self, counts: NgramCounts) -> tuple[list[dict], list[float], int]:
        vectors = [{} for _ in range(MAX_ORDER)]
        for ngram, count in counts.items():
            weight = count * (self._log_images - math.log(max(1, self._frequency[ngram])))
            vectors[len(ngram) - 1][ngram] = weight
        norms = [math.sqrt(sum(weight**2 for weight in vector.values())) for vector in vectors]
        # The COCO code takes the number of bigrams as the length, and its scores are the ones to compare
        # with.
        return vectors, norms, sum(count for ngram, count in counts.items() if len(ngram) == 2)


def _similarity(predicted, expected) -> float:
    vectors, norms, length = predicted
    reference_vectors, reference_norms, reference_length = expected
    total = 0.0
    for order in range(MAX_ORDER):
        other = reference_vectors[order]
        product = sum(min(weight, other.get(ngram, 0.0)) * other.get(ngram, 0.0)
                      for ngram, weight in vectors[order].items())  # fmt: skip
        if norms[order] and reference_norms[order]:
            total += product / (norms[order] * reference_norms[order])
    return total / MAX_ORDER * math.exp(-((length - reference_length) ** 2) / (2 * CIDER_SIGMA**2))


def _ngrams(text: str) -> NgramCounts:
    words = text.split()
    return NgramCounts(
        tuple(words[start : start + order])
        for order in range(1, MAX_ORDER + 1)
        for start in range(len(words) - order + 1)
    )
