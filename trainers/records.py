"""Images with their captions, and what was left out while reading them."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np


@dataclasses.dataclass(frozen=True)
class CaptionedImage:
    """An image file and its captions, in the order of the table."""

    path: Path
    """The image file."""
    captions: tuple[str, ...]
    """At least one caption; whitespace is single spaces."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something that was left out of the data, and why."""

    reason: str
    """One of a few fixed phrases, to count by."""
    item: str
    """What was left out: a row of a table or an image file."""
    detail: str = ""
    """What exactly was found."""
    num_captions: int = 1
    """Captions lost with it: 1 for a row, all of its captions for an image."""

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.item, self.reason, self.detail)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionRecords:
    """What a table of captions holds."""

    source: str
    """The table, in words."""
    images: tuple[CaptionedImage, ...]
    """The usable images, in order of first appearance."""
    problems: tuple[Problem, ...]
    """What was left out, in the order it was met."""
    num_rows: int
    """Captions in the source, the ones left out included."""
    columns: tuple[str, str] | None = None
    """The columns read as image and caption, or None for a format that has none."""


def collect_captions(
    rows: Iterable[tuple[str, Path | None, str, Problem | None]],
) -> tuple[tuple[CaptionedImage, ...], list[Problem], int]:
    """Gathers rows by image and leaves out the unusable ones.

    Args:
        rows: tuples of the row's name, its image, its caption, and the problem of locating the image, if any.

    Returns:
        The images in order of first appearance, the problems, and the number of rows read.
    """
    captions: dict[Path, dict[str, None]] = {}
    problems: list[Problem] = []
    num_rows = 0
    for name, path, caption, problem in rows:
        num_rows += 1
        caption = " ".join(caption.split())
        problem = problem or caption_problem(name, caption)
        if problem is None and caption in captions.get(path, ()):
            problem = Problem("duplicate row", name, f"{path}: {caption!r}")
        if problem is not None:
            problems.append(problem)
        else:
            captions.setdefault(path, {})[caption] = None
    images = tuple(CaptionedImage(path, tuple(texts)) for path, texts in captions.items())
    return images, problems, num_rows


MAX_CAPTION_CHARACTERS = 10_000
"""No caption is longer; a cell of this size is usually a table whose closing quote is missing."""


def caption_problem(name: str, caption: str) -> Problem | None:
    """What makes a caption unusable, or None. Undecodable bytes are expected as surrogates."""
    if not caption:
        return Problem("empty caption", name)
    try:
        caption.encode("utf-8")
    except UnicodeEncodeError:
        return Problem("text is not UTF-8", name, ascii(caption[:200]))
    if "\0" in caption:
        return Problem("NUL in the caption", name, ascii(caption[:200]))
    if len(caption) > MAX_CAPTION_CHARACTERS:
        return Problem("caption too long", name, f"{len(caption)} characters: {caption[:80]!r}...")
    return None


def split_by_fold(
    images: Sequence[CaptionedImage], folds: int, fold: int, seed: int
) -> tuple[list[CaptionedImage], list[CaptionedImage]]:
    """The images of all folds but one, and those of that one, each with all of their captions.

    Args:
        images: the images. The same images in the same order give the same folds.
        folds: int. Number of parts, equal in size but for one image.
        fold: int. The part set aside, from 1.
        seed: int. Another seed gives other parts.

    Returns:
        The training images and the validation images, both in the order given.

    Raises:
        ValueError: If there are fewer images than folds.
    """
    if len(images) < folds:
        raise ValueError(
            f"`folds` must not exceed the number of images; received folds={folds}, {len(images)} images."
        )
    chosen = set(np.random.default_rng(seed).permutation(len(images))[fold - 1 :: folds].tolist())
    training = [image for index, image in enumerate(images) if index not in chosen]
    return training, [images[index] for index in sorted(chosen)]


def split_by_image(
    images: Sequence[CaptionedImage], fraction: float, seed: int
) -> tuple[list[CaptionedImage], list[CaptionedImage]]:
    """Sets some images aside for validation, each with all of its captions.

    Args:
        images: the images. The same images in the same order give the same split.
        fraction: float. Share of the images set aside, above 0 and below 1; each side gets at least one.
        seed: int. Another seed gives another split.

    Returns:
        The training images and the validation images, both in the order given.

    Raises:
        ValueError: If `fraction` is out of range or there are fewer than two images.
    """
    if not 0.0 < fraction < 1.0:
        raise ValueError(f"`fraction` must be above 0 and below 1; received fraction={fraction}.")
    if len(images) < 2:
        raise ValueError(
            f"Splitting needs at least 2 images; received {len(images)}. Give a validation table."
        )
    num_validation = min(max(round(fraction * len(images)), 1), len(images) - 1)
    chosen = set(np.random.default_rng(seed).permutation(len(images))[:num_validation].tolist())
    training = [image for index, image in enumerate(images) if index not in chosen]
    return training, [images[index] for index in sorted(chosen)]
