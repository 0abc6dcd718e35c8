"""Reads a shard once, and tells its good samples from the others, each with its reason."""

import dataclasses
import hashlib
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from captioner.images import MAX_FILE_BYTES, ImageError, decode_image, is_plain_jpeg
from trainers.records import Problem
from trainers.shards.filters import ShardFilters
from trainers.shards.identity import shard_identity
from trainers.shards.index import GoodSample, IndexSummary
from trainers.shards.sample_captions import read_metadata, sample_captions
from trainers.shards.tar_members import Member, read_members

IMAGE_EXTENSIONS = frozenset(("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff"))
TEXT, METADATA = "txt", "json"
MAX_TEXT_BYTES = 1024**2
"""Longest .txt that is read."""
MAX_METADATA_BYTES = 16 * 1024**2
"""Longest .json that is read."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckedShard:
    """What a shard holds."""

    samples: tuple[GoodSample, ...]
    """The good samples, in the order of the tar."""
    image_sha256: tuple[bytes, ...]
    """SHA-256 of the image of each of them."""
    summary: IndexSummary
    """Everything else."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Candidate:
    """The members that are one sample."""

    key: str
    members: tuple[Member, ...]
    repeats: bool = False
    """True if an earlier sample has this key."""


def check_shard(
    shard: str | os.PathLike,
    filters: ShardFilters | None = None,
    on_sample: Callable[[int], None] | None = None,
) -> CheckedShard:
    """Checks each sample of an uncompressed tar: its image is decoded wholly, its captions are read.

    A sample is an image and a .txt or .json, or both, with the same name up to the first dot. They need not
    be neighbours. Where a name comes twice, the first sample counts. Duplicates are not looked for here.

    Args:
        shard: path. The tar.
        filters: `ShardFilters`. What else a sample must have; nothing by default.
        on_sample: function. Called after each sample with the bytes of the tar that are behind it by now.

    Returns:
        A `CheckedShard`. A tar that is none is one without samples, and its problem.

    Raises:
        OSError: If the shard cannot be read, or changed while it was read.
    """
    filters = filters or ShardFilters()
    name = os.path.basename(shard)
    identity = shard_identity(shard)
    samples, digests, problems, num_read = [], [], [], 0
    with open(shard, "rb") as file:
        members, damage = read_members(file, identity["shard_bytes"])
        problems += [Problem(reason, name, detail) for reason, detail in damage]
        checker = _SampleChecker(file, name, filters, _Similarities(shard, filters))
        for candidate in _candidates(members):
            num_read += 1
            sample, digest, found = checker.check(candidate)
            problems += found
            if sample is not None:
                samples.append(sample)
                digests.append(digest)
            if on_sample is not None:
                on_sample(max(member.offset + member.size for member in candidate.members))
    if shard_identity(shard) != identity:
        raise OSError(f"{os.fspath(shard)} changed while it was read; index it again when it is complete")
    summary = IndexSummary(
        num_samples=len(samples),
        num_captions=sum(len(sample.captions) for sample in samples),
        **identity,
        filters=dataclasses.asdict(filters),
        num_read=num_read,
        problems=tuple(problems),
    )
    return CheckedShard(samples=tuple(samples), image_sha256=tuple(digests), summary=summary)


def _candidates(members: list[Member]) -> Iterator[_Candidate]:
    """Samples in the order of their first members."""
    runs: dict[str, list[dict[str, Member]]] = {}  # neighbours with one key and different extensions
    last_key = None
    for member in members:
        if member.extension not in IMAGE_EXTENSIONS and member.extension not in (TEXT, METADATA):
            continue
        runs_of_key = runs.setdefault(member.key, [])
        if member.key != last_key or member.extension in runs_of_key[-1]:
            runs_of_key.append({})
        runs_of_key[-1][member.extension] = member
        last_key = member.key
    for key, (first, *others) in runs.items():
        repeated = []
        for run in others:
            if first.keys().isdisjoint(run):  # scattered members of one sample
                first.update(run)
            else:
                repeated.append(run)
        yield _Candidate(key=key, members=tuple(first.values()))
        for run in repeated:
            yield _Candidate(key=key, members=tuple(run.values()), repeats=True)


