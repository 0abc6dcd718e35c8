"""Which samples of which shards a process shows, in which order: a pure function of the seed.

Axes: N samples of a source, P processes, M places of an epoch of one process, B places of a batch.
"""

import dataclasses
import functools
import math

import numpy as np

NOTHING = -1
"""Stands for a shard where a process has nothing left to show while another has."""

_SHARDS, _CUT, _BLOCK, _MIX = range(4)  # what a random generator is for


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlannedSamples:
    """Samples in the order shown."""

    shard: np.ndarray
    """int32 `(B,)`: positions in the list of shards of all sources, or `NOTHING`."""
    row: np.ndarray
    """int64 `(B,)`: positions in the shard's index."""
    image_seed: np.ndarray
    """int32 `(B, 2)`: seeds of captions and augmentation, never negative."""

    def filled(self, num_places: int) -> "PlannedSamples":
        """The samples, and `NOTHING` behind them up to that many places."""
        missing = num_places - len(self.shard)
        return PlannedSamples(
            shard=np.append(self.shard, np.full(missing, NOTHING, "int32")),
            row=np.append(self.row, np.zeros(missing, "int64")),
            image_seed=np.concatenate([self.image_seed, np.zeros((missing, 2), "int32")]),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Shards that make up one set of data."""

    num_samples: tuple[int, ...]
    """Samples of each shard."""
    weight: float = 1.0
    """Its share in the mix, relative to the other sources."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """What one process of several shows, epoch after epoch.

    An epoch of one source: its shards are permuted, their samples laid end to end and cut into P ranges of equal length, so
    that a process reads few shards. A range is cut into blocks, the first one at random, and each block is permuted.
    Over all processes each sample comes exactly once.

    With several sources an epoch is the first source once through. The others come in the shares of their weights and
    go on from epoch to epoch, each through epochs of its own.

    All processes have the same number of places M; one that has nothing left shows `NOTHING`.
    """

    sources: tuple[Source, ...]
    """The sources; the first one decides how long an epoch is."""
    seed: int
    """Not negative."""
    shuffle_buffer: int
    """Samples of a block."""
    process_index: int = 0
    """Which process this is, from 0."""
    num_processes: int = 1
    """P."""

    def __post_init__(self) -> None:
        for name, least in {"seed": 0, "shuffle_buffer": 1, "num_processes": 1, "process_index": 0}.items():
            if (value := getattr(self, name)) < least:
                raise ValueError(f"`{name}` must be at least {least}; received {name}={value}.")
        if self.process_index >= self.num_processes:
            raise ValueError(
                f"`process_index` must be below num_processes={self.num_processes}; received {self.process_index}."
            )
        if not self.sources or not all(sum(source.num_samples) for source in self.sources):
            raise ValueError("`sources` must hold samples, each of them; received a source of none.")
        if not all(0 < source.weight < math.inf for source in self.sources):
            weights = [source.weight for source in self.sources]
            raise ValueError(f"`weight` of each source must be above 0; received {weights}.")

    @property
    def num_places(self) -> int:
        """M, the same for every process and epoch."""
        return sum(self.places_of(source) for source in range(len(self.sources)))

    def places_of(self, source: int) -> int:
        """Places of an epoch that show a source."""
        first = math.ceil(sum(self.sources[0].num_samples) / self.num_processes)
        share = self.sources[source].weight / self.sources[0].weight
        return first if source == 0 else max(1, round(first * share))

    def num_steps(self, batch_size: int) -> int:
        """Batches of an epoch; the last one may be short."""
        return math.ceil(self.num_places / batch_size)

    def samples(self, epoch: int, start: int, stop: int) -> PlannedSamples:
        """The samples of places `start` to `stop` of an epoch.

        Args:
            epoch: int. From 0.
            start: int.
            stop: int. What is beyond the end of the epoch is left out.
        """
        stop = min(stop, self.num_places)
        if len(self.sources) == 1:
            return self._source_samples(0, epoch, np.arange(start, stop))
        mix = _mix(self, epoch)
        source, rank = mix[0][start:stop], mix[1][start:stop]
        result = PlannedSamples(
            shard=np.empty(stop - start, "int32"),
            row=np.empty(stop - start, "int64"),
            image_seed=np.empty((stop - start, 2), "int32"),
        )
        for number in range(len(self.sources)):
            here = source == number
            part = self._source_samples(number, epoch, rank[here])
            for field in dataclasses.fields(result):
                getattr(result, field.name)[here] = getattr(part, field.name)
        return result

    def _source_samples(self, source: int, epoch: int, place: np.ndarray) -> PlannedSamples:
        """The samples of some places, in increasing order, among the places of a source in an epoch."""
        first, last = self._range(source)
        if source > 0:  # it goes on from epoch to epoch
            own_epoch, place = np.divmod(place + epoch * self.places_of(source), max(last - first, 1))
        else:
            own_epoch = np.full(len(place), epoch)
        shard, row = np.full(len(place), NOTHING, "int32"), np.zeros(len(place), "int64")
        image_seed = np.zeros((len(place), 2), "int32")
        for number in np.unique(own_epoch).tolist():
            here = np.flatnonzero((own_epoch == number) & (place < last - first))
            order = _SourceEpoch(self, source, number, first, last)
            shard[here], row[here], image_seed[here] = order.samples(place[here])
        return PlannedSamples(shard=shard, row=row, image_seed=image_seed)

    def _range(self, source: int) -> tuple[int, int]:
        """Where the range of this process begins and ends."""
        total = sum(self.sources[source].num_samples)
        return tuple((self.process_index + end) * total // self.num_processes for end in (0, 1))


@dataclasses.dataclass(frozen=True)
class _SourceEpoch:
    """An epoch of one source on one process."""

    plan: ShardPlan
    source: int
    epoch: int
    first: int
    last: int

    def samples(self, place: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Shard, row and seed of some places of this process."""
        size = self.plan.shuffle_buffer
        cut = int(_generator(self.plan, _CUT, self.source, self.epoch).integers(size))
        number = (place + cut) // size
        position = np.empty(len(place), "int64")
        image_seed = np.empty((len(place), 2), "int32")
        for block in np.unique(number).tolist():
            here = number == block
            start, stop = max(block * size - cut, 0), min((block + 1) * size - cut, self.last - self.first)
            order, seeds = _block(self.plan, self.source, self.epoch, block, stop - start)
            within = place[here] - start
            position[here] = self.first + start + order[within]
            image_seed[here] = seeds[within]
        shard_order, ends = _shard_order(self.plan, self.source, self.epoch)
        where = np.searchsorted(ends, position, side="right")
        row = position - np.where(where > 0, ends[where - 1], 0)
        before = sum(len(source.num_samples) for source in self.plan.sources[: self.source])
        return before + shard_order[where], row, image_seed


def _generator(plan: ShardPlan, purpose: int, *numbers: int) -> np.random.Generator:
    """Random numbers of this process, but for the order of shards, which is the same for all."""
    process = () if purpose == _SHARDS else (plan.process_index, plan.num_processes)
    return np.random.default_rng([plan.seed, purpose, *numbers, *process])


# A batch after the other asks for the same block; plans are equal where their fields are.
@functools.lru_cache(8)
def _block(plan: ShardPlan, source: int, epoch: int, block: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Order and image seeds of a block."""
    generator = _generator(plan, _BLOCK, source, epoch, block)
    return generator.permutation(size), generator.integers(0, 2**31 - 1, (size, 2), dtype="int32")


@functools.lru_cache(8)
def _shard_order(plan: ShardPlan, source: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """The shards in their order, and where each of them ends when they are laid end to end."""
    counts = np.array(plan.sources[source].num_samples, "int64")
    order = _generator(plan, _SHARDS, source, epoch).permutation(len(counts)).astype("int32")
    return order, np.cumsum(counts[order])


@functools.lru_cache(1)
def _mix(plan: ShardPlan, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """For each place of an epoch its source, and its number among the places of that source."""
    counts = [plan.places_of(source) for source in range(len(plan.sources))]
    source = np.repeat(np.arange(len(counts), dtype="int8"), counts)
    _generator(plan, _MIX, epoch).shuffle(source)
    rank = np.empty(len(source), "int64")
    for number, count in enumerate(counts):
        rank[source == number] = np.arange(count)
    return source, rank
