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
    for name, words in (
        ("shard_bytes", "its size"),
        ("head_sha256", "its first 64 KiB"),
        ("shard_mtime_ns", "its time of change"),
    ):
        if identity[name] != getattr(summary, name):
            return f"{words} changed: {getattr(summary, name)}, now {identity[name]}"
    return ""
