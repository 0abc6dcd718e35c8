"""Shards that lie elsewhere: fetched ahead into a cache on the disk, checked, and open while they are read."""

import contextlib
import io
import os
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path

from captioner.fetch import DownloadError, RemoteFile, public_address
from trainers.disk import default_cache_dir, explained_disk_errors
from trainers.shards.cache_folder import CacheFolder, CacheLimitError, fetched_path
from trainers.shards.origins import Origin, write_origin
from trainers.shards.paths import is_remote
from trainers.shards.remote_files import RemoteFiles, StoppedError, known_summary, require_indexed_shard

DEFAULT_CACHE_GB = 100.0
_POLL_S = 0.1


class ShardCache:
    """Opens shards, the remote ones in a cache folder with a limit; fetches ahead what will be opened next.

    Threads of this process and other processes may share the folder. Nothing in it that is read, or was fetched ahead and
    is still wanted, is removed; else what was used longest ago goes first.

    A fetched shard is checked against its index, if that lies in the cache: length and hash of the first 64 KiB. Its time of
    change is another than that in the index, so that who reads samples checks each one's CRC-32.

    Args:
        folder: path. The cache folder, on a disk of this machine.
        limit_bytes: int. What its files take together, at most.
        num_ahead: int. Shards that are fetched ahead, at most.
        num_threads: int. Shards that are fetched ahead at the same time.
        timeout_s: float. Longest silence of a web server, in seconds.
        num_retries: int. Further attempts after one that brought nothing new.
        first_delay_s: float. Wait before the second attempt, which doubles with each one.
        retry_after_s: float. How long a shard that could not be fetched is not asked for again.
        room_timeout_s: float. How long to wait for others to close what they read.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        limit_bytes: int,
        *,
        num_ahead: int = 16,
        num_threads: int = 4,
        timeout_s: float = 30.0,
        num_retries: int = 4,
        first_delay_s: float = 1.0,
        retry_after_s: float = 60.0,
        room_timeout_s: float = 60.0,
    ):
        if num_ahead < 0 or num_threads < 1:
            raise ValueError(
                f"`num_ahead` must be at least 0 and `num_threads` at least 1; received {num_ahead} and {num_threads}."
            )
        self.files = CacheFolder(folder, limit_bytes)
        self.num_ahead, self.num_threads = num_ahead, num_threads
        self.remote = RemoteFiles(timeout_s=timeout_s, num_retries=num_retries, first_delay_s=first_delay_s)
        self.retry_after_s, self.room_timeout_s = retry_after_s, room_timeout_s
        self._changed = threading.Condition()
        self._wanted: tuple[str, ...] = ()
        self._running: set[str] = set()
        self._ahead: dict[str, io.FileIO] = {}  # fetched or found ahead, and kept open
        self._awaited: set[str] = set()
        self._short_of_room: set[str] = set()  # awaited shards for which others were let go
        self._failed: dict[str, tuple[float, Exception]] = {}
        self._given: weakref.WeakSet[io.FileIO] = weakref.WeakSet()
        self._addresses: dict[str, str] = {}  # by place

    def local_path(self, shard: str) -> str:
        """Where a shard lies, or will lie when it is open; its index lies beside it. A path is its own."""
        if not is_remote(shard):
            return shard
        place = str(self.files.place(shard))
        self._addresses[place] = shard
        return place

    def open_shard(self, shard: str) -> io.FileIO:
        """Opens a shard for reading; a remote one is fetched before, if it is not there. Any thread may call this.

        Args:
            shard: path, address, or what `local_path` gave for one.

        Returns:
            The file, unbuffered. A remote shard stays in the cache until it is closed.

        Raises:
            DownloadError: If the shard cannot be fetched, or is another than its index is of.
            CacheLimitError: If there is no room for it.
            OSError: If a file cannot be opened or written.
        """
        address = self._addresses.get(shard, shard)
        if not is_remote(address):
            return io.FileIO(shard)
        with self._changed:
            try:
                while (file := self._found(address)) is None:
                    self._awaited.add(address)
                    self._changed.wait()
            finally:
                self._awaited.discard(address)
                self._short_of_room.discard(address)
            self._given.add(file)
            self._wanted = tuple(other for other in self._wanted if other != address)
            self._fetch_ahead()
            return file

    def want(self, shards: Sequence[str]) -> None:
        """Says which shards will be opened next, in their order, and replaces what was said before.

        Those that are fetched ahead stay in the cache until they are opened, or are no longer wanted.
        """
        wanted = dict.fromkeys(self._addresses.get(shard, shard) for shard in shards)
        with self._changed:
            self._wanted = tuple(filter(is_remote, wanted))
            for address in self._ahead.keys() - set(self._wanted[: self.num_ahead]):
                self._ahead.pop(address).close()
            self._fetch_ahead()

    def forget(self, address: str) -> None:
        """Removes a shard that is an outdated one from the cache. Who has it open may go on."""
        with self._changed:
            if (file := self._ahead.pop(address, None)) is not None:
                file.close()
            self.files.place(address).unlink(missing_ok=True)

    def close(self) -> None:
        """Ends fetching; bytes that are there are kept. Files that were given stay open."""
        self.remote.stopped.set()
        with self._changed:
            self._wanted = ()
            for file in self._ahead.values():
                file.close()
            self._ahead.clear()
            self._changed.notify_all()

    def __enter__(self) -> "ShardCache":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def fetch(
        self, address: str, place: Path, num_bytes: int | None = None, urgent: bool = True
    ) -> RemoteFile:
        """Fetches a file for a place, within the limit; the caller holds `files.fetching(place)`.

        Returns:
            What the server told of it. It lies at `fetched_path(place)`, whole, and has not its place yet.
        """
        return self.remote.fetch(
            address,
            fetched_path(place),
            lambda size: self._reserve(address, place, size, urgent),
            num_bytes=num_bytes,
        )

    def _found(self, address: str) -> io.FileIO | None:
        """A shard that is there; if it is not, it is being fetched from now on. Needs the lock."""
        if self.remote.stopped.is_set():
            raise OSError(f"the cache was closed before {public_address(address)} was there")
        file = self._ahead.pop(address, None)
        if file is not None or address in self._running:
            return file
        file = self.files.open(self.files.place(address))
        if file is None:
            self._raise_failure(address)
            self._start(address, urgent=True)
        return file

    def _fetch_ahead(self) -> None:
        """Starts what is wanted, as far as threads go. Needs the lock."""
        if self._short_of_room & self._awaited:
            return
        for address in self._wanted[: self.num_ahead]:
            if address in self._running or address in self._ahead or address in self._failed:
                continue
            file = self.files.open(self.files.place(address))
            if file is not None:
                self._ahead[address] = file
            elif len(self._running) < self.num_threads:
                self._start(address, urgent=False)

    def _start(self, address: str, urgent: bool) -> None:
        # Daemons: no one waits for a silent server when the process ends.
        self._running.add(address)
        threading.Thread(
            target=self._run, args=(address, urgent), name=f"fetch {public_address(address)}", daemon=True
        ).start()

    def _run(self, address: str, urgent: bool) -> None:
        file, failure = None, None
        try:
            with explained_disk_errors(self.files.folder, "folder"):
                file = self._fetched(address, urgent)
        except (StoppedError, _NoRoomAhead):
            pass
        except Exception as error:  # raised where the shard is asked for
            failure = error
        with self._changed:
            self._running.discard(address)
            if file is not None and self.remote.stopped.is_set():
                file.close()
            elif file is not None:
                self._ahead[address] = file
                self._failed.pop(address, None)
            elif failure is not None:
                self._failed[address] = time.monotonic(), failure
            if file is not None or failure is not None:
                self._fetch_ahead()
            self._changed.notify_all()

    def _fetched(self, address: str, urgent: bool) -> io.FileIO:
        place = self.files.place(address)
        with self.files.fetching(place, lambda: self._wait_for_other_process(address)):
            if (file := self.files.open(place)) is not None:  # another process has fetched it meanwhile
                return file
            summary = known_summary(place)
            told = self.fetch(address, place, summary and summary.shard_bytes, urgent)
            fetched = fetched_path(place)
            require_indexed_shard(address, fetched, place, summary)
            write_origin(place, Origin(shard=told))  # before the shard has its place: none is there without
            return self.files.publish(fetched, place)

    def _reserve(self, address: str, place: Path, num_bytes: int, urgent: bool) -> None:
        """Waits for room, which for a shard that is needed now is taken from those fetched ahead, the last ones first."""
        deadline = time.monotonic() + self.room_timeout_s
        while not self.files.reserve(place, num_bytes):
            if not urgent:
                raise _NoRoomAhead
            with self._changed:
                if self._let_one_go(address):
                    continue
                open_here = {}
                for file in self._given:
                    with contextlib.suppress(ValueError, OSError):  # its reader may close it at any moment
                        open_here[file.name] = os.fstat(file.fileno()).st_size
            if time.monotonic() > deadline or sum(open_here.values()) + num_bytes > self.files.limit_bytes:
                raise CacheLimitError(
                    f"{place.name} has {num_bytes:,} bytes and does not fit beside the {len(open_here)} shards that are open "
                    f"here and those that others read: the limit of the cache {self.files.folder} is "
                    f"{self.files.limit_bytes:,} bytes. Give it a higher limit, or read fewer shards at a time."
                )
            self.remote.sleep(_POLL_S)

    def _wait_for_other_process(self, address: str) -> None:
        """Called while another process fetches a shard. It may lack the room that is held here."""
        self.remote.check_stopped()
        with self._changed:
            if address in self._awaited:
                self._let_one_go(address)

    def _let_one_go(self, address: str) -> bool:
        """Closes the last of what was fetched ahead; none is held again until `address` is there. Needs the lock."""
        dropped = next((other for other in reversed(self._wanted) if other in self._ahead), None)
        if dropped is None:
            return False
        self._short_of_room.add(address)
        self._ahead.pop(dropped).close()
        return True

    def _raise_failure(self, address: str) -> None:
        """Raises what an earlier attempt failed with: for a while, but a lack of room once."""
        since, failure = self._failed.pop(address, (0.0, None))
        if isinstance(failure, CacheLimitError):
            raise CacheLimitError(str(failure)) from failure
        if failure is not None and time.monotonic() - since < self.retry_after_s:
            self._failed[address] = since, failure
            raise (DownloadError if isinstance(failure, DownloadError) else OSError)(
                str(failure)
            ) from failure


def open_cache(
    shards: Sequence[str], cache_dir: Path | None, limit_gb: float
) -> contextlib.AbstractContextManager[ShardCache | None]:
    """The cache that commands and trainings share; none if no shard, or word that means some, is remote.

    Args:
        shards: words as for `find_shards`, or shards.
        cache_dir: path. The cache is its folder `shards`. None is the default folder of caches.
        limit_gb: float. What the cache takes at most, in 10^9 bytes.
    """
    if not any(map(is_remote, shards)):
        return contextlib.nullcontext()
    return ShardCache((cache_dir or default_cache_dir()) / "shards", int(limit_gb * 1e9))


class _NoRoomAhead(Exception):
    """There is no room yet for a shard that is not needed now."""
