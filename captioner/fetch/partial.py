"""Attempts at fetching a file: bytes gather beside its place, and take its name when they are whole and checked."""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

CHUNK_BYTES = 256 * 1024
_MAX_DELAY_S = 30
T = TypeVar("T")


class DownloadError(OSError):
    """Says in one line why a file could not be fetched, and what to do; `missing` if the server does not show such a file."""

    def __init__(self, message: str, missing: bool = False):
        super().__init__(message)
        self.missing = missing


class BrokenTransferError(Exception):
    """A transfer that another attempt may finish."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FetchedFile:
    """What is known of a file that was fetched whole."""

    num_bytes: int
    """Its length, which is the one that the server named, if it named one."""
    sha256: str
    """Hexadecimal SHA-256 of what lies on the disk."""
    server_md5: str | None
    """Hexadecimal MD5 that the server gave and the file has; None if the server gave none."""
    remote: "RemoteFile"
    """What the server told of it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """What a server tells of a file without its bytes; another file under the same address has another length or validator."""

    num_bytes: int | None
    """Its length; None if the server does not tell it."""
    validator: str | None
    """Its ETag or date, or what else a store has; None if the server tells neither."""


@dataclasses.dataclass(kw_only=True)
class Note:
    """What a later attempt must know of a partial file; stored beside it, without the address, which may hold a password."""

    address_sha256: str
    validator: str | None = None
    total: int | None = None
    md5: str | None = None

    @classmethod
    def about(cls, address: str, **known) -> "Note":
        """A note of the file at an address."""
        return cls(address_sha256=hashlib.sha256(address.encode()).hexdigest(), **known)

    @property
    def remote(self) -> RemoteFile:
        """What the server told of the file."""
        return RemoteFile(num_bytes=self.total, validator=self.validator)


@dataclasses.dataclass(frozen=True)
class PartialFile:
    """The bytes of a file that are there, and the note of where they are from."""

    address: str
    """Where the file is fetched from."""
    path: Path
    """Where the bytes gather."""
    on_progress: Callable[[int, int | None], None]
    """Called with the bytes that are there and the total, None where it is not known."""

    @property
    def size(self) -> int:
        """Bytes that are there."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def note(self) -> Note:
        """The note, or an empty one if the bytes are not of this address."""
        empty = Note.about(self.address)
        with contextlib.suppress(OSError, ValueError, TypeError):
            note = Note(**json.loads(self._note_path.read_text(encoding="utf-8")))
            if note.address_sha256 == empty.address_sha256:
                return note
        return empty

    def begin(self, note: Note) -> None:
        """Forgets the bytes, and notes what is about to come."""
        self.path.write_bytes(b"")
        self._note_path.write_text(json.dumps(dataclasses.asdict(note)), encoding="utf-8")

    def append(self, read: Callable[[], bytes], total: int | None, broken: type | tuple) -> None:
        """Writes what `read` gives until it gives nothing.

        Raises:
            BrokenTransferError: If `read` raises one of `broken`, or the end comes before the total.
        """
        done = self.size
        self.on_progress(done, total)
        with open(self.path, "ab") as file:
            while True:
                try:
                    chunk = read()
                except broken as error:
                    reason = reason_of(error, self.address)
                    raise BrokenTransferError(
                        f"the connection broke after {done:,} bytes ({reason})"
                    ) from error
                if not chunk:
                    break
                file.write(chunk)
                done += len(chunk)
                self.on_progress(done, total)
        if total is not None and done != total:
            raise BrokenTransferError(f"the connection ended after {done:,} of {total:,} bytes")

    def checked(self) -> FetchedFile:
        """Compares the whole file with the server's MD5; a corrupt one is removed."""
        note = self.note()
        md5 = note.md5
        if md5 is not None:
            with open(self.path, "rb") as file:
                found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
            if found != md5:
                self.path.unlink()
                raise BrokenTransferError(f"the bytes are corrupt: their MD5 is {found}, the server's {md5}")
        return FetchedFile(
            num_bytes=self.size, sha256=sha256_of(self.path), server_md5=md5, remote=note.remote
        )

    def become(self, path: Path) -> None:
        """Gives the bytes the name of the file."""
        os.replace(self.path, path)
        self._note_path.unlink(missing_ok=True)

    @property
    def _note_path(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")


def fetch_whole(
    address: str,
    path: str | os.PathLike,
    transfer: Callable[[PartialFile], None],
    *,
    num_retries: int = 4,
    on_progress: Callable[[int, int | None], None] | None = None,
    on_retry: Callable[[str, float], None] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> FetchedFile:
    """Fetches `address` into `path` with `transfer`, which brings a partial file to its whole length or raises.

    Raises:
        DownloadError: If the attempts are used up, or further ones are of no use.
        OSError: If the file cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = PartialFile(
        address, path.with_name(f"{path.name}.part"), on_progress or (lambda done, total: None)
    )

    def attempt() -> FetchedFile:
        transfer(part)
        return part.checked()

    fetched = attempted(
        address, attempt, num_retries=num_retries, on_retry=on_retry, sleep=sleep, num_bytes=lambda: part.size
    )
    part.become(path)
    return fetched


def attempted(
    address: str,
    attempt: Callable[[], T],
    *,
    num_retries: int,
    sleep: Callable[[float], None],
    on_retry: Callable[[str, float], None] | None = None,
    num_bytes: Callable[[], int] = lambda: 0,
) -> T:
    """What `attempt` gives, called again while it raises `BrokenTransferError`; an attempt that brought bytes is not counted.

    Raises:
        DownloadError: If the attempts are used up.
    """
    num_failures = 0
    while True:
        size_before = num_bytes()
        try:
            return attempt()
        except BrokenTransferError as error:
            size = num_bytes()
            num_failures = 1 if size > size_before else num_failures + 1
            if num_failures > num_retries:
                kept = f" {size:,} bytes are kept: the same command goes on." if size else ""
                raise DownloadError(
                    f"{public_address(address)} could not be fetched in {num_failures} attempts: {error}.{kept}"
                ) from error
            delay = min(2.0 ** (num_failures - 1), _MAX_DELAY_S)
            if on_retry:
                on_retry(str(error), delay)
            sleep(delay)


def sha256_of(path: str | os.PathLike) -> str:
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def public_address(address: str) -> str:
    """An address for people: without user name and password, and without its query, which may be a signature."""
    without_user = re.sub(r"(?<=://)[^/?#]*@", "", address)
    head, question_mark, _ = without_user.partition("?")
    return f"{head}?..." if question_mark else head


def reason_of(error: Exception, address: str) -> str:
    """An error in one line, without what `public_address` hides."""
    cause = getattr(error, "reason", error)
    if isinstance(cause, TimeoutError):
        return "the server was silent for too long"
    text = " ".join(str(cause).split()).replace(address, public_address(address))
    secrets = [urllib.parse.urlsplit(address).query, *re.findall(r"://([^/?#]*)@", address)]
    for secret in filter(None, secrets):
        text = text.replace(secret, "...")
    return text or type(cause).__name__
