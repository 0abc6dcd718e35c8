"""Tars of every odd kind."""

import gzip
import io
import tarfile

from bad_shards import (
    CAPTION,
    THE_LAST,
    THE_SHARD,
    Entry,
    ShardKind,
    entries,
    jpeg,
    sample_kind,
    tar,
)

_TEXT = ("odd.txt", CAPTION)
_IMAGE = ("odd.jpg", jpeg())
_LINK, _BLOCK = "link or special file", 512


def _special(kind: bytes, **fields) -> Entry:
    """A member without content: a link, a device."""
    member = tarfile.TarInfo("odd.jpg")
    member.type = kind
    for name, value in fields.items():
        setattr(member, name, value)
    return member, b""


def _with(*members: Entry, form: int = tarfile.USTAR_FORMAT):
    return lambda before, after: tar([*before, *members, *after], form)


def _pax(name: str, data: bytes, headers: dict[str, str]) -> Entry:
    ((member, data),) = entries((name, data))
    member.pax_headers = headers
    return member, data


def _sparse() -> Entry:
    """GNU's sparse format 1.0: the content begins with a map of where its parts belong."""
    data = jpeg()
    content = f"1\n0\n{len(data)}\n".encode().ljust(_BLOCK, b"\0") + data
    headers = {"major": "1", "minor": "0", "name": "odd.jpg", "realsize": str(len(data))}
    return _pax("GNUSparseFile.0/odd.jpg", content, {f"GNU.sparse.{name}": v for name, v in headers.items()})


