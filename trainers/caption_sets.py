"""Tokenised captions of a set of images, and which of them an epoch shows.

Axes: N images, C captions of all images, G captions shown for each image, T text positions.
"""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from captioner.text.targets import TrainingTargets, training_targets
from trainers.records import CaptionedImage

_SIDES = re.compile(r"\b(left|right)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionSet:
    """Everything about a set of images but their pixels."""

    paths: tuple[str, ...]
    """N image files."""
    offsets: np.ndarray
    """int64 `(N + 1,)`: the captions of image `n` are rows `offsets[n]` to `offsets[n + 1]` of `targets`."""
    targets: TrainingTargets
    """C + 1 rows: the captions, then a blank one that stands for a caption which an image does not have."""
    allow_flip: np.ndarray
    """bool `(N,)`: False where mirroring the image would make a caption wrong."""

    @property
    def num_captions(self) -> int:
        """C."""
        return int(self.offsets[-1])

    @property
    def max_captions_per_image(self) -> int:
        """Captions of the image that has the most."""
        return int(np.diff(self.offsets).max())


def tokenize_captions(
    images: Sequence[CaptionedImage],
    tokenizer,
    *,
    max_length: int,
    pad_to_max_length: bool = False,
    flip_captions_with_sides: bool = False,
) -> CaptionSet:
    """Tokenises all captions once.

    Args:
        images: N images with at least one caption each.
        tokenizer: a `CaptionTokenizer`, or anything with `encode_batch(texts)` (no special tokens),
            `start_token_id`, `end_token_id` and `pad_token_id`.
        max_length: int. The most text positions T; longer captions lose words, not the end token.
        pad_to_max_length: bool. If False, T is what the longest caption needs.
        flip_captions_with_sides: bool. Whether an image may be mirrored though a caption says left or right.

    Returns:
        A `CaptionSet`.

    Raises:
        ValueError: If there are no images, or one has no caption.
    """
    if not images:
        raise ValueError("`images` must hold at least one image; received none.")
    for image in images:
        if not image.captions:
            raise ValueError(f"Each image must have a caption; {image.path} has none.")
    texts = [caption for image in images for caption in image.captions]
    return CaptionSet(
        paths=tuple(str(image.path) for image in images),
        offsets=np.cumsum([0, *(len(image.captions) for image in images)]),
        targets=targets_and_blank(texts, tokenizer, max_length, pad_to_max_length),
        allow_flip=np.array([flip_captions_with_sides or not name_sides(image.captions) for image in images]),
    )


def targets_and_blank(
    texts: Sequence[str], tokenizer, max_length: int, pad_to_max_length: bool
) -> TrainingTargets:
    """Tokenises C captions: C + 1 rows, the last a blank one that stands for a caption which an image does not have."""
    special = {
        name: int(getattr(tokenizer, name)) for name in ("start_token_id", "end_token_id", "pad_token_id")
    }
    token_ids = [list(map(int, ids)) for ids in tokenizer.encode_batch(texts)]
    targets = training_targets(
        [*token_ids, []], **special, max_length=max_length, pad_to_max_length=pad_to_max_length
    )
    # The blank row attends to its start token, so that no softmax is empty, and has no say in the loss.
    targets.targets[-1] = special["pad_token_id"]
    targets.sample_weight[-1] = 0.0
    return targets


def name_sides(captions: Sequence[str]) -> bool:
    """Whether one of the captions says left or right, so that mirroring the image would make it wrong."""
    return any(map(_SIDES.search, captions))


def normalized_captions(captions: Sequence[str], lowercase: bool) -> tuple[str, ...]:
    """Captions as they are trained; those that became equal count once."""
    return tuple(dict.fromkeys(normalize_caption(text, lowercase) for text in captions))


def normalize_caption(text: str, lowercase: bool) -> str:
    """Single spaces; with `lowercase`, lower case without the final full stop, unless nothing is left then."""
    text = " ".join(text.split())
    return (text.lower().rstrip(" .") or text) if lowercase else text


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpochPlan:
    """What one epoch shows, image by image in the order shown."""

    image_index: np.ndarray
    """int64 `(N,)`: positions in the caption set."""
    image_seed: np.ndarray
    """int32 `(N, 2)`: seeds of the augmentation, never negative."""
    caption_row: np.ndarray
    """int64 `(N, G)`: rows of `CaptionSet.targets`, C for a caption that the image does not have."""


def epoch_plan(captions: CaptionSet, captions_per_image: int, seed: int, epoch: int) -> EpochPlan:
    """Draws order, captions and augmentation seeds as a pure function of `(seed, epoch)`.

    An image with more than G captions shows a fresh draw of G, without repeats; one with fewer shows all.
    """
    num_images, num_captions = len(captions.paths), captions.num_captions
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(num_images)
    image_seed = generator.integers(0, 2**31 - 1, (num_images, 2), dtype="int32")
    image_of_row = np.repeat(np.arange(num_images), np.diff(captions.offsets))
    shuffled_within_image = np.lexsort((generator.random(num_captions), image_of_row))
    return EpochPlan(
        image_index=order,
        image_seed=image_seed,
        caption_row=_first_rows(captions, shuffled_within_image, captions_per_image)[order],
    )


def filled_plan(captions: CaptionSet, plan: EpochPlan, batch_size: int) -> EpochPlan:
    """The plan with further images at its end, up to a whole number of batches; their captions are blank."""
    missing = -len(plan.image_index) % batch_size
    blank = np.full((missing, plan.caption_row.shape[1]), captions.num_captions)
    again = np.arange(missing) % len(plan.image_index)
    return EpochPlan(
        image_index=np.append(plan.image_index, plan.image_index[again]),
        image_seed=np.concatenate([plan.image_seed, plan.image_seed[again]]),
        caption_row=np.concatenate([plan.caption_row, blank]),
    )


def ordered_plan(captions: CaptionSet, captions_per_image: int) -> EpochPlan:
    """Every image in its place with its first G captions."""
    num_images = len(captions.paths)
    return EpochPlan(
        image_index=np.arange(num_images),
        image_seed=np.zeros((num_images, 2), "int32"),
        caption_row=_first_rows(captions, np.arange(captions.num_captions), captions_per_image),
    )


def _first_rows(captions: CaptionSet, rows: np.ndarray, captions_per_image: int) -> np.ndarray:
    """The first G of each image's rows, filled up with the blank row, `(N, G)`."""
    position = captions.offsets[:-1, None] + np.arange(captions_per_image)[None, :]
    exists = position < captions.offsets[1:, None]
    return np.where(
        exists, np.append(rows, captions.num_captions)[np.where(exists, position, -1)], captions.num_captions
    )
