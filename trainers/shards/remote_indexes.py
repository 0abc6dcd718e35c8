"""Indexes of remote shards: fetched from beside them or, where there are none, made of the fetched shards."""

import contextlib
import os
import queue
import re
import threading
from collections.abc import Callable, Iterator, Sequence

from tqdm import tqdm

from captioner.cores import num_cores
from captioner.fetch import DownloadError
from trainers.records import Problem
from trainers.shards.build_index import build_indexes
from trainers.shards.cache_folder import CacheLimitError
from trainers.shards.identity import content_changed_since
from trainers.shards.index import SUFFIX, ShardIndexError, index_path, read_index, read_summary
from trainers.shards.paths import is_remote
from trainers.shards.remote import ShardCache

_NUM_THREADS = 16  # indexes are small: what takes time is the way to the server


def bring_indexes(
    cache: ShardCache, shards: Sequence[str], *, num_processes: int | None = None, progress: bool = True
) -> dict[str, Problem]:
    """Sees that the index of each remote shard lies beside `cache.local_path(shard)`. Paths are left alone.

    An index that is there is taken as it is, without asking the server, so that a run starts at once. Where the server has
    none, or a damaged one, the shard is fetched and indexed, without filters.

    Args:
        cache: `ShardCache`.
        shards: paths and addresses.
        num_processes: int. Shards indexed at the same time, by default one for each processor.
        progress: bool. Whether to show a progress bar.

    Returns:
        Shards that were fetched and cannot be indexed, each with its problem.

    Raises:
        DownloadError: If a shard, or the index that the server has of it, cannot be fetched.
        OSError: If the cache has no room, or cannot be written.
    """
    missing = [
        shard for shard in shards if is_remote(shard) and not index_path(cache.local_path(shard)).exists()
    ]
    without = []
    with tqdm(total=len(missing), unit="shard", desc="Fetching indexes", disable=not progress) as bar:
        fetches = _in_threads(lambda shard: _fetch_index(cache, shard), missing)
        for shard, is_there in fetches:
            bar.update()
            if not is_there:
                without.append(shard)
    order = {shard: number for number, shard in enumerate(missing)}
    return _index_fetched(cache, sorted(without, key=order.get), num_processes or num_cores(), progress)


def index_address(shard: str) -> str | None:
    """The address of the index beside a remote shard; None for an address that does not end on .tar."""
    address, num_found = re.subn(r"\.tar(?=$|\?[^/]*$)", SUFFIX, shard)
    return address if num_found else None


def _fetch_index(cache: ShardCache, shard: str) -> bool:
    """Whether the server has an index; if so, it has its place now."""
    tar = cache.files.place(shard)
    place, address = index_path(tar), index_address(shard)
    if address is None:
        return False
    with cache.files.fetching(place, cache.check_stopped):
        if place.exists():
            return True
        try:
            fetched = cache.fetch(address, place)
        except DownloadError as error:
            if error.missing:
                return False
            raise
        try:
            summary = read_summary(fetched)
            read_index(fetched)
        except ShardIndexError:  # some servers answer with a page where they have no file
            fetched.unlink()
            return False
        with contextlib.suppress(FileNotFoundError):
            if content_changed_since(tar, summary):
                cache.forget(shard)
        os.replace(fetched, place)
    return True


def _index_fetched(
    cache: ShardCache, shards: list[str], num_processes: int, progress: bool
) -> dict[str, Problem]:
    """Indexes shards, as many at a time as there are processes and as the cache holds."""
    problems: dict[str, Problem] = {}
    with tqdm(total=len(shards), unit="shard", desc="Indexing", disable=not progress) as bar:
        done = 0
        while done < len(shards):
            cache.want(shards[done:])
            with contextlib.ExitStack() as stack:
                paths: dict[str, str] = {}
                for shard in shards[done : done + num_processes]:
                    try:
                        file = stack.enter_context(cache.open_shard(shard))
                    except CacheLimitError:
                        if not paths:
                            raise
                        break
                    paths[shard] = file.name
                report = build_indexes(
                    [os.fspath(path) for path in paths.values()], num_processes=num_processes, progress=False
                )
                for shard, status in zip(paths, report.statuses, strict=True):
                    if status.problem is not None:
                        problems[shard] = status.problem
            done += len(paths)
            bar.update(len(paths))
    cache.want([])
    return problems


def _in_threads(function: Callable[[str], bool], items: Sequence[str]) -> Iterator[tuple[str, bool]]:
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
                results.put((item, False, error))

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