def _without_end(members: list[Entry]) -> bytes:
    blocks = sum(_BLOCK + -(-len(data) // _BLOCK) * _BLOCK for _, data in members)
    return tar(members)[:blocks]


def _header_of_odd(before: list[Entry], after: list[Entry], position: int, value: bytes) -> bytes:
    """A shard in which bytes of the header of odd.jpg are others."""
    data = bytearray(tar([*before, *entries(_IMAGE, _TEXT), *after]))
    start = len(_without_end(before)) + position
    data[start : start + len(value)] = value
    return bytes(data)


def _with_checksum(data: bytes, start: int) -> bytes:
    header = bytearray(data[start : start + _BLOCK])
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return data[:start] + bytes(header) + data[start + _BLOCK :]


def _claiming(size: bytes, member_type: bytes = b"0"):
    """odd.jpg says that it is of another size."""

    def build(before: list[Entry], after: list[Entry]) -> bytes:
        data = bytearray(_header_of_odd(before, after, 124, size))
        start = len(_without_end(before))
        data[start + 156 : start + 157] = member_type
        return _with_checksum(bytes(data), start)

    return build


def _gnu(before: list[Entry], after: list[Entry]) -> bytes:
    return tar(
        [*before, *entries(("d" * 200 + "/odd.jpg", jpeg()), ("d" * 200 + "/odd.txt", CAPTION)), *after],
        tarfile.GNU_FORMAT,
    )


def _v7(before: list[Entry], after: list[Entry]) -> bytes:
    data = tar([*before, *after])
    position = 0
    while data[position : position + 1] != b"\0":  # each header loses its magic number
        size = int(data[position + 124 : position + 135], 8)
        data = data[: position + 257] + bytes(8) + data[position + 265 :]
        data = _with_checksum(data, position)
        position += _BLOCK + -(-size // _BLOCK) * _BLOCK
    return data


def _latin1_name(before: list[Entry], after: list[Entry]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        for member, data in [*before, *entries(("café.jpg", jpeg()), ("café.txt", CAPTION)), *after]:
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def _whole(change, name: str, reason: str) -> ShardKind:
    return ShardKind(
        name=name,
        build=lambda before, after: change(tar([*before, *after])),
        rejected={THE_SHARD: reason},
        loses_all=True,
    )


def _end(name: str, change, **rejected) -> ShardKind:
    """A kind in which something is wrong behind the last sample; its members lose their end mark first."""
    return ShardKind(
        name=name,
        build=lambda before, after: change(_without_end([*before, *after])),
        rejected={THE_SHARD: "truncated shard"} | rejected,
    )


_LONG_NAME = "ключ" * 60

TAR_KINDS = (
    sample_kind("no image", _TEXT, reason="no image"),
    sample_kind("two images", _IMAGE, ("odd.png", jpeg()), _TEXT, reason="several images"),
    sample_kind(
        "sample twice", _IMAGE, _TEXT, ("odd.jpg", jpeg(9)), _TEXT, good=("odd",), reason="duplicate key"
    ),
    sample_kind("image twice", _TEXT, _IMAGE, _IMAGE, good=("odd",), reason="duplicate key"),
    sample_kind(
        "members out of order",
        _TEXT,
        ("odd2.jpg", jpeg(9)),
        _IMAGE,
        ("odd2.txt", CAPTION),
        good=("odd", "odd2"),
    ),
    sample_kind("absolute name", ("/tmp/odd.jpg", jpeg()), ("/tmp/odd.txt", CAPTION), good=("/tmp/odd",)),
    sample_kind("name with ..", ("../../odd.jpg", jpeg()), ("../../odd.txt", CAPTION), good=("../../odd",)),
    sample_kind("names in folders", ("a.b/odd.jpg", jpeg()), ("a.b/odd.txt", CAPTION), good=("a.b/odd",)),
    sample_kind(
        "files of other kinds", _IMAGE, _TEXT, ("odd.npy", b"x"), ("README", b"x"), ("._odd.jpg", b"x")
    ),
    sample_kind(
        "long names (PAX)",
        (f"{_LONG_NAME}.jpg", jpeg()),
        (f"{_LONG_NAME}.txt", CAPTION),
        good=(_LONG_NAME,),
        tar_format=tarfile.PAX_FORMAT,
    ),
    ShardKind(name="long names (GNU)", build=_gnu, good=("d" * 200 + "/odd",)),
    ShardKind(name="old tar without a magic number", build=_v7),
    ShardKind(name="latin-1 name", build=_latin1_name, good=("caf\\udce9",)),
    ShardKind(
        name="PAX name with a line break",
        good=("odd\\n1",),
        build=_with(
            _pax("x.jpg", jpeg(), {"path": "odd\n1.jpg"}),
            _pax("x.txt", CAPTION, {"path": "odd\n1.txt"}),
            form=tarfile.PAX_FORMAT,
        ),
    ),
    ShardKind(
        name="symbolic link",
        rejected={"odd": _LINK},
        build=_with(_special(tarfile.SYMTYPE, linkname="000000000.jpg"), *entries(_TEXT)),
    ),
    ShardKind(
        name="link to a file outside",
        rejected={"odd": _LINK},
        build=_with(_special(tarfile.SYMTYPE, linkname="/etc/passwd"), *entries(_TEXT)),
    ),
    ShardKind(
        name="hard link",
        rejected={"odd": _LINK},
        build=_with(_special(tarfile.LNKTYPE, linkname="000000000.jpg"), *entries(_TEXT)),
    ),
    ShardKind(
        name="device", rejected={"odd": _LINK}, build=_with(_special(tarfile.CHRTYPE), *entries(_TEXT))
    ),
    ShardKind(
        name="folder called .jpg",
        rejected={"odd": "no image"},
        build=_with(_special(tarfile.DIRTYPE), *entries(_TEXT)),
    ),
    ShardKind(
        name="sparse image",
        rejected={"odd": "sparse member"},
        build=_with(_sparse(), *entries(_TEXT), form=tarfile.PAX_FORMAT),
    ),
    ShardKind(
        name="damaged header",
        rejected={THE_SHARD: "damaged shard", "odd": "no image"},
        build=lambda before, after: _header_of_odd(before, after, 0, b"\xff"),
    ),
    ShardKind(
        name="extended header of 8 GB",
        rejected={THE_SHARD: "damaged shard", "odd": "no image"},
        build=_claiming(b"77777777777\0", tarfile.XHDTYPE),
    ),
    ShardKind(
        name="negative size",
        rejected={THE_SHARD: "damaged shard", "odd": "no image"},
        build=_claiming(b"\xff" * 12),
    ),
    ShardKind(name="two tars joined", build=lambda before, after: tar(before) + tar(after)),
    ShardKind(
        name="garbage behind the end",
        rejected={THE_SHARD: "damaged shard"},
        build=lambda before, after: tar([*before, *after]) + b"garbage" * 999,
    ),
    _end("no end mark", lambda data: data),
    _end("cut in a header", lambda data: data + b"000000009.jpg".ljust(200, b"\0")),
    _end("cut in the last file", lambda data: data[: 9 - _BLOCK], **{THE_LAST: "truncated member"}),
    _end(
        "cut between image and caption", lambda data: data + _without_end(entries(_IMAGE)), odd="no caption"
    ),
    _whole(lambda data: b"", "empty tar", "empty shard"),
    _whole(lambda data: bytes(10_240), "tar of nothing", "empty shard"),
    _whole(lambda data: gzip.compress(data, mtime=0), "gzip tar", "compressed shard"),
    _whole(lambda data: b"\x28\xb5\x2f\xfd" + data, "zstd tar", "compressed shard"),
    _whole(lambda data: bytes(range(1, 256)) * 90, "garbage tar", "not a tar"),
    _whole(lambda data: b"<html>404 Not Found</html>", "HTML called .tar", "not a tar"),
    _whole(lambda data: data[:300], "tar of 300 bytes", "not a tar"),
)
