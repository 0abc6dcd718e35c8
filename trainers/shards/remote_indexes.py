"""Indexes of remote shards in the cache: held against what the server tells, and fetched from beside the shard."""

import re
from pathlib import Path

from captioner.fetch import DownloadError, RemoteFile
from trainers.shards.cache_folder import fetched_path
from trainers.shards.filters import NO_FILTERS
from trainers.shards.identity import content_changed_since
from trainers.shards.index import (
    SUFFIX,
    IndexSummary,
    ShardIndexError,
    index_path,
    read_index,
    read_summary,
)
from trainers.shards.origins import Origin, read_origin, remote_change, write_origin
from trainers.shards.remote import ShardCache
from trainers.shards.remote_files import known_summary


def bring_index(cache: ShardCache, shard: str) -> tuple[RemoteFile, str]:
    """Sees that the index beside `cache.local_path(shard)`, and the shard if it is there, are of what the server has now.

    The server is asked of the shard, and of its index if the one here is from there; both without their bytes. Where one has
    changed, or none is here, the server's index is fetched, if it has a whole one that is of this shard. An index that was made
    here with filters is not replaced.

    Args:
        cache: `ShardCache`.
        shard: address.

    Returns:
        What the server tells of the shard; and in words why the index that is here, or at the server, is not of it. They are
        empty if the index is good, and if there is none.

    Raises:
        DownloadError: If there is no such shard, or no answer.
        CacheLimitError: If the cache has no room for the index.
        OSError: If the cache cannot be written.
    """
    told = cache.remote.look_up(shard)
    tar = cache.files.place(shard)
    path = index_path(tar)
    with cache.files.fetching(path, cache.remote.check_stopped):
        if tar.exists() and _change(told, read_origin(tar)):
            cache.forget(shard)
        summary, origin = known_summary(tar), read_origin(path)
        change = "" if summary is None else _change(told, origin)
        is_good = summary is not None and not change
        if is_good and not _is_newer_at_server(cache, shard, origin):
            return told, ""
        if change and origin is not None and origin.index is None and summary.filters != NO_FILTERS:
            return told, change
        is_fetched, mismatch = _fetch_index(cache, shard, told)
        return told, "" if is_fetched or is_good else change or mismatch


def index_address(shard: str) -> str | None:
    """The address of the index beside a remote shard; None for an address that does not end on .tar."""
    address, num_found = re.subn(r"\.tar(?=$|\?[^/]*$)", SUFFIX, shard)
    return address if num_found else None


def _change(told: RemoteFile, origin: Origin | None) -> str:
    if origin is None:
        return "it is not known what the server told of it then"
    return remote_change(told, origin.shard)


def _is_newer_at_server(cache: ShardCache, shard: str, origin: Origin) -> bool:
    """Whether the server has another index than the one that is here from there."""
    if origin.index is None:
        return False
    try:
        return cache.remote.look_up(index_address(shard)) != origin.index
    except DownloadError as error:
        if error.missing:  # the one that is here is good all the same
            return False
        raise


def _fetch_index(cache: ShardCache, shard: str, told: RemoteFile) -> tuple[bool, str]:
    """Whether the server has an index of the shard, which then has its place; and why the one that it has is of another."""
    tar = cache.files.place(shard)
    path, address = index_path(tar), index_address(shard)
    if address is None:
        return False, ""
    try:
        told_of_index = cache.fetch(address, path)
    except DownloadError as error:
        if error.missing:
            return False, ""
        raise
    fetched = fetched_path(path)
    try:
        summary = read_summary(fetched)
        read_index(fetched)
    except ShardIndexError:  # some servers answer with a page where they have no file
        fetched.unlink()
        return False, ""
    if mismatch := _mismatch(told, tar, summary):
        fetched.unlink()
        return False, f"the index beside it is of another shard: {mismatch}"
    fetched.replace(path)
    write_origin(path, Origin(shard=told, index=told_of_index))
    return True, ""


def _mismatch(told: RemoteFile, tar: Path, summary: IndexSummary) -> str:
    if told.num_bytes not in (None, summary.shard_bytes):
        return f"that has {summary.shard_bytes:,} bytes, this one {told.num_bytes:,}"
    try:
        return content_changed_since(tar, summary)
    except FileNotFoundError:  # compared when it is fetched
        return ""
