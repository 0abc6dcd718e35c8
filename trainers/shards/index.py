"""The index of a shard: where its good samples lie, so that nothing else is ever read.

Axes: N good samples of the shard, C captions of all of them.
"""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from captioner.files import atomic_path
from captioner.images import MAX_FILE_BYTES
from trainers.records import Problem

VERSION = 1
SUFFIX = ".index.npz"
MAX_INDEX_BYTES = 2 * 1024**3
"""Largest index that is read; that of a shard of 10,000 samples takes about 2 MB."""


class ShardIndexError(ValueError):
    """An index is missing or damaged, or no longer that of its shard."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GoodSample:
    """A sample that both engines can train on."""

    key: str
    """Name of the sample, unique in its shard."""
    image_offset: int
    """Where the image begins in the tar, in bytes."""
    image_size: int
    """Length of the image in bytes."""
    image_crc32: int
    """CRC-32 of those bytes."""
    height: int
    """Rows of the upright image."""
    width: int
    """Columns of the upright image."""
    is_plain_jpeg: bool
    """True for an upright grey or RGB JPEG, which every decoder reads alike."""
    captions: tuple[str, ...]
    """At least one caption."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class IndexSummary:
    """What is known of a shard without reading its samples' entries."""

    num_samples: int
    """Good samples N."""
    num_captions: int
    """Their captions C."""
    shard_bytes: int
    """Size of the tar when it was read."""
    shard_mtime_ns: int
    """Its time of change then."""
    head_sha256: str
    """Hash of its first 64 KiB then."""
    filters: dict
    """The filters that were applied, as JSON values."""
    num_read: int
    """Samples in the shard, the rejected ones included."""
    problems: tuple[Problem, ...]
    """Each rejected sample with its reason."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardIndex:
    """The good samples of a shard, as arrays."""

    image_offset: np.ndarray
    """int64 `(N,)`."""
    image_size: np.ndarray
    """int64 `(N,)`."""
    image_crc32: np.ndarray
    """uint32 `(N,)`."""
    height: np.ndarray
    """int32 `(N,)`."""
    width: np.ndarray
    """int32 `(N,)`."""
    is_plain_jpeg: np.ndarray
    """bool `(N,)`."""
    caption_start: np.ndarray
    """int64 `(N + 1,)`: the captions of sample `n` are `caption_start[n]` to `caption_start[n + 1]`."""
    text_start: np.ndarray
    """int64 `(C + 1,)`: the bytes of caption `c` are `text_start[c]` to `text_start[c + 1]` of `text`."""
    text: np.ndarray
    """uint8: all captions, UTF-8."""
    key_start: np.ndarray
    """int64 `(N + 1,)`: likewise for `key`."""
    key: np.ndarray
    """uint8: all keys, UTF-8."""

    @property
    def num_samples(self) -> int:
        """N."""
        return len(self.image_offset)

    def captions(self, sample: int) -> tuple[str, ...]:
        """The captions of a sample."""
        rows = range(self.caption_start[sample], self.caption_start[sample + 1])
        return tuple(_piece(self.text, self.text_start, row) for row in rows)

    def sample_key(self, sample: int) -> str:
        """The name of a sample."""
        return _piece(self.key, self.key_start, sample)


def index_path(shard: str | os.PathLike) -> Path:
    """Where the index of a shard lies: beside it, `00000.tar` has `00000.index.npz`."""
    return Path(shard).with_suffix(SUFFIX)


def write_index(
    path: str | os.PathLike,
    samples: Sequence[GoodSample],
    summary: IndexSummary,
    image_sha256: Sequence[bytes] | None = None,
) -> None:
    """Writes an index in one step.

    Args:
        path: path of the index.
        samples: the good samples, in the order of the tar.
        summary: everything else; its `num_samples` and `num_captions` are those of `samples`.
        image_sha256: SHA-256 of each sample's image, for `read_image_sha256`.

    Raises:
        OSError: If the file cannot be written.
    """
    texts = [caption for sample in samples for caption in sample.captions]
    text_start, text = _joined(texts)
    key_start, key = _joined([sample.key for sample in samples])
    index = ShardIndex(
        **{
            name: np.array([getattr(sample, name) for sample in samples], dtype)
            for name, dtype in _SAMPLE_ARRAYS.items()
        },
        caption_start=np.cumsum([0, *(len(sample.captions) for sample in samples)], dtype="int64"),
        text_start=text_start,
        text=text,
        key_start=key_start,
        key=key,
    )
    about = json.dumps({"version": VERSION, **dataclasses.asdict(summary)}, ensure_ascii=True).encode()
    arrays = {field.name: getattr(index, field.name) for field in dataclasses.fields(ShardIndex)}
    if image_sha256 is not None:
        arrays[_IMAGE_SHA256] = np.frombuffer(b"".join(image_sha256), "uint8").reshape(-1, 32)
    with atomic_path(path) as temporary:
        np.savez(temporary, about=np.frombuffer(about, "uint8"), **arrays)


def read_summary(path: str | os.PathLike) -> IndexSummary:
    """Reads what an index says of its shard as a whole.

    Raises:
        ShardIndexError: If the index is missing or damaged.
    """
    return _read(path, _summary_of)


def read_index(path: str | os.PathLike) -> ShardIndex:
    """Reads the entries of an index, and checks that they agree with each other.

    Raises:
        ShardIndexError: If the index is missing or damaged.
    """
    return _read(path, _entries_of)


def read_image_sha256(path: str | os.PathLike) -> np.ndarray:
    """Reads the SHA-256 of each image, uint8 `(N, 32)`, of an index that was written with them.

    Raises:
        ShardIndexError: If the index is missing or damaged, or was written without them.
    """
    return _read(path, lambda file: file[_IMAGE_SHA256])


_IMAGE_SHA256 = "image_sha256"
_SAMPLE_ARRAYS = {
    "image_offset": "int64",
    "image_size": "int64",
    "image_crc32": "uint32",
    "height": "int32",
    "width": "int32",
    "is_plain_jpeg": "bool",
}
_DTYPES = _SAMPLE_ARRAYS | {
    "caption_start": "int64",
    "text_start": "int64",
    "text": "uint8",
    "key_start": "int64",
    "key": "uint8",
}


def _read(path: str | os.PathLike, take):
    try:
        with open(path, "rb") as opened, np.lib.npyio.NpzFile(opened, allow_pickle=False) as file:
            if (
                sum(member.file_size for member in file.zip.infolist()) > MAX_INDEX_BYTES
            ):  # no member is unpacked yet
                raise ValueError(f"it holds more than {MAX_INDEX_BYTES:,} bytes")
            return take(file)
    except FileNotFoundError:
        raise ShardIndexError(f"there is no index {path}. Make it with `captioner shards index`.") from None
    except Exception as error:  # a damaged zip file raises nearly anything
        raise ShardIndexError(
            f"{path} is not a whole index: {error}. Make it anew with `captioner shards index`."
        ) from error


def _summary_of(file) -> IndexSummary:
    about = json.loads(file["about"].tobytes())
    if (version := about.pop("version")) != VERSION:
        raise ValueError(f"it has version {version}, this program reads version {VERSION}")
    problems = tuple(Problem(**problem) for problem in about.pop("problems"))
    return IndexSummary(**about, problems=problems)


def _entries_of(file) -> ShardIndex:
    arrays = {name: file[name] for name in _DTYPES}
    for name, array in arrays.items():
        if array.dtype != _DTYPES[name] or array.ndim != 1:
            raise ValueError(f"{name} is {array.dtype} of shape {array.shape}")
    index = ShardIndex(**arrays)
    if len({len(arrays[name]) for name in _SAMPLE_ARRAYS}) != 1:
        raise ValueError("its columns differ in length")
    for name, start, num_pieces, end in (
        ("caption_start", index.caption_start, index.num_samples, len(index.text_start) - 1),
        ("text_start", index.text_start, len(index.text_start) - 1, len(index.text)),
        ("key_start", index.key_start, index.num_samples, len(index.key)),
    ):
        if len(start) != num_pieces + 1 or start[0] != 0 or start[-1] != end or (np.diff(start) < 0).any():
            raise ValueError(f"{name} does not fit the other columns")
    if (index.image_offset < 0).any() or (index.image_size < 1).any():
        raise ValueError("an image lies outside of the shard")
    if (index.image_size > MAX_FILE_BYTES).any():
        raise ValueError(f"an image has more than {MAX_FILE_BYTES:,} bytes")
    return index


def _joined(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    pieces = [text.encode() for text in texts]
    start = np.cumsum([0, *map(len, pieces)], dtype="int64")
    return start, np.frombuffer(b"".join(pieces), "uint8")


def _piece(data: np.ndarray, start: np.ndarray, row: int) -> str:
    return data[start[row] : start[row + 1]].tobytes().decode()
