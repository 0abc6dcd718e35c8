"""The shards of a run: found, indexed where they are not, and what their indexes say.

Axes: N samples of all shards.
"""

import dataclasses
import functools
import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from captioner.fetch import DownloadError
from captioner.images import decode_image
from trainers.caption_sets import normalized_captions
from trainers.data_report import DataReport
from trainers.records import Problem
from trainers.shards.build_index import INDEXED, build_indexes
from trainers.shards.filters import NO_FILTERS
from trainers.shards.identity import changed_since
from trainers.shards.index import IndexSummary, ShardIndexError, index_path, read_index, read_summary
from trainers.shards.inspection import inspect_shards
from trainers.shards.open_shards import OpenShards
from trainers.shards.paths import find_shards, is_remote
from trainers.shards.plan import PlannedSamples, Source
from trainers.shards.remote import ShardCache
from trainers.shards.report import NOT_FETCHED, OUTDATED_INDEX, ShardStatus

log = logging.getLogger("captioner")

MAX_NAMED = 10_000
"""Rejected samples that a run holds, and names in its data report. The indexes name all, and there may be millions."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardData:
    """Shards of one or more sources, with what their indexes say of them."""

    sources: tuple[tuple[str, ...], ...]
    """The shards of each source."""
    weights: tuple[float, ...]
    """The share of each source."""
    summaries: tuple[IndexSummary, ...]
    """What is said of each shard, source after source; with the first of many rejected samples."""
    unnamed: Counter
    """How many rejected samples `summaries` leaves out, by reason and number of captions."""
    unreadable: tuple[Problem, ...] = ()
    """Shards that cannot be read; they are left out."""
    cache: ShardCache | None = None
    """Fetches the shards that lie elsewhere; `sources` name their places in its folder."""

    @property
    def shards(self) -> tuple[str, ...]:
        """All shards, source after source."""
        return tuple(shard for source in self.sources for shard in source)

    @functools.cached_property
    def plan_sources(self) -> tuple[Source, ...]:
        """The sources of a `ShardPlan`."""
        counts = iter(self.summaries)
        return tuple(
            Source(num_samples=tuple(next(counts).num_samples for _ in source), weight=weight)
            for source, weight in zip(self.sources, self.weights, strict=True)
        )

    def opened(self, shuffle_buffer: int) -> OpenShards:
        """The shards for reading, with as many indexes in memory as samples are shuffled from."""
        max_indexes = 0
        for source in self.plan_sources:
            counts = np.sort([count for count in source.num_samples if count])
            # As many of the smallest shards as a block may reach over, and one more at each end.
            max_indexes += int(np.searchsorted(np.cumsum(counts), shuffle_buffer)) + 3
        return OpenShards(self.shards, self.summaries, max_indexes, self.cache)

    def captions(self, lowercase: bool) -> Iterator[tuple[str, ...]]:
        """The captions of each sample as they are trained, shard by shard."""
        for shard in self.shards:
            index = read_index(index_path(shard))
            for row in range(index.num_samples):
                yield normalized_captions(index.captions(row), lowercase)

    def in_order(self) -> PlannedSamples:
        """Each sample once, in the order of the shards."""
        counts = [summary.num_samples for summary in self.summaries]
        return PlannedSamples(
            shard=np.repeat(np.arange(len(counts), dtype="int32"), counts),
            row=np.concatenate([np.arange(count) for count in counts]),
            image_seed=np.zeros((sum(counts), 2), "int32"),
        )

    def fingerprint(self) -> str:
        """Changes with the samples, and not with the folder of the shards."""
        content = [
            [
                os.path.basename(shard),
                summary.num_samples,
                summary.num_captions,
                summary.head_sha256,
                summary.shard_bytes,
                *([] if summary.filters == NO_FILTERS else [summary.filters]),
            ]
            for shard, summary in zip(self.shards, self.summaries, strict=True)
        ]
        sizes = [len(source) for source in self.sources]
        return hashlib.sha256(json.dumps([content, sizes, self.weights]).encode()).hexdigest()[:32]

    def report(self) -> DataReport:
        """What the shards came down to."""
        read = [summary for summary in self.summaries if summary.num_read]
        rejected = [problem for summary in read for problem in summary.problems]
        num_captions = sum(summary.num_captions for summary in read)
        # How many captions a shard had of which nothing can be read, is not known: as many as the others.
        each = max(round(num_captions / max(len(read), 1)), 1)
        num_unnamed: Counter[str] = Counter()
        for (reason, _), count in self.unnamed.items():
            num_unnamed[reason] += count
        num_unnamed_captions = sum(lost * count for (_, lost), count in self.unnamed.items())
        nothing = [
            problem for summary in self.summaries if not summary.num_read for problem in summary.problems
        ]
        unreadable = [dataclasses.replace(p, num_captions=each) for p in (*self.unreadable, *nothing)]
        return DataReport(
            source=_in_words(self.shards),
            columns=None,
            num_rows=num_captions
            + sum(p.num_captions for p in (*rejected, *unreadable))
            + num_unnamed_captions,
            num_images=sum(summary.num_samples for summary in self.summaries),
            num_captions=num_captions,
            problems=(*unreadable, *rejected),
            num_unnamed=dict(num_unnamed),
            num_unnamed_captions=num_unnamed_captions,
        )


@dataclasses.dataclass(frozen=True)
class ShardImage:
    """An image in a shard: prints as its name, and becomes an array where its pixels are asked for."""

    shards: OpenShards
    """Where it is."""
    shard: int
    """Position of its shard."""
    row: int
    """Position in the shard's index."""

    def __str__(self) -> str:
        return self.shards.key(self.shard, self.row)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.asarray(decode_image(self.shards.encoded(self.shard, self.row)), dtype)


