"""Checks many shards in parallel processes, and gives them in their order."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import io
import itertools
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from tqdm import tqdm

from captioner.fetch import DownloadError
from trainers.shards.cache_folder import CacheLimitError
from trainers.shards.check import CheckedShard, check_shard
from trainers.shards.filters import ShardFilters
from trainers.shards.origins import Origin, read_origin
from trainers.shards.paths import is_remote, shown
from trainers.shards.remote import ShardCache

_POLL_S = 0.2


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenShard:
    """A shard that is there until it is closed."""

    path: str
    """Where it lies."""
    file: io.FileIO
    """Keeps it in the cache."""
    origin: Origin | None
    """Where a remote one is from."""


def check_many(
    shards: Sequence[str],
    filters: ShardFilters,
    num_processes: int,
    bar: tqdm,
    cache: ShardCache | None = None,
) -> Iterator[tuple[str, CheckedShard | OSError, Origin | None]]:
    """Checks shards, and fetches the next remote ones meanwhile.

    Args:
        shards: paths of tars and addresses.
        filters: as for `check_shard`.
        num_processes: int. Shards that are checked at the same time; with fewer than two of them no process is started.
        bar: progress bar of the bytes that were read.
        cache: `ShardCache` for shards that lie elsewhere.

    Returns:
        Iterator over the shards, in their order, each with what it holds, or why it cannot be fetched or read, and with the
        origin of a remote one.

    Raises:
        OSError: If the cache cannot be written.
        ChildProcessError: If a process dies, as for lack of memory.
    """
    rest = collections.deque(shards)
    try:
        if min(num_processes, len(shards)) < 2:
            while rest:
                opened = _open_first(_next(rest, cache), cache)
                shard = rest.popleft()
                if isinstance(opened, OSError):
                    yield shard, opened, None
                    continue
                with opened.file:
                    checked = _check(opened.path, filters, _reporter(bar.update))
                yield shard, checked, opened.origin
        else:
            yield from _check_in_processes(rest, filters, min(num_processes, len(shards)), bar, cache)
    finally:
        if cache is not None:
            cache.want([])


def _next(rest: Iterable[str], cache: ShardCache | None) -> list[str]:
    """The shard that is opened now, and those that are fetched ahead."""
    return list(itertools.islice(rest, 1 if cache is None else 1 + cache.num_ahead))


def _open_first(shards: Sequence[str], cache: ShardCache | None) -> OpenShard | OSError:
    """Opens the first of the shards, or tells why that cannot be done; fetches the others ahead."""
    shard = shards[0]
    try:
        if cache is None or not is_remote(shard):
            return OpenShard(path=shard, file=io.FileIO(shard), origin=None)
        cache.want(shards)
        file = cache.open_shard(shard)
        return OpenShard(path=file.name, file=file, origin=read_origin(file.name))
    except (DownloadError, CacheLimitError) as error:
        return error
    except OSError as error:
        if is_remote(shard):  # not the shard's fault, but that of the disk with the cache
            raise
        return error


def _check_in_processes(
    rest: collections.deque[str],
    filters: ShardFilters,
    num_processes: int,
    bar: tqdm,
    cache: ShardCache | None,
) -> Iterator[tuple[str, CheckedShard | OSError, Origin | None]]:
    # Not forked: a process of TensorFlow that forks may hang.
    context = multiprocessing.get_context("spawn")
    num_bytes, stop = context.Value("q", 0), context.Event()
    running: collections.deque[tuple[str, Future, OpenShard | OSError]] = collections.deque()
    pool = ProcessPoolExecutor(
        num_processes, mp_context=context, initializer=_start_worker, initargs=(num_bytes, stop)
    )
    shard, opening, is_full, was_alone = rest[0], None, False, True
    try:
        while rest or running:
            # As many results as may wait in memory. None of them waits for a server.
            if opening is None and rest and not is_full and len(running) <= 2 * num_processes:
                was_alone = not running
                opening = _in_thread(functools.partial(_open_first, _next(rest, cache), cache))
            awaited = [opening] if opening is not None else []
            awaited += [running[0][1]] if running else []
            concurrent.futures.wait(awaited, _POLL_S, concurrent.futures.FIRST_COMPLETED)
            bar.update(num_bytes.value - bar.n)
            if running and running[0][1].done():
                shard, future, opened = running.popleft()
                is_full = False
                if isinstance(opened, OSError):
                    yield shard, opened, None
                else:
                    opened.file.close()
                    yield shard, future.result(), opened.origin
            elif opening is not None and opening.done():
                opened, opening = opening.result(), None
                if isinstance(opened, CacheLimitError) and not was_alone:
                    is_full = bool(running)  # opened again when one of them has made room
                else:
                    running.append((rest.popleft(), _started(pool, opened, filters), opened))
    except BrokenProcessPool as error:
        raise ChildProcessError(
            f"a process that read a shard died, perhaps for lack of memory; it was {shown(shard)} or one of the "
            f"{2 * num_processes} after it. Indexes written so far are kept: run the command again with fewer processes."
        ) from error
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _in_thread(function: Callable[[], object]) -> Future:
    """What a function gives, sometime. The thread is a daemon, so that Ctrl-C waits for no server."""
    future = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def _started(pool: ProcessPoolExecutor, opened: OpenShard | OSError, filters: ShardFilters) -> Future:
    """The result of a shard that will be there; it is there if the shard could not be opened."""
    if isinstance(opened, OSError):
        future = Future()
        future.set_result(None)
        return future
    with _interrupts_blocked():
        return pool.submit(_check_in_worker, opened.path, filters)


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
