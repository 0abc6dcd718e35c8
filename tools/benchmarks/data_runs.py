"""Measures what is not the speed of a reader: memory over epochs, the first batch of many shards, indexing."""

import functools
import time
from collections.abc import Callable
from pathlib import Path

from tools.benchmarks.data_ours import count_images, shard_batches, tokenizer
from tools.benchmarks.worker import serve

MAX_EPOCHS = 1000
"""No run measures so many."""


def start(configuration: dict) -> tuple[dict, Callable[[], dict]]:
    """Builds what `what` of the configuration names: memory, first_batch or indexing."""
    from tools.quiet import import_tensorflow

    import_tensorflow()
    import tensorflow as tf

    tf.constant(0)  # starts TensorFlow
    build = {"memory": _memory, "first_batch": _first_batch, "indexing": _indexing}[configuration["what"]]
    return {"versions": {"tensorflow": tf.__version__}}, build(configuration)


def _memory(configuration: dict) -> Callable[[], dict]:
    """Each measurement is one epoch of the same long run."""
    batches = iter(shard_batches(configuration, _transform(configuration))(MAX_EPOCHS))

    def measure() -> dict:
        seen = 0
        while seen < configuration["num_images"]:
            seen += count_images([next(batches)])
        return {"memory_mb": memory_mb()}

    return measure


def _first_batch(configuration: dict) -> Callable[[], dict]:
    """From the names of the shards to the first batch of this process; later it would find everything prepared."""
    from trainers.shards.engines import find_engine

    find_engine(configuration["part"])  # imports
    tokenizer()

    @functools.cache
    def measure() -> dict:
        started, cpu_started = time.perf_counter(), time.process_time()
        next(iter(shard_batches(configuration, _transform(configuration))(1)))
        return {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu_started}

    return measure


def _indexing(configuration: dict) -> Callable[[], dict]:
    """CPU seconds of a sample, for each case."""
    from trainers.shards.check import check_shard
    from trainers.shards.filters import ShardFilters

    def seconds_per_sample(shards: list[str]) -> float:
        started = time.process_time()
        num_samples = sum(check_shard(shard, ShardFilters()).summary.num_read for shard in shards)
        return (time.process_time() - started) / num_samples

    return lambda: {name: seconds_per_sample(case["shards"]) for name, case in configuration["cases"].items()}


def memory_mb() -> float:
    """Memory that this process holds now, in MB of 10^6 bytes.

    Raises:
        OSError: Where the system does not say it in /proc.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError("/proc/self/status says nothing of resident memory.")


def _transform(configuration: dict):
    from captioner.images import ImageTransform

    return ImageTransform(image_size=(configuration["side"],) * 2)


if __name__ == "__main__":
    serve(start)