def find_data(
    words: Sequence[str],
    weights: Sequence[float] = (),
    *,
    cache: ShardCache | None = None,
    progress: bool = True,
) -> ShardData:
    """Finds shards and reads what their indexes say; makes the indexes that are missing.

    Args:
        words: as for `find_shards`.
        weights: one number for each word, which then is a source of its own. By default all are one source.
        cache: `ShardCache` for shards that lie elsewhere.
        progress: bool. Whether to show a progress bar while indexing.

    Raises:
        FileNotFoundError: If a word means no shard.
        DownloadError: If a remote shard that has no index here cannot be fetched.
        ValueError: If an index is damaged or of another content than its shard, a shard is in two sources, a
            source has no good sample, or a shard is remote and there is no `cache`.
    """
    sources = [find_shards([word]) for word in words] if weights else [find_shards(words)]
    shards = [shard for source in sources for shard in source]
    if len(set(map(os.path.abspath, shards))) < len(shards):
        raise ValueError("`shards` of several sources must differ; a shard is in two of them.")
    unreadable = _index_missing(shards, cache, progress)
    sources = [tuple(shard for shard in source if shard not in unreadable) for source in sources]
    shards = [shard for source in sources for shard in source]
    num_named = max(10, MAX_NAMED // max(len(shards), 1))
    with ThreadPoolExecutor(8) as threads:
        found = list(
            threads.map(lambda shard: _without_names(_current_summary(shard, cache), num_named), shards)
        )
    data = ShardData(
        sources=tuple(
            tuple(shard if cache is None else cache.local_path(shard) for shard in source)
            for source in sources
        ),
        cache=cache,
        weights=tuple(weights) or (1.0,),
        summaries=tuple(summary for summary, _ in found),
        unnamed=sum((unnamed for _, unnamed in found), Counter()),
        unreadable=tuple(unreadable.values()),
    )
    for word, source in zip(words, data.plan_sources, strict=False):
        if not sum(source.num_samples):
            raise ValueError(f"`shards` {word!r} hold no good sample. `captioner shards check` says why.")
    return data


def _index_missing(shards: Sequence[str], cache: ShardCache | None, progress: bool) -> dict[str, Problem]:
    """Indexes what has no index; gives the shards that cannot be read."""
    missing = [shard for shard in shards if not is_remote(shard) and not index_path(shard).exists()]
    missing += _remote_without_index(list(filter(is_remote, shards)), cache, progress)
    if not missing:
        return {}
    log.info(
        "Indexing %s of %s shards, once; each sample is checked.", f"{len(missing):,}", f"{len(shards):,}"
    )
    report = build_indexes(missing, cache=cache, progress=progress)
    unreadable = {}
    for shard, status in zip(missing, report.statuses, strict=True):
        if status.problem is None:
            if status.note != INDEXED:
                log.warning("%s: %s", status.shard, status.note)
        elif status.problem.reason == NOT_FETCHED:
            raise DownloadError(status.problem.detail)
        else:
            unreadable[shard] = status.problem
    return unreadable


def _remote_without_index(shards: Sequence[str], cache: ShardCache | None, progress: bool) -> Iterator[str]:
    """Remote shards that are indexed here without filters: none were used before, and the server has no index."""
    unasked = []
    for shard, status in zip(shards, inspect_shards(shards, cache, progress=progress).statuses, strict=True):
        if status.problem is None:
            continue
        if status.problem.reason == NOT_FETCHED:
            if not status.index:
                raise DownloadError(status.problem.detail)
            unasked.append(status)
        elif status.problem.reason == OUTDATED_INDEX and not _is_unfiltered(status):
            raise ShardIndexError(
                f"the index of {status.shard} is not of its present content: {status.problem.detail}. Make it anew with "
                "`captioner shards index`, and the filters that you want."
            )
        else:
            yield shard
    if unasked:
        log.warning(
            "Whether %s of %s remote shards have changed is not known, and their indexes in the cache are used as they are: %s",
            f"{len(unasked):,}",
            f"{len(shards):,}",
            unasked[0].problem.detail,
        )


def _is_unfiltered(status: ShardStatus) -> bool:
    return bool(status.index) and read_summary(status.index).filters == NO_FILTERS


def _current_summary(shard: str, cache: ShardCache | None) -> IndexSummary:
    """What an index says of its shard as it is now. A shard that lies elsewhere is compared when it is fetched."""
    if is_remote(shard):
        return read_summary(index_path(cache.local_path(shard)))
    summary = read_summary(index_path(shard))
    status = os.stat(shard)
    if (status.st_size, status.st_mtime_ns) == (summary.shard_bytes, summary.shard_mtime_ns):
        return summary
    # A copy has another time, and its samples are checked when they are read.
    if status.st_size != summary.shard_bytes or "first" in changed_since(shard, summary):
        raise ShardIndexError(
            f"the index of {shard} is not of its present content: {changed_since(shard, summary)}. Make it anew with "
            "`captioner shards index`."
        )
    return summary


def _without_names(summary: IndexSummary, num_named: int) -> tuple[IndexSummary, Counter]:
    """A summary that names only the first rejected samples, and what it leaves out by reason and number of captions."""
    named, others = summary.problems[:num_named], summary.problems[num_named:]
    unnamed = Counter((problem.reason, problem.num_captions) for problem in others)
    return dataclasses.replace(summary, problems=named), unnamed


def _in_words(shards: Sequence[str]) -> str:
    if len(shards) == 1:
        return shards[0]
    return f"{len(shards):,} shards from {shards[0]} to {shards[-1]}"
