"""Indexes many shards, and goes on where an interrupted run stopped."""

import contextlib
import dataclasses
import os
from collections.abc import Sequence

from tqdm import tqdm

from captioner.cores import num_cores
from captioner.fetch import DownloadError
from trainers.shards.cache_folder import CacheLimitError
from trainers.shards.check import CheckedShard
from trainers.shards.check_many import check_many
from trainers.shards.duplicates import SeenImages, as_array
from trainers.shards.filters import ShardFilters
from trainers.shards.index import (
    IndexSummary,
    ShardIndexError,
    index_path,
    read_image_sha256,
    read_summary,
    write_index,
)
from trainers.shards.inspection import inspect_shards
from trainers.shards.origins import write_origin
from trainers.shards.paths import is_remote
from trainers.shards.remote import ShardCache
from trainers.shards.report import (
    NO_INDEX,
    NOT_FETCHED,
    UNREADABLE,
    ShardsReport,
    ShardStatus,
    status_of,
    unusable,
)

SEEN_BEFORE = "seen_before"
"""Entry of the filters in an index: the images of the shards before it, when duplicates were dropped."""
INDEXED, UP_TO_DATE = "indexed", "up to date"
"""What is noted of a shard that had no index, and of one that was not read again."""


def build_indexes(
    shards: Sequence[str],
    *,
    filters: ShardFilters | None = None,
    num_processes: int | None = None,
    progress: bool = True,
    cache: ShardCache | None = None,
) -> ShardsReport:
    """Indexes shards, each as soon as it and those before it are read.

    A shard whose index is of its present content and of the same filters is neither read nor fetched again. With
    `drop_duplicates` this holds up to the first shard that must be read: what is a duplicate in a later one
    depends on it.

    Args:
        shards: paths of uncompressed tars, whose index is written beside each; and addresses, whose index is written beside
            their place in the cache.
        filters: `ShardFilters`. What samples must have; nothing by default.
        num_processes: int. Shards read at the same time, by default one for each processor.
        progress: bool. Whether to show a progress bar.
        cache: `ShardCache` for shards that lie elsewhere.

    Returns:
        A `ShardsReport`. A shard that cannot be fetched or read is a problem there and keeps no one waiting.

    Raises:
        ValueError: If a shard is remote and there is no `cache`.
        OSError: If an index, or the cache, cannot be written.
        ChildProcessError: If a process dies, as for lack of memory.
    """
    filters = filters or ShardFilters()
    num_processes = num_processes or num_cores()
    if num_processes < 1:
        raise ValueError(f"`num_processes` must be at least 1; received num_processes={num_processes}.")
    inspected = inspect_shards(shards, cache, progress=progress and any(map(is_remote, shards)))
    statuses = dict(zip(shards, inspected.statuses, strict=True))
    seen = SeenImages() if filters.drop_duplicates else None
    reasons = _reasons_to_read(statuses, filters, seen)
    for shard in filter(is_remote, reasons):
        if statuses[shard].problem is not None and statuses[shard].problem.reason != NOT_FETCHED:
            index_path(cache.local_path(shard)).unlink(missing_ok=True)  # what is fetched is held against it
    num_bytes = sum(statuses[shard].num_bytes for shard in reasons)
    with (
        tqdm(total=num_bytes, unit="B", unit_scale=True, desc="Indexing", disable=not progress) as bar,
        contextlib.closing(check_many(list(reasons), filters, num_processes, bar, cache)) as checked_shards,
    ):
        for shard, checked, origin in checked_shards:
            if isinstance(checked, OSError):
                is_here = not isinstance(checked, DownloadError | CacheLimitError)
                statuses[shard] = unusable(shard, UNREADABLE if is_here else NOT_FETCHED, str(checked))
                continue
            place = shard if cache is None else cache.local_path(shard)
            if origin is not None:
                write_origin(index_path(place), origin)
            summary = _write(place, checked, seen)
            statuses[shard] = status_of(shard, index_path(place), summary, reasons[shard])
    return ShardsReport(statuses=tuple(statuses[shard] for shard in shards))


def _reasons_to_read(
    statuses: dict[str, ShardStatus], filters: ShardFilters, seen: SeenImages | None
) -> dict[str, str]:
    """The shards that must be read, each with its reason.

    The others are noted to be up to date, but for those that cannot be fetched or read. Their images are added to `seen`.
    """
    reasons: dict[str, str] = {}
    for shard, status in statuses.items():
        if seen is not None and reasons:
            reasons[shard] = "indexed anew: a shard before it was"
        elif status.problem is not None and status.problem.reason in (NOT_FETCHED, UNREADABLE):
            if seen is not None and status.index:  # the shards behind it were indexed with it
                with contextlib.suppress(ShardIndexError):
                    seen.add(read_image_sha256(status.index))
        elif reason := _reason_to_read(status, filters, seen):
            reasons[shard] = reason
        else:
            statuses[shard] = dataclasses.replace(status, note=UP_TO_DATE)
            if seen is not None:
                seen.add(read_image_sha256(status.index))
    return reasons


def _reason_to_read(status: ShardStatus, filters: ShardFilters, seen: SeenImages | None) -> str:
    if status.problem is not None:
        return INDEXED if status.problem.reason == NO_INDEX else f"indexed anew: {status.problem.detail}"
    try:
        if read_summary(status.index).filters != _filters_entry(filters, seen):
            return "indexed anew: other filters, or other shards before it"
        if seen is not None:
            read_image_sha256(status.index)
    except ShardIndexError as error:
        return f"indexed anew: {error}"
    return ""


def _filters_entry(filters: ShardFilters, seen: SeenImages | None) -> dict:
    entry = dataclasses.asdict(filters)
    return entry if seen is None else entry | {SEEN_BEFORE: seen.history}


def _write(place: str, checked: CheckedShard, seen: SeenImages | None) -> IndexSummary:
    """Writes the index beside a shard, without images that were seen before it; returns what it says of the shard."""
    if seen is None:
        write_index(index_path(place), checked.samples, checked.summary)
        return checked.summary
    checked = seen.without_seen(checked, os.path.basename(place))
    filters = checked.summary.filters | {SEEN_BEFORE: seen.history}
    summary = dataclasses.replace(checked.summary, filters=filters)
    write_index(index_path(place), checked.samples, summary, checked.image_sha256)
    seen.add(as_array(checked.image_sha256))
    return summary
