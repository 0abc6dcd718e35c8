"""What a server told of the files in the cache, kept beside them, so that it can be asked whether they have changed since."""

import dataclasses
import json
import os
from pathlib import Path

from captioner.fetch import RemoteFile
from captioner.files import atomic_path

SUFFIX = ".origin"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a shard in the cache, or the index of one, is from."""

    shard: RemoteFile
    """What the server told of the shard."""
    index: RemoteFile | None = None
    """What it told of its index; None for an index that was made here, and for a shard."""


def write_origin(path: str | os.PathLike, origin: Origin) -> None:
    """Writes the origin of a file beside it.

    Raises:
        OSError: If it cannot be written.
    """
    with atomic_path(origin_path(path)) as temporary:
        temporary.write_text(json.dumps(dataclasses.asdict(origin)), encoding="utf-8")


def read_origin(path: str | os.PathLike) -> Origin | None:
    """The origin of a file; None if it is not known."""
    try:
        content = json.loads(origin_path(path).read_text(encoding="utf-8"))
        index = content["index"]
        return Origin(
            shard=RemoteFile(**content["shard"]), index=None if index is None else RemoteFile(**index)
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remote_change(told: RemoteFile, before: RemoteFile) -> str:
    """What of a remote file has changed, in words; empty if nothing has that a server tells of."""
    if told.num_bytes != before.num_bytes:
        old, new = (
            "an unknown number of" if file.num_bytes is None else f"{file.num_bytes:,}"
            for file in (before, told)
        )
        return f"its size changed from {old} to {new} bytes"
    return "" if told == before else "its ETag or date is another"


def origin_path(path: str | os.PathLike) -> Path:
    """Where the origin of a file lies: `00000.tar.origin` beside `00000.tar`."""
    return Path(f"{os.fspath(path)}{SUFFIX}")
