"""What the indexes of many shards come down to, counted by reason and with every rejected sample named."""

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterator

from captioner.files import atomic_path
from trainers.records import Problem
from trainers.shards.index import IndexSummary, read_summary
from trainers.shards.paths import shown

NO_INDEX, OUTDATED_INDEX, DAMAGED_INDEX = "no index", "outdated index", "damaged index"
UNREADABLE, NOT_FETCHED = "unreadable shard", "shard not fetched"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardStatus:
    """What a shard holds, by its index; the names of rejected samples stay in the index."""

    shard: str
    """Path of the tar, or its address without what is secret in it."""
    index: str = ""
    """Path of its index; empty if there is none."""
    num_bytes: int = 0
    """Length of the tar; 0 if it is not known."""
    note: str = ""
    """What was done with it, in words."""
    num_read: int = 0
    """Samples in it, the rejected ones included."""
    num_samples: int = 0
    """Good samples."""
    num_captions: int = 0
    """Their captions."""
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    """What was left out, by reason."""
    problem: Problem | None = None
    """Why there is no index to go by."""


def status_of(shard: str, index: str | os.PathLike, summary: IndexSummary, note: str = "") -> ShardStatus:
    """The status of a shard that has an index."""
    return ShardStatus(
        shard=shown(shard),
        index=os.fspath(index),
        num_bytes=summary.shard_bytes,
        note=note,
        num_read=summary.num_read,
        num_samples=summary.num_samples,
        num_captions=summary.num_captions,
        counts=dict(Counter(problem.reason for problem in summary.problems)),
    )


def unusable(
    shard: str, reason: str, detail: str, index: str | os.PathLike = "", num_bytes: int = 0
) -> ShardStatus:
    """The status of a shard that has no index to go by."""
    problem = Problem(reason, os.path.basename(shown(shard)), detail)
    return ShardStatus(
        shard=shown(shard),
        index=os.fspath(index),
        num_bytes=num_bytes,
        note=": ".join(filter(None, (reason, detail))),
        counts={reason: 1},
        problem=problem,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardsReport:
    """The statuses of all shards."""

    statuses: tuple[ShardStatus, ...]
    """One for each shard, in their order."""

    @property
    def num_read(self) -> int:
        """Samples in all shards, the rejected ones included."""
        return sum(status.num_read for status in self.statuses)

    @property
    def num_samples(self) -> int:
        """Good samples of all shards."""
        return sum(status.num_samples for status in self.statuses)

    @property
    def num_captions(self) -> int:
        """Captions of the good samples."""
        return sum(status.num_captions for status in self.statuses)

    @property
    def counts(self) -> dict[str, int]:
        """What was left out by reason, the most frequent first."""
        total: Counter[str] = Counter()
        for status in self.statuses:
            total.update(status.counts)
        return dict(total.most_common())

    def problems(self) -> Iterator[tuple[str, Problem]]:
        """Everything that was left out with its shard; read from the indexes, shard by shard."""
        for status in self.statuses:
            for problem in _problems(status):
                yield status.shard, problem


def write_report(path: str | os.PathLike, report: ShardsReport) -> None:
    """Writes a report as JSON, shard by shard: cc12m's would not fit in memory.

    Raises:
        OSError: If the file cannot be written.
    """
    totals = {
        "num_shards": len(report.statuses),
        "num_read": report.num_read,
        "num_samples": report.num_samples,
        "num_captions": report.num_captions,
        "counts": report.counts,
    }
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps(totals, indent=1).removesuffix("\n}") + ',\n "shards": [')
        for number, status in enumerate(report.statuses):
            entry = dataclasses.asdict(status)
            entry["problems"] = [dataclasses.asdict(problem) for problem in _problems(status)]
            del entry["problem"]
            file.write(("," if number else "") + "\n  " + json.dumps(entry))
        file.write("\n ]\n}\n")


def _problems(status: ShardStatus) -> tuple[Problem, ...]:
    if status.problem is not None:
        return (status.problem,)
    return read_summary(status.index).problems if status.counts else ()
