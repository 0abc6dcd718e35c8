"""Which samples of a shard are wanted: filters by size, caption, similarity and repetition."""

import dataclasses
import math
import re
from typing import Literal

from trainers.records import Problem

_TAG = re.compile(r"<[A-Z][A-Z_]*>")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardFilters:
    """What a good sample must have to be used. By default every good sample is."""

    min_side_px: int = 1
    """Smallest side of the upright image, in pixels."""
    max_aspect_ratio: float | None = None
    """Longer side divided by the shorter one, at most; any by default."""
    min_caption_words: int = 1
    """Words that a caption has at least; words are what spaces separate."""
    max_caption_words: int | None = None
    """Words that a caption has at most; any number by default."""
    tags: Literal["keep", "remove", "drop"] = "keep"
    """Tags such as <PERSON>, which hide names in cc12m: keep them, remove them from the caption, or drop the caption."""
    drop_duplicates: bool = False
    """Of images that are equal byte by byte only the first is used, over all shards together."""
    similarity_column: str | None = None
    """Column of the samples' .json, or of the .parquet beside a shard on the disk, that --min-similarity is about."""
    min_similarity: float | None = None
    """Smallest value in that column; samples without a value are not used."""

    def __post_init__(self) -> None:
        for name in ("min_side_px", "min_caption_words"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1; received {name}={getattr(self, name)}.")
        if self.max_aspect_ratio is not None and not self.max_aspect_ratio >= 1:
            raise ValueError(
                f"`max_aspect_ratio` must be at least 1; received max_aspect_ratio={self.max_aspect_ratio}."
            )
        if self.max_caption_words is not None and self.max_caption_words < self.min_caption_words:
            raise ValueError(
                "`max_caption_words` must not be below `min_caption_words`; received "
                f"{self.max_caption_words} and {self.min_caption_words}."
            )
        if self.tags not in ("keep", "remove", "drop"):
            raise ValueError(f"`tags` must be keep, remove or drop; received tags={self.tags!r}.")
        if (self.similarity_column is None) != (self.min_similarity is None):
            raise ValueError(
                "`similarity_column` and `min_similarity` need each other; received "
                f"{self.similarity_column!r} and {self.min_similarity}."
            )

    def cleaned(self, caption: str) -> str:
        """The caption with single spaces, and without tags if they shall be removed."""
        return " ".join((_TAG.sub(" ", caption) if self.tags == "remove" else caption).split())

    def caption_problem(self, item: str, caption: str) -> Problem | None:
        """Why a cleaned caption is not wanted, or None."""
        num_words = len(caption.split())
        if self.tags == "drop" and (tag := _TAG.search(caption)):
            return Problem("tag in the caption", item, tag[0])
        if num_words < self.min_caption_words:
            return Problem("caption has few words", item, f"{num_words}: {caption[:80]!r}")
        if self.max_caption_words is not None and num_words > self.max_caption_words:
            return Problem("caption has many words", item, f"{num_words}: {caption[:80]!r}...")
        return None

    def image_problem(self, item: str, height: int, width: int) -> Problem | None:
        """Why an image of this size is not wanted, or None."""
        shorter, longer = sorted((height, width))
        if shorter < self.min_side_px:
            return Problem("image too small", item, f"{width} x {height}")
        if self.max_aspect_ratio is not None and longer > self.max_aspect_ratio * shorter:
            return Problem("image too narrow", item, f"{width} x {height}")
        return None

    def similarity_problem(self, item: str, similarity: object) -> Problem | None:
        """Why a sample with this value of the column is not wanted, or None; what is no number is no value."""
        if self.min_similarity is None:
            return None
        try:
            value = float(similarity)  # tables also hold numbers as text
        except (TypeError, ValueError, OverflowError):
            value = math.nan
        if math.isnan(value):
            return Problem("no similarity", item, f"{self.similarity_column} is {str(similarity)[:80]!r}")
        if value < self.min_similarity:
            return Problem("similarity too low", item, f"{value:g}")
        return None


NO_FILTERS = dataclasses.asdict(ShardFilters())
"""What an index says of its filters that was made without any."""
