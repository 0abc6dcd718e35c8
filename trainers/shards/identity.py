"""Whether a shard is still the one that an index was made of."""

import hashlib
import os

from trainers.shards.index import IndexSummary

HEAD_BYTES = 64 * 1024


def shard_identity(shard: str | os.PathLike) -> dict[str, int | str]:
    """What tells a shard from another, under the names of `IndexSummary`.

    Raises:
        OSError: If the shard cannot be read.
    """
    with open(shard, "rb") as file:
        status = os.fstat(file.fileno())
        head = file.read(HEAD_BYTES)
    return {
        "shard_bytes": status.st_size,
        "shard_mtime_ns": status.st_mtime_ns,
        "head_sha256": hashlib.sha256(head).hexdigest(),
    }


def changed_since(shard: str | os.PathLike, summary: IndexSummary) -> str:
    """What of a shard has changed since its index was made, in words; empty if nothing has.

    Raises:
        OSError: If the shard cannot be read.
    """
    identity = shard_identity(shard)
    if change := _content_change(identity, summary):
        return change
    if identity["shard_mtime_ns"] != summary.shard_mtime_ns:
        return "its time of change is another"
    return ""


def content_changed_since(shard: str | os.PathLike, summary: IndexSummary) -> str:
    """As `changed_since`, for a copy, which has a time of its own."""
    return _content_change(shard_identity(shard), summary)


def _content_change(identity: dict[str, int | str], summary: IndexSummary) -> str:
    if identity["shard_bytes"] != summary.shard_bytes:
        return f"its size changed from {summary.shard_bytes:,} to {identity['shard_bytes']:,} bytes"
    if identity["head_sha256"] != summary.head_sha256:
        return "its first 64 KiB changed"
    return ""
