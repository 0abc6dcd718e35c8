"""Shows what becomes of every kind of damaged, hostile and unusual shard, in the index and in both engines.

Usage: python tests/benchmarks/bad_shards_table.py [FILE.md]

Each kind is written among 64 good samples and trained on for one epoch, in batches of 32. The engine of DALI is left out where
it is not installed. Exit code 1 if a kind does not come out as its generator says.
"""

import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path += [str(Path(__file__).parents[1] / "helpers"), str(Path(__file__).parents[2])]

from bad_shards import all_kinds, write_kind
from shards import augmented_epoch
from tqdm import tqdm

from trainers.shards import dali_decode
from trainers.shards.build_index import build_indexes

NUM_GOOD, BATCH_SIZE = 64, 32


def main(path: str | None = None) -> int:
    """Prints the table, or writes it; returns the exit code."""
    engines = ["tf", *(["dali"] if dali_decode.is_available() else [])]
    lines = [
        f"| kind | good | rejected: reason | {' | '.join(f'trained on, {engine}' for engine in engines)} |",
        "| --- | --- | --- |" + " --- |" * len(engines),
    ]
    num_wrong = 0
    kinds = all_kinds()
    with tempfile.TemporaryDirectory() as folder:
        for number, kind in enumerate(tqdm(kinds, unit="kind")):
            shard = Path(folder) / f"{number:05d}.tar"
            expected = write_kind(kind, shard, num_good=NUM_GOOD)
            report = build_indexes([str(shard)], num_processes=1, progress=False)
            found = {problem.item: problem.reason for _, problem in report.problems()}
            shown = [_num_shown(str(shard), engine) if expected.good else 0 for engine in engines]
            num_wrong += found != expected.rejected or any(count != len(expected.good) for count in shown)
            reasons = "; ".join(f"{count}: {reason}" for reason, count in Counter(found.values()).items())
            cells = [kind.name, len(expected.good), reasons, *shown]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    table = "\n".join(lines) + "\n"
    summary = f"{len(kinds)} kinds, {num_wrong} that did not come out as they should.\n"
    if path is None:
        sys.stdout.write(table + summary)
    else:
        Path(path).write_text(table, encoding="utf-8")
        sys.stdout.write(summary)
    return 1 if num_wrong else 0


def _num_shown(shard: str, engine: str) -> int:
    """Samples that one epoch shows."""
    _, dataset = augmented_epoch([shard], engine, BATCH_SIZE)
    return sum(int(weight.any((1, 2)).sum()) for _, _, weight in dataset.as_numpy_iterator())


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
