"""A folder of fetched files with a limit, which several processes share.

Who reads a shard holds a shared lock on its file; who fetches one holds the lock `NAME.lock` beside it; who makes room
holds the lock of the folder. The system releases the locks of a process that dies.
"""

import contextlib
import hashlib
import io
import os
import re
import stat
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_POLL_S = 0.1
_PLAIN_NAME = re.compile(r"\w[\w.-]{0,99}\.tar", re.ASCII)
_RESERVED, _LOCK, _TAR = ".reserved", ".lock", ".tar"
_GATHERING = (".fetched", ".part")  # NAME.fetched.part becomes NAME.fetched, which becomes NAME


class CacheLimitError(OSError):
    """A shard does not fit into the cache."""


class CacheFolder:
    """Places, locks and the limit of a folder of fetched files; every file in it counts.

    Args:
        folder: path. On a disk of this machine: locks of network disks are not reliable.
        limit_bytes: int. What all files take together, at most.

    Raises:
        OSError: On Windows, whose locks are others.
    """

    def __init__(self, folder: str | os.PathLike, limit_bytes: int):
        if fcntl is None:
            raise OSError(
                "shards at addresses are fetched into a cache that needs the file locks of Linux or macOS; download them first."
            )
        if limit_bytes < 1:
            raise ValueError(f"`limit_bytes` must be at least 1; received limit_bytes={limit_bytes}.")
        self.folder, self.limit_bytes = Path(folder), limit_bytes

    def place(self, address: str) -> Path:
        """Where the shard of an address lies, when it is there.

        Shards that are neighbours there are neighbours here, under the same names; user and password make no difference.
        """
        parts = urllib.parse.urlsplit(re.sub(r"(?<=://)[^/?#]*@", "", address))
        parent, _, name = parts.geturl().rpartition("/")
        if not _PLAIN_NAME.fullmatch(name):  # a query, or a name that is none for a file
            parent = parts.geturl()
            stem = re.sub(r"[^\w-]", "_", Path(parts.path).stem, flags=re.ASCII)[:100]
            name = f"{stem or 'shard'}{_TAR}"
        host = re.sub(r"[^\w.-]", "_", parts.netloc or parts.scheme, flags=re.ASCII).strip(".")[:60]
        return self.folder / f"{host}-{hashlib.sha256(parent.encode()).hexdigest()[:16]}" / name

    def open(self, place: Path) -> io.FileIO | None:
        """Opens a shard for reading if it is there. It stays until the file is closed, and counts as used now."""
        while True:
            try:
                file = io.FileIO(os.fspath(place))
            except FileNotFoundError:
                return None
            if _hold(file):
                with contextlib.suppress(OSError):  # one who may not write can read
                    os.utime(place, ns=(time.time_ns(), os.fstat(file.fileno()).st_mtime_ns))
                return file
            file.close()  # it was removed meanwhile

    def publish(self, fetched: Path, place: Path) -> io.FileIO:
        """Gives a whole file its place, and opens it before another process can remove it."""
        with io.FileIO(fetched) as held:
            os.fsync(held.fileno())  # the name shall not outlive the bytes in a power cut
            fcntl.flock(held, fcntl.LOCK_SH)
            os.replace(fetched, place)
            return self.open(place)

    @contextlib.contextmanager
    def fetching(self, place: Path, check_stopped: Callable[[], None]) -> Iterator[None]:
        """Makes the block the only one on this machine that fetches to this place; waits until it is.

        Room that was reserved for the place is free again afterwards.
        """
        place.parent.mkdir(parents=True, exist_ok=True)
        with open(_beside(place, _LOCK), "ab") as lock:
            while not _try_lock(lock):
                check_stopped()
                time.sleep(_POLL_S)
            try:
                yield
            finally:
                _beside(place, _RESERVED).unlink(missing_ok=True)

    def reserve(self, place: Path, num_bytes: int) -> bool:
        """Keeps room for a file that is fetched to a place; removes what was not used for longest, and is not read.

        Returns:
            Whether there is room now.

        Raises:
            CacheLimitError: If there never will be.
        """
        if num_bytes > self.limit_bytes:
            raise CacheLimitError(
                f"{place.name} has {num_bytes:,} bytes, and the limit of the cache {self.folder} is {self.limit_bytes:,}. "
                "Give it a higher limit."
            )
        with self._locked():
            sizes, removable = self._survey(own={_beside(place, _RESERVED), *_gathering(place)})
            excess = sum(sizes.values()) + num_bytes - self.limit_bytes
            for _, path in sorted(removable):
                if excess <= 0:
                    break
                if _remove_unread(path):
                    excess -= sizes[path]
            if excess > 0:
                return False
            _beside(place, _RESERVED).write_text(str(num_bytes))
            return True

    def num_bytes(self) -> int:
        """What all files take together."""
        with self._locked():  # nothing is removed meanwhile; a file that changes its name stays one
            sizes = {}
            for path in self.folder.rglob("*"):
                with contextlib.suppress(FileNotFoundError):
                    status = path.stat()  # once: the name may be another file's a moment later
                    sizes[status.st_ino] = status.st_size if stat.S_ISREG(status.st_mode) else 0
            return sum(sizes.values())

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / _LOCK, "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _survey(self, own: set[Path]) -> tuple[dict[Path, int], list[tuple[float, Path]]]:
        """What each file takes, or will take, and those that may be removed with the time of their last use."""
        while True:
            paths = set(self.folder.rglob("*"))
            found = _survey(paths, own)
            # A file that got another name meanwhile may not have been seen under either.
            if paths == set(self.folder.rglob("*")):
                return found


