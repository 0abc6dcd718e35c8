"""What could not be read while training: counted, named, and kept where a reader of the run looks."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from trainers.records import Problem

log = logging.getLogger("captioner")

WRITE_EVERY_S = 30.0
MAX_LOST_SHARDS, MAX_LOST_SAMPLES = 10, 100
"""So many shards of which nothing can be read, one after the other, are no accident: the store is gone, or a password. So are
all shards, where there are fewer, after so many samples."""


class UnreadableShardsError(OSError):
    """Nothing can be read any more."""


class ReadProblems:
    """Collects samples that became unusable since their shard was indexed, each once. Several threads may add.

    Args:
        write: function. Called with all problems so far after the first one, then every half minute while there are new ones,
            and by `close`.
        known: what was unusable before a break of the run.
    """

    def __init__(self, write: Callable[[tuple[Problem, ...]], None], known: Iterable[Problem] = ()):
        self._write = write
        self._problems: dict[str, Problem] = {problem.item: problem for problem in known}
        self._lost_in_a_row: Counter[int] = Counter()
        self._lock = threading.Lock()
        self._written, self._written_at = len(self._problems), -WRITE_EVERY_S

    def __len__(self) -> int:
        return len(self._problems)

    def add(self, problem: Problem) -> None:
        """Adds a problem, unless its item has one already."""
        with self._lock:
            if problem.item in self._problems:
                return
            if not self._problems:
                log.warning(
                    "A sample became unusable since its shard was indexed: %s: %s %s. Training goes on without it and others "
                    "like it; all are named in the data report.",
                    problem.item,
                    problem.reason,
                    problem.detail,
                )
            self._problems[problem.item] = problem
            if time.monotonic() - self._written_at > WRITE_EVERY_S:
                self._flush()

    def require_good(self, num_good: int, lost_shards: Iterable[int], num_in_shards: Sequence[int]) -> None:
        """Is told after each batch how many good samples it had, and which shard each of the others was of.

        Args:
            num_good: int. Samples that could be read.
            lost_shards: list of ints. The shard of each sample that could not.
            num_in_shards: list of ints. The samples of every shard.

        Raises:
            UnreadableShardsError: If shard after shard gave nothing.
        """
        with self._lock:
            if num_good:
                self._lost_in_a_row.clear()
                return
            self._lost_in_a_row.update(lost_shards)
            num_shards, num_samples = len(self._lost_in_a_row), self._lost_in_a_row.total()
            all_lost = num_shards >= sum(map(bool, num_in_shards))
            if num_shards >= MAX_LOST_SHARDS or (
                all_lost and num_samples >= min(MAX_LOST_SAMPLES, sum(num_in_shards))
            ):
                raise UnreadableShardsError(
                    f"{num_samples:,} samples of {num_shards:,} shards could not be read, one after the other, and no other "
                    "was read between them."
                )

    def close(self) -> None:
        """Writes what has not been written, and says how many there are."""
        with self._lock:
            if self._written < len(self._problems):
                self._flush()
            if self._problems:
                log.warning("%d samples became unusable while training.", len(self._problems))

    def __iter__(self):
        with self._lock:
            return iter(tuple(self._problems.values()))

    def _flush(self) -> None:
        self._write(tuple(self._problems.values()))
        self._written, self._written_at = len(self._problems), time.monotonic()
