"""The official COCO caption metrics of a set of predicted captions."""

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from captioner.evaluation import java as java_runtime
from captioner.evaluation.matching import check_same_images
from captioner.evaluation.meteor import meteor_scores
from captioner.evaluation.official import official_scorer, official_version
from captioner.evaluation.tokenization import PTB, PURE_PYTHON, tokenize_ptb, tokenize_pure_python

NO_JAVA = (
    "No Java was found, so METEOR is left out and a pure-Python tokenisation stands in for PTB: BLEU, ROUGE-L and "
    'CIDEr are close to the official numbers, not equal to them. Install Java, or: pip install "captioner[eval]"'
)
ONE_IMAGE = (
    "CIDEr of a single image is 0 by its formula: it weighs words by how few of the images they describe."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionScore:
    """One image's predicted caption with its own scores."""

    image: str
    """The image, as the caller named it."""
    caption: str
    """The predicted caption."""
    references: tuple[str, ...]
    """The captions that it was compared with."""
    cider: float
    """The image's own CIDEr; CIDEr of the whole set is the mean."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores of a set of captions, and how they came about."""

    scores: dict[str, float]
    """"BLEU-1" to "BLEU-4", "METEOR" (only with Java), "ROUGE-L", "CIDEr"; as fractions, not times 100."""
    captions: tuple[CaptionScore, ...]
    """One entry for each image, in the order of the references."""
    settings: dict[str, Any]
    """Tokenizer, Java and metric package that were used, number of images and references."""
    notes: tuple[str, ...] = ()
    """What a reader of the scores must know."""

    def to_dict(self) -> dict[str, Any]:
        """`{"scores", "settings", "captions"}` of plain JSON types; the notes are in the settings."""
        captions = [
            {
                "image": caption.image,
                "caption": caption.caption,
                "references": list(caption.references),
                "CIDEr": caption.cider,
            }
            for caption in self.captions
        ]
        settings = {**self.settings, "notes": list(self.notes)}
        return {"scores": dict(self.scores), "settings": settings, "captions": captions}

    def best_and_worst(self, count: int) -> tuple[tuple[CaptionScore, ...], tuple[CaptionScore, ...]]:
        """The `count` images with the highest own CIDEr and the `count` with the lowest; none is in both."""
        ranked = sorted(self.captions, key=lambda caption: -caption.cider)
        best = ranked[: min(count, (len(ranked) + 1) // 2)]
        worst = ranked[len(best) :][::-1][:count]
        return tuple(best), tuple(worst)


def evaluate_captions(
    predictions: Mapping[Hashable, str], references: Mapping[Hashable, Sequence[str]]
) -> Evaluation:
    """Scores predicted captions with the metrics of the COCO evaluation.

    Args:
        predictions: mapping from image (path, name or number) to its caption. An empty caption scores 0.
        references: mapping from the same images to their reference captions.

    Returns:
        An `Evaluation`. Without Java it has no METEOR, and its notes and settings say which tokenisation was
        used.

    Raises:
        ValueError: If the images differ or an image has no reference.
        ImportError: If pycocoevalcap is not installed.
        JavaError: If a Java program of the metrics fails.

    References:
        - [Chen et al., 2015](https://arxiv.org/abs/1504.00325), section 3
    """
    check_same_images(predictions, references)
    bleu = official_scorer("bleu.bleu", "Bleu")(n=4)  # first: a missing package is said before any work
    java = java_runtime.find_java()
    predicted, expected = _tokenize(
        [predictions[image] for image in references], list(references.values()), java
    )
    scores, ciders = _score(predicted, expected, bleu, java)
    captions = tuple(
        CaptionScore(image=str(image), caption=predictions[image], references=tuple(texts), cider=own)
        for (image, texts), own in zip(references.items(), ciders, strict=True)
    )
    settings = {
        "tokenizer": PTB if java else PURE_PYTHON,
        "java": java.source if java else None,
        "pycocoevalcap": official_version(),
        "num_images": len(references),
        "num_references": sum(map(len, expected)),
    }
    return Evaluation(
        scores=scores, captions=captions, settings=settings, notes=_notes(predicted, expected, java)
    )


def _tokenize(
    predictions: list[str], references: list[Sequence[str]], java
) -> tuple[list[str], list[list[str]]]:
    """Words of all captions in one run of the tokenizer."""
    captions = [*predictions, *(text for texts in references for text in texts)]
    words = tokenize_ptb(captions, java) if java else tokenize_pure_python(captions)
    remaining = iter(words[len(predictions) :])
    return words[: len(predictions)], [[next(remaining) for _ in texts] for texts in references]


def _score(
    predicted: list[str], expected: list[list[str]], bleu, java
) -> tuple[dict[str, float], list[float]]:
    result = {number: [words] for number, words in enumerate(predicted)}
    truth = dict(enumerate(expected))
    if not any(any(texts) for texts in expected):
        raise ValueError("`references` must hold at least one word; received captions without any word.")
    bleus, _ = bleu.compute_score(truth, result, verbose=0)
    scores = {f"BLEU-{order}": float(score) for order, score in enumerate(bleus, start=1)}
    if java:
        scores["METEOR"] = float(meteor_scores(predicted, expected, java)[0])
    _, rouges = official_scorer("rouge.rouge", "Rouge")().compute_score(truth, result)
    # To the official code "" is one word that equals another "": a caption without words must not win by
    # that.
    rouges = [float(score) if words else 0.0 for words, score in zip(predicted, rouges, strict=True)]
    scores["ROUGE-L"] = sum(rouges) / len(rouges)
    cider, ciders = official_scorer("cider.cider", "Cider")().compute_score(truth, result)
    scores["CIDEr"] = float(cider)
    return scores, [float(score) for score in ciders]


def _notes(predicted: list[str], expected: list[list[str]], java) -> tuple[str, ...]:
    notes = []
    if not java:
        notes.append(NO_JAVA)
    if len(expected) == 1:
        notes.append(ONE_IMAGE)
    if silent := sum(not words for words in predicted):
        notes.append(f"{silent} of {len(predicted)} predicted captions have no word and score 0.")
    if blank := sum(not any(texts) for texts in expected):
        notes.append(f"{blank} of {len(expected)} images have no reference with a word and score 0.")
    return tuple(notes)
