"""Leaves out images that an earlier shard, or the same one, has already."""

import dataclasses
import hashlib

import numpy as np

from trainers.records import Problem
from trainers.shards.check import CheckedShard


class SeenImages:
    """The images of all shards so far, by the first 64 bits of their SHA-256.

    Twelve million images take 0.1 GB; two different ones are then taken for equal with a probability of 4e-6.
    """

    def __init__(self) -> None:
        self._sorted = np.zeros(0, "uint64")
        self._history = hashlib.sha256()

    @property
    def history(self) -> str:
        """Stands for all that was added so far, in its order."""
        return self._history.hexdigest()

    def add(self, image_sha256: np.ndarray) -> None:
        """Adds images that are not among them, uint8 `(N, 32)`."""
        self._history.update(image_sha256.tobytes())
        short = np.sort(_first_bits(image_sha256))
        self._sorted = np.insert(self._sorted, np.searchsorted(self._sorted, short), short)

    def without_seen(self, checked: CheckedShard, shard_name: str) -> CheckedShard:
        """The shard without the images that were seen before or come twice in it."""
        short = _first_bits(as_array(checked.image_sha256))
        is_kept = np.zeros(len(short), bool)
        is_kept[np.unique(short, return_index=True)[1]] = True
        is_kept &= ~np.isin(short, self._sorted)
        samples = tuple(checked.samples[row] for row in np.flatnonzero(is_kept))
        repeated = [checked.samples[row] for row in np.flatnonzero(~is_kept)]
        problems = [
            Problem("duplicate image", f"{shard_name}/{sample.key}", "", len(sample.captions))
            for sample in repeated
        ]
        summary = dataclasses.replace(
            checked.summary,
            num_samples=len(samples),
            num_captions=sum(len(sample.captions) for sample in samples),
            problems=(*checked.summary.problems, *problems),
        )
        digests = tuple(checked.image_sha256[row] for row in np.flatnonzero(is_kept))
        return CheckedShard(samples=samples, image_sha256=digests, summary=summary)


def as_array(image_sha256: tuple[bytes, ...]) -> np.ndarray:
    """Hashes as uint8 `(N, 32)`."""
    return np.frombuffer(b"".join(image_sha256), "uint8").reshape(-1, 32)


def _first_bits(image_sha256: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image_sha256[:, :8]).view("uint64")[:, 0]