def _survey(paths: set[Path], own: set[Path]) -> tuple[dict[Path, int], list[tuple[float, Path]]]:
    """What each file takes, or will take, and those that may be removed with the time of their last use."""
    # Asked once: a file that grows between two looks at it would count neither as there nor as reserved.
    statuses = {path: _status(path) for path in paths}
    sizes: dict[Path, int] = {}
    removable = []
    for path, (size, used) in statuses.items():
        if path in own or path.suffix == _LOCK:
            continue
        sizes[path] = size
        if path.suffix == _RESERVED:
            place = path.with_suffix("")
            there = sum(statuses.get(other, (0, 0.0))[0] for other in (place, *_gathering(place)))
            sizes[path] = max(_number(path) - there, 0) if _is_fetched_now(place) else 0
        elif path.suffix in (_TAR, *_GATHERING):
            removable.append((used, path))
    return sizes, removable


def fetched_path(place: Path) -> Path:
    """Where a file lies that is whole, but not checked."""
    return _beside(place, _GATHERING[0])


def _gathering(place: Path) -> tuple[Path, Path]:
    whole = fetched_path(place)
    return whole, _beside(whole, _GATHERING[1])


def _beside(place: Path, ending: str) -> Path:
    return place.with_name(place.name + ending)


def _hold(file: io.FileIO) -> bool:
    """Locks a file against removal; False if that is too late."""
    fcntl.flock(file, fcntl.LOCK_SH)
    return os.fstat(file.fileno()).st_nlink > 0


def _try_lock(file) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_unread(path: Path) -> bool:
    """Removes a file that nobody reads or writes."""
    if path.suffix in _GATHERING:
        place = path.with_name(path.name.partition(_GATHERING[0])[0])
        if _is_fetched_now(place):
            return False
    try:
        with open(path, "rb") as file:
            if not _try_lock(file):
                return False
            path.unlink()
    except FileNotFoundError:
        return False  # what is fetched changes its name: its bytes may be there under another
    return True


def _is_fetched_now(place: Path) -> bool:
    try:
        with open(_beside(place, _LOCK), "rb") as lock:
            return not _try_lock(lock)
    except FileNotFoundError:
        return False


def _status(path: Path) -> tuple[int, float]:
    """Size and time of last use; of no size if it is gone or a folder."""
    with contextlib.suppress(OSError):
        status = path.stat()
        if stat.S_ISREG(status.st_mode):
            return status.st_size, status.st_atime
    return 0, 0.0


def _number(path: Path) -> int:
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text())
    return 0
