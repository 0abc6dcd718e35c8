"""Tells what a training run would see of shards, by their indexes."""

import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from captioner.fetch import DownloadError
from trainers.shards.cache_folder import CacheLimitError
from trainers.shards.identity import changed_since
from trainers.shards.index import IndexSummary, ShardIndexError, index_path, read_index, read_summary
from trainers.shards.paths import is_remote, shown
from trainers.shards.remote import ShardCache
from trainers.shards.remote_indexes import bring_index
from trainers.shards.report import (
    DAMAGED_INDEX,
    NO_INDEX,
    NOT_FETCHED,
    OUTDATED_INDEX,
    UNREADABLE,
    ShardsReport,
    ShardStatus,
    status_of,
    unusable,
)

_NUM_THREADS = 16  # what takes time is the way to the server
T = TypeVar("T")


def inspect_shards(
    shards: Sequence[str], cache: ShardCache | None = None, *, progress: bool = False
) -> ShardsReport:
    """Tells what a training run would see, by the indexes alone.

    Servers are asked whether a remote shard, or its index, has changed since the index in the cache was made or fetched; an
    index that lies beside the shard is fetched, the shard is not.

    Args:
        shards: paths of tars and addresses.
        cache: `ShardCache` for shards that lie elsewhere.
        progress: bool. Whether to show a progress bar.

    Returns:
        A `ShardsReport`. A shard without a whole index of its present content is a problem there.

    Raises:
        ValueError: If a shard is remote and there is no `cache`.
        OSError: If the cache cannot be written.
    """
    remote = next(filter(is_remote, shards), None)
    if cache is None and remote is not None:
        raise ValueError(f"`shards` must be files without a `cache`; received {shown(remote)!r}.")
    statuses = {}
    with tqdm(
        total=len(shards), unit="shard", desc="Reading indexes", disable=not (progress and shards)
    ) as bar:
        for shard, status in _in_threads(lambda shard: _inspect(shard, cache), shards):
            statuses[shard] = status
            bar.update()
    return ShardsReport(statuses=tuple(statuses[shard] for shard in shards))


def _inspect(shard: str, cache: ShardCache | None) -> ShardStatus:
    path = index_path(shard if cache is None else cache.local_path(shard))
    if not is_remote(shard):
        num_bytes = os.path.getsize(shard) if os.path.isfile(shard) else 0
        return _status(shard, path, num_bytes, lambda summary: changed_since(shard, summary))
    try:
        told, change = bring_index(cache, shard)
    except (DownloadError, CacheLimitError) as error:
        return unusable(shard, NOT_FETCHED, str(error), path if path.exists() else "")
    if change and not path.exists():
        return unusable(shard, OUTDATED_INDEX, change, num_bytes=told.num_bytes or 0)
    return _status(shard, path, told.num_bytes or 0, lambda summary: change)


def _status(
    shard: str, path: Path, num_bytes: int, change_since: Callable[[IndexSummary], str]
) -> ShardStatus:
    if not path.exists():
        return unusable(shard, NO_INDEX, "", num_bytes=num_bytes)
    try:
        summary = read_summary(path)
        read_index(path)
        if change := change_since(summary):
            return unusable(shard, OUTDATED_INDEX, change, path, num_bytes)
    except ShardIndexError as error:
        return unusable(shard, DAMAGED_INDEX, str(error), path, num_bytes)
    except OSError as error:
        return unusable(shard, UNREADABLE, str(error), path, num_bytes)
    return status_of(shard, path, summary)


def _in_threads(function: Callable[[str], T], items: Sequence[str]) -> Iterator[tuple[str, T]]:
    """Each item with its result, as they come. The threads are daemons, so that Ctrl-C waits for no server."""
    todo, results, stopped = queue.SimpleQueue(), queue.SimpleQueue(), threading.Event()
    for item in items:
        todo.put(item)

    def work() -> None:
        while not stopped.is_set():
            try:
                item = todo.get_nowait()
            except queue.Empty:
                return
            try:
                results.put((item, function(item), None))
            except BaseException as error:
                results.put((item, None, error))

    for _ in range(min(_NUM_THREADS, len(items))):
        threading.Thread(target=work, daemon=True).start()
    try:
        for _ in items:
            item, result, error = results.get()
            if error is not None:
                raise error
            yield item, result
    finally:
        stopped.set()