class _Rejected(Exception):
    """A sample that is not used, with what is said of it."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__(*problems)
        self.problems = problems


@dataclasses.dataclass(frozen=True)
class _SampleChecker:
    """Checks the samples of one shard."""

    file: BinaryIO
    shard_name: str
    filters: ShardFilters
    similarities: "_Similarities"

    def check(self, candidate: _Candidate) -> tuple[GoodSample | None, bytes, list[Problem]]:
        """The sample and the hash of its image, or None; and what was left out."""
        try:
            return self._check(candidate, f"{self.shard_name}/{candidate.key}")
        except _Rejected as rejected:
            return None, b"", list(rejected.problems)

    def _check(self, candidate: _Candidate, item: str) -> tuple[GoodSample, bytes, list[Problem]]:
        members = {member.extension: member for member in candidate.members}
        images = [member for member in candidate.members if member.extension in IMAGE_EXTENSIONS]
        if candidate.repeats:
            raise _Rejected(Problem("duplicate key", item, f"again at byte {candidate.members[0].offset:,}"))
        for member in candidate.members:
            if member.flaw:
                raise _Rejected(Problem(member.flaw, item, f".{member.extension}"))
        if len(images) != 1:
            extensions = ", ".join(f".{member.extension}" for member in candidate.members)
            raise _Rejected(Problem("several images" if images else "no image", item, extensions))
        captions, problems = self._captions(candidate.key, item, members)
        image, num_captions = images[0], len(captions) + len(problems)
        if image.size > MAX_FILE_BYTES:
            raise _Rejected(Problem("undecodable image", item, f"{image.size:,} bytes", num_captions))
        data = self._read(image)
        try:
            height, width, _ = decode_image(data).shape
        except ImageError as error:
            raise _Rejected(Problem("undecodable image", item, str(error), num_captions)) from error
        if problem := self.filters.image_problem(item, height, width):
            raise _Rejected(dataclasses.replace(problem, num_captions=num_captions))
        sample = GoodSample(
            key=candidate.key,
            image_offset=image.offset,
            image_size=image.size,
            image_crc32=zlib.crc32(data),
            height=height,
            width=width,
            is_plain_jpeg=bool(is_plain_jpeg(data)),
            captions=captions,
        )
        return sample, hashlib.sha256(data).digest(), problems

    def _captions(
        self, key: str, item: str, members: dict[str, Member]
    ) -> tuple[tuple[str, ...], list[Problem]]:
        text, metadata = members.get(TEXT), None
        if text is not None and text.size > MAX_TEXT_BYTES:
            raise _Rejected(Problem("caption too long", item, f"{text.size:,} bytes"))
        if METADATA in members and members[METADATA].size <= MAX_METADATA_BYTES:
            metadata = read_metadata(self._read(members[METADATA]))
        if METADATA in members and metadata is None and text is None:
            raise _Rejected(Problem("unreadable json", item))
        if self.filters.similarity_column is not None:
            similarity = (metadata or {}).get(self.filters.similarity_column)
            if similarity is None:
                similarity = self.similarities.of(key)
            if problem := self.filters.similarity_problem(item, similarity):
                raise _Rejected(problem)
        text = None if text is None else self._read(text)
        captions, problems = sample_captions(item, text, metadata, self.filters)
        if not captions:
            raise _Rejected(*problems)
        return captions, problems

    def _read(self, member: Member) -> bytes:
        self.file.seek(member.offset)
        return self.file.read(member.size)


class _Similarities:
    """The column of the table beside a shard, read when a sample's .json does not have it."""

    def __init__(self, shard: str | os.PathLike, filters: ShardFilters) -> None:
        self.table, self.column = Path(shard).with_suffix(".parquet"), filters.similarity_column
        self.values: dict[str, object] | None = None

    def of(self, key: str) -> object:
        """The value of a sample, or None."""
        if self.values is None:
            self.values = self._read() if self.table.is_file() else {}
        return self.values.get(key)

    def _read(self) -> dict[str, object]:
        import pandas as pd

        try:
            frame = pd.read_parquet(self.table)
        except ImportError as error:
            raise OSError(f"reading {self.table} needs a further package: pip install pyarrow") from error
        except Exception as error:  # damaged files make parquet readers raise nearly anything
            raise OSError(f"{self.table} cannot be read: {error}") from error
        if not {"key", self.column} <= set(frame.columns):
            return {}
        return dict(zip(frame["key"].astype(str), frame[self.column], strict=True))
