"""What a training run from shards can be told."""

import dataclasses
import math
from typing import Literal

from trainers.settings import TrainSettings
from trainers.settings_rules import require
from trainers.shards.remote import DEFAULT_CACHE_GB


@dataclasses.dataclass(frozen=True, kw_only=True)
class WebdatasetTrainSettings(TrainSettings):
    """Settings of a run from tar shards in img2dataset's layout."""

    shards: tuple[str, ...]
    """Shards to train on: tar files, folders of them, globs, or ranges such as 'cc3m/{00000..00331}.tar'; also addresses, as
    https:// and whatever fsspec opens."""
    shard_cache_gb: float = DEFAULT_CACHE_GB
    """Disk space for shards that are fetched, in 10^9 bytes; they lie in the folder `shards` of --cache-dir."""
    shard_weights: tuple[float, ...] = ()
    """Makes each word of --shards a source of its own, mixed in these shares: an epoch is the first source once through, and
    the others go on from epoch to epoch. By default all shards are one source."""
    validation_shards: tuple[str, ...] = ()
    """Shards to validate on, instead of --validation-csv."""
    engine: Literal["auto", "dali", "tf"] = "auto"
    """What decodes and resizes images: NVIDIA DALI, TensorFlow, or DALI where it is installed and there is a GPU."""
    shuffle_buffer: int = 10_000
    """Samples that are shuffled among each other; the order of shards is shuffled as well."""
    max_bad_fraction: float = 0.1
    """Largest share of captions that were left out when the shards were indexed, filters included; above it nothing is
    trained."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.shards:
            raise ValueError("`shards` must name at least one shard; received none.")
        if self.shard_weights and len(self.shard_weights) != len(self.shards):
            raise ValueError(
                f"`shard_weights` must hold one number for each word of `shards`; received {self.shard_weights} for "
                f"{self.shards}."
            )
        if not all(0 < weight < math.inf for weight in self.shard_weights):
            raise ValueError(f"`shard_weights` must be above 0; received {self.shard_weights}.")
        require(self, "shard_cache_gb", lambda value: 0 < value < math.inf, "above 0")
        if self.shuffle_buffer < 1:
            raise ValueError(
                f"`shuffle_buffer` must be at least 1; received shuffle_buffer={self.shuffle_buffer}."
            )
        if self.validation_shards and self.validation_csv is not None:
            raise ValueError(
                f"`validation_shards` and `validation_csv` exclude each other; received {self.validation_shards} and "
                f"{self.validation_csv}."
            )
