"""Indexes many shards in parallel processes, and goes on where an interrupted run stopped."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from tqdm import tqdm

from captioner.cores import num_cores
from trainers.shards.check import CheckedShard, check_shard
from trainers.shards.duplicates import SeenImages, as_array
from trainers.shards.filters import ShardFilters
from trainers.shards.identity import changed_since
from trainers.shards.index import ShardIndexError, index_path, read_image_sha256, read_summary, write_index
from trainers.shards.report import ShardsReport, ShardStatus, status_of, unusable

SEEN_BEFORE = "seen_before"
"""Entry of the filters in an index: the images of the shards before it, when duplicates were dropped."""
_POLL_S = 0.2
_NEW = "indexed"


def build_indexes(
    shards: Sequence[str],
    *,
    filters: ShardFilters | None = None,
    num_processes: int | None = None,
    progress: bool = True,
) -> ShardsReport:
    """Indexes shards, each as soon as it and those before it are read.

    A shard whose index is of its present content and of the same filters is not read again. With
    `drop_duplicates` this holds up to the first shard that must be read: what is a duplicate in a later one
    depends on it.

    Args:
        shards: paths of uncompressed tars; the index is written beside each.
        filters: `ShardFilters`. What samples must have; nothing by default.
        num_processes: int. Shards read at the same time, by default one for each processor.
        progress: bool. Whether to show a progress bar.

    Returns:
        A `ShardsReport`. A shard that cannot be read is a problem there and keeps no one waiting.

    Raises:
        OSError: If an index cannot be written.
        ChildProcessError: If a process dies, as for lack of memory.
    """
    filters = filters or ShardFilters()
    num_processes = num_processes or num_cores()
    if num_processes < 1:
        raise ValueError(f"`num_processes` must be at least 1; received num_processes={num_processes}.")
    seen = SeenImages() if filters.drop_duplicates else None
    reasons = _reasons_to_read(shards, filters, seen)
    outdated = [shard for shard in shards if reasons[shard]]
    statuses = {}
    with (
        _progress_bar(outdated, progress) as bar,
        contextlib.closing(_check_all(outdated, filters, num_processes, bar)) as checked_shards,
    ):
        for shard, checked in checked_shards:
            if isinstance(checked, OSError):
                statuses[shard] = unusable(shard, "unreadable shard", str(checked))
            else:
                statuses[shard] = _write(shard, checked, seen, reasons[shard])
    for shard in shards:
        if shard not in statuses:
            statuses[shard] = status_of(shard, read_summary(index_path(shard)), "up to date")
    return ShardsReport(statuses=tuple(statuses[shard] for shard in shards))


def _reasons_to_read(shards: Sequence[str], filters: ShardFilters, seen: SeenImages | None) -> dict[str, str]:
    """Why each shard must be read; empty if its index is good. Images of the good ones are added to `seen`."""
    reasons: dict[str, str] = {}
    for shard in shards:
        reasons[shard] = _reason_to_read(shard, filters, seen)
        if seen is None:
            continue
        if reasons[shard]:
            rest = [shard for shard in shards if shard not in reasons]
            return reasons | dict.fromkeys(rest, "indexed anew: a shard before it was")
        seen.add(read_image_sha256(index_path(shard)))
    return reasons


def _reason_to_read(shard: str, filters: ShardFilters, seen: SeenImages | None) -> str:
    path = index_path(shard)
    if not path.exists():
        return _NEW
    try:
        summary = read_summary(path)
        if change := changed_since(shard, summary):
            return f"indexed anew: {change}"
        if summary.filters != _filters_entry(filters, seen):
            return "indexed anew: other filters, or other shards before it"
        if seen is not None:
            read_image_sha256(path)
    except ShardIndexError as error:
        return f"indexed anew: {error}"
    except OSError:
        return _NEW  # reading the shard will say why
    return ""


def _filters_entry(filters: ShardFilters, seen: SeenImages | None) -> dict:
    entry = dataclasses.asdict(filters)
    return entry if seen is None else entry | {SEEN_BEFORE: seen.history}


def _write(shard: str, checked: CheckedShard, seen: SeenImages | None, note: str) -> ShardStatus:
    if seen is None:
        write_index(index_path(shard), checked.samples, checked.summary)
        return status_of(shard, checked.summary, note)
    checked = seen.without_seen(checked, os.path.basename(shard))
    filters = checked.summary.filters | {SEEN_BEFORE: seen.history}
    summary = dataclasses.replace(checked.summary, filters=filters)
    write_index(index_path(shard), checked.samples, summary, checked.image_sha256)
    seen.add(as_array(checked.image_sha256))
    return status_of(shard, summary, note)


def _progress_bar(shards: Sequence[str], progress: bool) -> tqdm:
    sizes = [os.path.getsize(shard) for shard in shards if os.path.isfile(shard)]
    return tqdm(total=sum(sizes), unit="B", unit_scale=True, desc="Indexing", disable=not progress)


def _check_all(
    shards: Sequence[str], filters: ShardFilters, num_processes: int, bar: tqdm
) -> Iterator[tuple[str, CheckedShard | OSError]]:
    """Checks shards and gives them in their order; the bar shows the bytes that were read."""
    num_processes = min(num_processes, len(shards))
    if num_processes < 2:
        for shard in shards:
            yield shard, _check(shard, filters, _reporter(bar.update))
        return
    # Not forked: a process of TensorFlow that forks may hang.
    context = multiprocessing.get_context("spawn")
    num_bytes, stop = context.Value("q", 0), context.Event()
    rest = iter(shards)
    running: collections.deque[tuple[str, Future]] = collections.deque()
    pool = ProcessPoolExecutor(
        num_processes, mp_context=context, initializer=_start_worker, initargs=(num_bytes, stop)
    )
    try:
        while True:
            for shard in rest:
                with _interrupts_blocked():
                    running.append((shard, pool.submit(_check_in_worker, shard, filters)))
                if len(running) > 2 * num_processes:  # as many results as may wait in memory
                    break
            if not running:
                break
            shard, future = running.popleft()
            while not concurrent.futures.wait([future], _POLL_S).done:
                bar.update(num_bytes.value - bar.n)
            bar.update(num_bytes.value - bar.n)
            yield shard, future.result()
    except BrokenProcessPool as error:
        raise ChildProcessError(
            f"a process that read a shard died, perhaps for lack of memory; it was {shard} or one of the "
            f"{2 * num_processes} after it. Indexes written so far are kept: run the command again with fewer processes."
        ) from error
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Processes that start meanwhile are deaf to Ctrl-C, which reaches them all: the main one says stop."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Stopped(Exception):
    """The main process wants no more results."""


_worker: dict[str, object] = {}


def _start_worker(num_bytes, stop) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _worker.update(num_bytes=num_bytes, stop=stop)


def _check_in_worker(shard: str, filters: ShardFilters) -> CheckedShard | OSError:
    def add(num_bytes: int) -> None:
        if _worker["stop"].is_set():
            raise _Stopped
        with _worker["num_bytes"].get_lock():
            _worker["num_bytes"].value += num_bytes

    return _check(shard, filters, _reporter(add))


def _check(shard: str, filters: ShardFilters, on_sample: Callable[[int], None]) -> CheckedShard | OSError:
    try:
        return check_shard(shard, filters, on_sample)
    except OSError as error:
        return error


def _reporter(add: Callable[[int], None]) -> Callable[[int], None]:
    """Turns positions in a shard into steps forward."""
    position = 0

    def report(behind: int) -> None:
        nonlocal position
        add(max(behind - position, 0))
        position = max(position, behind)

    return report
