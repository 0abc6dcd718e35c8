"""Fetches a file from any store that fsspec opens, as s3:// and gs://."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator

from captioner.fetch.partial import (
    CHUNK_BYTES,
    BrokenTransferError,
    DownloadError,
    FetchedFile,
    Note,
    PartialFile,
    RemoteFile,
    attempted,
    fetch_whole,
    public_address,
    reason_of,
)

_BLOCK_BYTES = 8 * 1024**2
_OF_NO_USE = (
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    ValueError,
    ImportError,
)


def fetch_through_fsspec(
    address: str,
    path: str | os.PathLike,
    *,
    num_retries: int = 4,
    on_progress: Callable[[int, int | None], None] | None = None,
    on_retry: Callable[[str, float], None] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> FetchedFile:
    """Fetches `address` into `path`; see `fetch_file`, which is for http and https.

    A partial file is gone on with if the store tells the same of the file as before: size, time or ETag, whatever it has.
    The length is checked. Credentials are those that the store's own package finds.

    Args:
        address: address that fsspec opens; most stores need a package of their own, as s3:// needs s3fs.
        path: as for `fetch_file`.
        num_retries: as for `fetch_file`.
        on_progress: as for `fetch_file`.
        on_retry: as for `fetch_file`.
        sleep: as for `fetch_file`.

    Raises:
        DownloadError: If there is no such file, a package is missing, or the attempts are used up.
        OSError: If the file cannot be written.
    """
    return fetch_whole(
        address,
        path,
        _transfer,
        num_retries=num_retries,
        on_progress=on_progress,
        on_retry=on_retry,
        sleep=sleep,
    )


def look_up_through_fsspec(
    address: str, *, num_retries: int = 4, sleep: Callable[[float], None] = time.sleep
) -> RemoteFile:
    """Asks a store of a file, without its bytes; see `look_up_file`, which is for http and https.

    Raises:
        DownloadError: If there is no such file, a package is missing, or the attempts are used up.
    """
    return attempted(address, lambda: _look_up(address)[-1], num_retries=num_retries, sleep=sleep)


def _transfer(part: PartialFile) -> None:
    """Brings a partial file to its whole length, or raises."""
    file_system, name, told = _look_up(part.address)
    if told.num_bytes is None:
        raise DownloadError(
            f"{public_address(part.address)}: the store does not say how long the file is, so a cut would pass unseen."
        )
    note = Note.about(part.address, validator=told.validator, total=told.num_bytes)
    start = part.size
    if note != part.note() or start > note.total:
        part.begin(note)
        start = 0
    if start == note.total:
        part.on_progress(start, note.total)
        return
    with _explained(part.address):
        remote = file_system.open(name, "rb", block_size=_BLOCK_BYTES)
    try:
        remote.seek(start)
        part.append(lambda: remote.read(CHUNK_BYTES), note.total, broken=Exception)
    finally:
        remote.close()


def _look_up(address: str):
    """The store, the name of the file there, and what the store tells of it."""
    import fsspec

    with _explained(address):
        file_system, name = fsspec.core.url_to_fs(address)
        file_system.invalidate_cache()
        size, validator = file_system.info(name)["size"], str(file_system.ukey(name))
    return file_system, name, RemoteFile(num_bytes=None if size is None else int(size), validator=validator)


@contextlib.contextmanager
def _explained(address: str) -> Iterator[None]:
    """Tells errors of which further attempts are of no use from others."""
    try:
        yield
    except _OF_NO_USE as error:
        message = f"{public_address(address)} cannot be fetched: {reason_of(error, address)}"
        raise DownloadError(
            message, missing=isinstance(error, FileNotFoundError | PermissionError)
        ) from error
    except Exception as error:  # each store raises errors of its own
        raise BrokenTransferError(f"no connection ({reason_of(error, address)})") from error
