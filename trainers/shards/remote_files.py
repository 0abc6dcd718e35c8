"""Asks of files at addresses of any kind and fetches them, and checks shards against their indexes."""

import threading
import urllib.parse
from collections.abc import Callable
from pathlib import Path

from captioner.fetch import (
    DownloadError,
    RemoteFile,
    fetch_file,
    fetch_through_fsspec,
    look_up_file,
    look_up_through_fsspec,
    public_address,
)
from trainers.shards.identity import content_changed_since
from trainers.shards.index import IndexSummary, ShardIndexError, index_path, read_summary

_STEP_BYTES = 64 * 1024**2  # room is reserved in such steps where the server does not tell a length


class StoppedError(Exception):
    """No more files are wanted."""


class RemoteFiles:
    """Files over HTTP and of whatever fsspec opens. Any thread may ask.

    Args:
        timeout_s: float. Longest silence of a web server, in seconds; other stores have times of their own.
        num_retries: int. Further attempts after one that brought nothing new.
        first_delay_s: float. Wait before the second attempt, which doubles with each one.
    """

    def __init__(self, *, timeout_s: float, num_retries: int, first_delay_s: float):
        self.timeout_s, self.num_retries, self.first_delay_s = timeout_s, num_retries, first_delay_s
        self.stopped = threading.Event()
        self._silent: set[str] = set()

    def look_up(self, address: str) -> RemoteFile:
        """What the server tells of a file, without its bytes.

        A server that gave no answer in all attempts is asked once for each further file, until it answers: a thousand
        shards shall not wait for it one after the other.

        Raises:
            DownloadError: If there is no such file, or no answer.
        """
        server = urllib.parse.urlsplit(address).netloc
        patience = {"num_retries": 0 if server in self._silent else self.num_retries, "sleep": self._wait}
        try:
            if _is_http(address):
                told = look_up_file(address, timeout_s=self.timeout_s, **patience)
            else:
                told = look_up_through_fsspec(address, **patience)
        except DownloadError as error:
            if not error.missing:
                self._silent.add(server)
            raise
        self._silent.discard(server)
        return told

    def fetch(
        self, address: str, path: Path, reserve: Callable[[int], None], num_bytes: int | None = None
    ) -> RemoteFile:
        """Fetches a file.

        Args:
            address: address of the file.
            path: path. Where it gathers, and lies when it is whole.
            reserve: called with its length before anything is written, and again if it turns out to be longer. What it
                raises ends the attempts.
            num_bytes: int. Its length, if known before the server is asked.

        Returns:
            What the server told of it.

        Raises:
            DownloadError: As for `fetch_file`.
        """
        reserved = 0

        def grow(size: int) -> None:
            nonlocal reserved
            if size > reserved:
                reserve(size)
                reserved = size

        def on_progress(done: int, total: int | None) -> None:
            self.check_stopped()
            grow(total if total is not None else -(-(done + 1) // _STEP_BYTES) * _STEP_BYTES)

        if num_bytes is not None:
            grow(num_bytes)
        patience = {"num_retries": self.num_retries, "sleep": self._wait, "on_progress": on_progress}
        if _is_http(address):
            return fetch_file(address, path, timeout_s=self.timeout_s, **patience).remote
        return fetch_through_fsspec(address, path, **patience).remote

    def sleep(self, seconds: float) -> None:
        """Waits, and raises if no more files are wanted."""
        self.stopped.wait(seconds)
        self.check_stopped()

    def check_stopped(self) -> None:
        """Raises if no more files are wanted."""
        if self.stopped.is_set():
            raise StoppedError

    def _wait(self, seconds: float) -> None:
        self.sleep(seconds * self.first_delay_s)


def known_summary(place: Path) -> IndexSummary | None:
    """What the index beside a place says of its shard; None if there is no whole one."""
    try:
        return read_summary(index_path(place))
    except ShardIndexError:
        return None


def require_indexed_shard(address: str, fetched: Path, place: Path, summary: IndexSummary | None) -> None:
    """Refuses a fetched file that is not the shard of the index beside its place; neither is kept.

    Raises:
        DownloadError: If its length or its first 64 KiB are other ones.
    """
    if summary is None or not (change := content_changed_since(fetched, summary)):
        return
    fetched.unlink()
    index_path(place).unlink(missing_ok=True)
    raise DownloadError(
        f"{public_address(address)} is not the shard that its index was made of: {change}. Neither is kept, and the next run "
        "fetches both anew. If this comes again, index the shard again where it comes from."
    )


def _is_http(address: str) -> bool:
    return address.startswith(("http://", "https://"))
