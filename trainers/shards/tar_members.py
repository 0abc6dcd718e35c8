"""Lists the members of a tar, damaged or hostile ones included, without unpacking any."""

import dataclasses
import io
import re
import tarfile
from typing import BinaryIO

MAX_HEADER_BYTES = 1024**2
"""Longest extended header (PAX, GNU long name) that is read."""
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}

_BLOCK = 512
_MAGIC, _MAGIC_OFFSET = b"ustar", 257
_NAME = re.compile(r"((?:.*/|)[^./]+)\.([^/]*)", re.DOTALL)


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar whose name is that of a part of a sample."""

    key: str
    """The name of its sample: the path up to the first dot of its last part. Printable."""
    extension: str
    """The rest of the name, in lower case."""
    offset: int
    """Where its content begins, in bytes."""
    size: int
    """Length of its content in bytes."""
    flaw: str = ""
    """Why its content cannot be used, as a fixed phrase; empty if it can."""


def read_members(file: BinaryIO, size: int) -> tuple[list[Member], list[tuple[str, str]]]:
    """Lists the members that belong to samples, in the order of the tar.

    Zeros between members, as where tars were joined, are passed over; behind a damaged header reading goes on
    with the next whole one. Names are read as UTF-8; what cannot be printed is escaped.

    Args:
        file: seekable binary file. An uncompressed tar.
        size: int. Its length in bytes.

    Returns:
        The members, and what is wrong with the tar as a whole: pairs of a fixed phrase and a detail.

    Raises:
        OSError: If the file cannot be read.
    """
    file.seek(0)
    start = file.read(8)
    for magic, kind in COMPRESSED.items():
        if start.startswith(magic):
            return [], [("compressed shard", f"it is {kind}; unpack it to a plain tar")]
    members: list[Member] = []
    problems: list[tuple[str, str]] = []
    headers = _Headers(file)
    position, num_entries, is_ended, is_damaged = 0, 0, False, False
    while position + _BLOCK <= size:
        file.seek(position)
        block = file.read(_BLOCK)
        if not block.strip(b"\0"):
            is_ended, position = True, position + _BLOCK
            continue
        # Behind a damaged header the content of a file may follow: only a magic number makes it a header again.
        looks_right = not is_damaged or block[_MAGIC_OFFSET:].startswith(_MAGIC)
        entry, following = headers.read_entry(position) if looks_right else (None, 0)
        if entry is None:
            if not is_damaged:
                problems.append(("damaged shard", f"no whole header at byte {position:,}"))
            is_damaged, position = True, position + _BLOCK
            continue
        num_entries += 1
        is_ended, is_damaged, position = False, False, following
        if (member := _as_member(entry, size)) is not None:
            members.append(member)
    if not num_entries:
        return [], [("not a tar", f"it begins with {start!r}") if start.strip(b"\0") else ("empty shard", "")]
    if position > size or not is_ended:
        problems.append(("truncated shard", f"it has no end mark; the last byte is {size:,}"))
    return members, problems


def _as_member(entry: tarfile.TarInfo, shard_bytes: int) -> Member | None:
    match = _NAME.fullmatch(entry.name)
    if match is None or entry.isdir():
        return None
    flaw = ""
    if entry.issparse():
        flaw = "sparse member"
    elif not entry.isreg():
        flaw = "link or special file"
    elif entry.offset_data + entry.size > shard_bytes:
        flaw = "truncated member"
    return Member(_printable(match[1]), match[2].lower(), entry.offset_data, entry.size, flaw)


def _printable(name: str) -> str:
    return name if name.isprintable() else name.encode("unicode_escape").decode()


class _Headers:
    """Reads single headers with tarfile, whatever they say."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.seek, self.tell = file.seek, file.tell
        self.failure: OSError | None = None
        self.tar = tarfile.TarFile(
            fileobj=io.BytesIO(bytes(2 * _BLOCK)), encoding="utf-8", errors="surrogateescape"
        )  # opened empty, because opening reads
        self.tar.fileobj = self

    def read(self, size: int) -> bytes:
        """What tarfile reads of the file: headers only."""
        if size > MAX_HEADER_BYTES:
            raise tarfile.HeaderError(f"a header of {size:,} bytes")
        try:
            return self.file.read(size)
        except OSError as error:  # tarfile might take it for a damaged header
            self.failure = error
            raise

    def read_entry(self, position: int) -> tuple[tarfile.TarInfo | None, int]:
        """The entry whose header begins at `position`, or None, and where the next header is."""
        self.file.seek(position)
        try:
            entry = tarfile.TarInfo.fromtarfile(self.tar)
        except Exception:  # a hostile header makes tarfile raise nearly anything
            if self.failure is not None:
                raise self.failure from None
            return None, 0
        is_possible = position < self.tar.offset and entry.size >= 0 and entry.offset_data > position
        return (entry if is_possible else None), self.tar.offset
