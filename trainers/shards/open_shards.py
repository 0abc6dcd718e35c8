"""Shards that are read at random: few files and indexes open at a time, and no byte that is not the indexed one."""

import functools
import io
import os
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from captioner.images import ImageError, decode_image
from trainers.records import Problem
from trainers.shards.cache_folder import CacheLimitError
from trainers.shards.index import IndexSummary, ShardIndex, ShardIndexError, index_path, read_index
from trainers.shards.ppm import encode_ppm
from trainers.shards.remote import ShardCache

MAX_OPEN_FILES = 64


class UnusableSampleError(ValueError):
    """A sample cannot be read; holds the `Problem`."""

    def __init__(self, problem: Problem):
        super().__init__(str(problem))
        self.problem = problem


class OpenShards:
    """Reads samples of shards by their position. Several threads may read.

    Args:
        shards: paths of tars.
        summaries: for each of them what its index says of it.
        max_indexes: int. Indexes kept in memory.
        cache: `ShardCache` that fetches the shards that are not there, or None if all are.
    """

    def __init__(
        self,
        shards: Sequence[str],
        summaries: Sequence[IndexSummary],
        max_indexes: int,
        cache: ShardCache | None = None,
    ):
        self.shards = tuple(shards)
        self.summaries = tuple(summaries)
        self.num_in_shards = tuple(summary.num_samples for summary in summaries)
        paths = self.shards  # no function below may hold `self`: that would keep files open
        self._read_index = functools.lru_cache(max_indexes)(
            lambda shard: read_index(index_path(paths[shard]))
        )
        # A file is closed when the cache has forgotten it and the last thread is done with it.
        # What is open cannot leave the cache: no more than a block reads from.
        num_files = MAX_OPEN_FILES if cache is None else min(MAX_OPEN_FILES, max_indexes)
        self._open_file = functools.lru_cache(num_files)(
            lambda path: _File(io.FileIO(path) if cache is None else cache.open_shard(path))
        )
        self._cache = cache

    def want(self, shards: Iterable[int]) -> None:
        """Says which shards are read next, in their order, so that those that are elsewhere are fetched ahead."""
        if self._cache is not None:
            self._cache.want([self.shards[shard] for shard in shards])

    def captions(self, shard: int, row: int) -> tuple[str, ...]:
        """The captions of a sample.

        Raises:
            UnusableSampleError: If the index cannot be read any more.
        """
        return self._entries(shard, row).captions(row)

    def key(self, shard: int, row: int) -> str:
        """The name of a sample, for people; with the folder, as shards of several may have the same name."""
        path = Path(self.shards[shard]).absolute()
        name = f"{path.parent.name}/{path.name}"
        try:
            return f"{name}/{self._read_index(shard).sample_key(row)}"
        except (ShardIndexError, OSError, IndexError):
            return f"{name}, sample {row}"

    def image(self, shard: int, row: int) -> tuple[bytes, np.ndarray]:
        """The image of a sample as a JPEG or PPM that every decoder reads alike, and its height and width.

        Raises: as `encoded`.
        """
        index, data = self._entries(shard, row), self.encoded(shard, row)
        if index.is_plain_jpeg[row]:
            return data, np.array([index.height[row], index.width[row]], "int32")
        try:
            image = decode_image(data)
        except ImageError as error:
            raise self._unusable("undecodable image", shard, row, str(error)) from error
        return encode_ppm(image), np.array(image.shape[:2], "int32")

    def encoded(self, shard: int, row: int) -> bytes:
        """The image of a sample as it lies in the shard.

        Raises:
            UnusableSampleError: If the bytes are not those that were indexed.
            CacheLimitError: If a remote shard does not fit in the cache: the limit is at fault, not the sample.
        """
        index, summary = self._entries(shard, row), self.summaries[shard]
        offset, size = int(index.image_offset[row]), int(index.image_size[row])
        try:
            file = self._open_file(self.shards[shard])
            data = file.read(offset, size)
            status = file.status()  # asked after reading: what was written before that shows in it
        except CacheLimitError:
            raise
        except OSError as error:
            raise self._unusable("unreadable shard", shard, row, error.strerror or str(error)) from error
        if (status.st_size, status.st_mtime_ns) != (summary.shard_bytes, summary.shard_mtime_ns):
            if len(data) < size:
                raise self._unusable("truncated shard", shard, row, f"{status.st_size:,} bytes are left")
            if zlib.crc32(data) != index.image_crc32[row]:
                raise self._unusable("changed image", shard, row, "its bytes are not those that were indexed")
        return data

    def _entries(self, shard: int, row: int) -> ShardIndex:
        try:
            index = self._read_index(shard)
        except (ShardIndexError, OSError) as error:
            raise self._unusable("unreadable index", shard, row, str(error)) from error
        if index.num_samples != self.summaries[shard].num_samples:
            raise self._unusable("changed index", shard, row, "it was made anew")
        return index

    def _unusable(self, reason: str, shard: int, row: int, detail: str) -> UnusableSampleError:
        return UnusableSampleError(Problem(reason, self.key(shard, row), detail))


class _File:
    """An open file; closed with its last reference."""

    def __init__(self, file: io.FileIO):
        self.file, self.descriptor = file, file.fileno()

    def __del__(self) -> None:
        self.file.close()

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`, fewer at the end of the file."""
        parts, missing = [], size
        while missing and (part := os.pread(self.descriptor, missing, offset + size - missing)):
            parts.append(part)
            missing -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def status(self) -> os.stat_result:
        """What the file system says of the file now."""
        return os.fstat(self.descriptor)
