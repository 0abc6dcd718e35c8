"""Fetches files from addresses of any kind, with room reserved for them, and checks shards against their indexes."""

from collections.abc import Callable
from pathlib import Path

from captioner.fetch import DownloadError, fetch_file, fetch_through_fsspec, public_address
from trainers.shards.identity import content_changed_since
from trainers.shards.index import IndexSummary, ShardIndexError, index_path, read_summary

_STEP_BYTES = 64 * 1024**2  # room is reserved in such steps where the server does not tell a length


def fetch_reserving(
    address: str,
    path: Path,
    reserve: Callable[[int], None],
    *,
    num_bytes: int | None,
    timeout_s: float,
    num_retries: int,
    sleep: Callable[[float], None],
) -> None:
    """Fetches a file over HTTP or through fsspec.

    Args:
        address: address of the file.
        path: path. Where it gathers, and lies when it is whole.
        reserve: called with its length before anything is written, and again if it turns out to be longer. What it raises
            ends the attempts.
        num_bytes: int. Its length, if known before the server is asked.
        timeout_s: as for `fetch_file`; other stores have times of their own.
        num_retries: as for `fetch_file`.
        sleep: as for `fetch_file`.

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
        sleep(0)  # raises where the user of the file has gone
        grow(total if total is not None else -(-(done + 1) // _STEP_BYTES) * _STEP_BYTES)

    if num_bytes is not None:
        grow(num_bytes)
    if address.startswith(("http://", "https://")):
        fetch_file(
            address, path, timeout_s=timeout_s, num_retries=num_retries, on_progress=on_progress, sleep=sleep
        )
    else:
        fetch_through_fsspec(address, path, num_retries=num_retries, on_progress=on_progress, sleep=sleep)


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
