"""What could not be read while training: counted, named, and kept where a reader of the run looks."""

import logging
import threading
import time
from collections.abc import Callable

from trainers.records import Problem

log = logging.getLogger("captioner")

WRITE_EVERY_S = 30.0


class ReadProblems:
    """Collects samples that became unusable since their shard was indexed, each once. Several threads may add.

    Args:
        write: function. Called with all problems so far after the first one, then every half minute while there are new ones,
            and by `close`.
    """

    def __init__(self, write: Callable[[tuple[Problem, ...]], None]):
        self._write = write
        self._problems: dict[str, Problem] = {}
        self._lock = threading.Lock()
        self._written, self._written_at = 0, -WRITE_EVERY_S

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

    def close(self) -> None:
        """Writes what has not been written."""
        with self._lock:
            if self._written < len(self._problems):
                self._flush()
                log.warning("%d samples became unusable while training.", len(self._problems))

    def __iter__(self):
        with self._lock:
            return iter(tuple(self._problems.values()))

    def _flush(self) -> None:
        self._write(tuple(self._problems.values()))
        self._written, self._written_at = len(self._problems), time.monotonic()
