"""Bytes and tokens of planned samples, batch by batch.

Axes: B samples of a batch, G captions of an image, T text positions.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from trainers.caption_sets import name_sides, normalized_captions, targets_and_blank
from trainers.shards.open_shards import OpenShards, UnusableSampleError
from trainers.shards.plan import NOTHING, PlannedSamples
from trainers.shards.ppm import BLANK
from trainers.shards.read_problems import ReadProblems


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionTokens:
    """How the captions of a batch become arrays."""

    tokenizer: object
    """A `CaptionTokenizer`, or anything with `encode_batch` and the ids of its special tokens."""
    captions_per_image: int
    """G. An image with more shows a draw of them by its seed, without repeats."""
    max_length: int
    """T. Longer captions lose words, not the end token."""
    lowercase: bool = False
    """Lower-cases captions and drops their final full stop."""
    flip_captions_with_sides: bool = False
    """Lets images be mirrored though a caption says left or right."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardReader:
    """Reads planned samples. A sample that became unusable keeps its place, as a black pixel that weighs nothing."""

    shards: OpenShards
    """Where images and captions are."""
    tokens: CaptionTokens
    """What becomes of the captions."""
    problems: ReadProblems
    """Where unusable samples are named."""

    def read(self, planned: PlannedSamples) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Reads a batch.

        Args:
            planned: B samples.

        Returns:
            `encoded`: data bytes `(B,)`, each a plain JPEG or a PPM, seed int32 `(B, 2)`, allow_flip bool `(B,)`, size
            int32 `(B, 2)`, height and width; and `rest`: token_ids int32, padding_mask bool, targets int32 and
            sample_weight float32, each `(B, G, T)`.

        Raises:
            UnreadableShardsError: If nothing can be read any more.
            CacheLimitError: If a remote shard does not fit in the cache.
        """
        num_samples = len(planned.shard)
        data = np.full(num_samples, BLANK, object)
        size = np.ones((num_samples, 2), "int32")
        captions: list[tuple[str, ...]] = [()] * num_samples
        lost_shards = []
        for place, (shard, row) in enumerate(zip(planned.shard.tolist(), planned.row.tolist(), strict=True)):
            if shard == NOTHING:
                continue
            try:
                data[place], size[place] = self.shards.image(shard, row)
                captions[place] = normalized_captions(self.shards.captions(shard, row), self.tokens.lowercase)
            except UnusableSampleError as error:
                data[place], size[place] = BLANK, 1
                lost_shards.append(shard)
                self.problems.add(error.problem)
        self.problems.require_good(sum(map(bool, captions)), lost_shards, self.shards.num_in_shards)
        allowed = [self.tokens.flip_captions_with_sides or not name_sides(texts) for texts in captions]
        encoded = {
            "data": data,
            "seed": planned.image_seed,
            "allow_flip": np.array(allowed, bool),
            "size": size,
        }
        shown = [
            _draw(*pair, self.tokens.captions_per_image)
            for pair in zip(captions, planned.image_seed, strict=True)
        ]
        return encoded, self._arrays(shown)

    def _arrays(self, captions: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
        texts = [text for image in captions for text in image]
        targets = targets_and_blank(
            texts, self.tokens.tokenizer, self.tokens.max_length, pad_to_max_length=True
        )
        rows = np.full((len(captions), self.tokens.captions_per_image), len(texts))  # the blank one
        first = 0
        for place, image in enumerate(captions):
            rows[place, : len(image)] = np.arange(first, first + len(image))
            first += len(image)
        return {field.name: getattr(targets, field.name)[rows] for field in dataclasses.fields(targets)}


def _draw(captions: Sequence[str], seed: np.ndarray, count: int) -> Sequence[str]:
    """At most `count` of the captions."""
    if len(captions) <= count:
        return captions
    chosen = np.random.default_rng(seed).permutation(len(captions))[:count]
    return [captions[number] for number in chosen]
