"""Steps of a training in one process on one core, and in several, each on a core of its own: the efficiency of sharing.

Usage: python tests/benchmarks/scaling.py [--processes 2] [--batch-size 8] [--steps 20] [--repetitions 3]

Each process has the same batch, so that P processes show P times the images in a step. Needs jax; runs on processors. Times of
the clock mean something on an idle machine only; processor seconds do on a busy one, but do not see a process that waits.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]


def main() -> None:
    """Measures in turns and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=8, help="images of a process in a step")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        _work(arguments, *map(int, arguments.worker))
        return
    results = {1: [], arguments.processes: []}
    for _ in range(arguments.repetitions):
        for count, found in results.items():
            found.append(_measure(arguments, count))
            print(f"{count} processes: {found[-1]}", file=sys.stderr)
    print(
        "| processes | images of a step | s of a step | processor s, all | efficiency by the clock | by processor s |"
    )
    print("|---|---|---|---|---|---|")
    medians = {
        count: {name: statistics.median(run[name] for run in found) for name in found[0]}
        for count, found in results.items()
    }
    one = medians[1]
    for count, run in medians.items():
        clock, processor = one["clock"] / run["clock"], one["processor"] * count / run["processor"]
        print(
            f"| {count} | {count * arguments.batch_size} | {run['clock']:.3f} | {run['processor']:.3f} "
            f"| {clock:.2f} | {processor:.2f} |"
        )
    print(f"\nGradient: {one['gradient_bytes'] / 1e6:.1f} MB")


def _measure(arguments, count: int) -> dict:
    """Median seconds of a step, of the slowest process, and processor seconds of all."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = ["--batch-size", str(arguments.batch_size), "--steps", str(arguments.steps)]
    environment = os.environ | {
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(CHECKOUT),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, *shared, "--worker", str(index), str(count), str(port)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for index in range(count)
    ]
    answers = [json.loads(process.communicate()[0].splitlines()[-1]) for process in processes]
    return {
        "clock": max(answer["clock"] for answer in answers),
        "processor": sum(answer["processor"] for answer in answers),
        "gradient_bytes": answers[0]["gradient_bytes"],
    }


def _work(arguments, index: int, count: int, port: int) -> None:
    """One process: trains on a batch in memory, and prints what its steps took."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[index]})
    import keras
    import numpy as np
    import tensorflow as tf

    from trainers.build import build_captioner
    from trainers.loop import compiled_model
    from trainers.settings import TrainSettings
    from trainers.workers import joined_workers

    class Times(keras.callbacks.Callback):
        """Both clocks at the end of each step."""

        def __init__(self):
            super().__init__()
            self.ends = []

        def on_train_batch_end(self, batch, logs=None):
            float(logs["loss"])
            self.ends.append((time.perf_counter(), time.process_time()))

    with tempfile.TemporaryDirectory() as folder:
        settings = TrainSettings(
            run_dir=folder,
            image_encoder_weights="none",
            batch_size=arguments.batch_size * count,
            num_processes=count,
            process_index=index,
            coordinator=f"localhost:{port}",
        )
        with joined_workers(settings) as workers:
            captioner = build_captioner(settings, [f"a photo of {number} dogs" for number in range(2000)])
            model = compiled_model(settings, captioner, 1000, devices=workers.devices)
            shape = (arguments.batch_size, settings.captions_per_image, 20)
            generator = np.random.default_rng(index)
            x = {
                "images": generator.random(
                    (arguments.batch_size, *captioner.backbone.image_size, 3), "float32"
                ),
                "token_ids": np.ones(shape, "int32"),
                "padding_mask": np.ones(shape, bool),
            }
            batch = (x, np.ones(shape, "int32"), np.ones(shape, "float32"))
            times = Times()
            batches = tf.data.Dataset.from_tensors(batch).repeat(arguments.steps + 2)
            model.fit(batches, verbose=0, callbacks=[times])
            steps = np.diff(times.ends[1:], axis=0)  # the first two compile
            size = sum(4 * int(np.prod(variable.shape)) for variable in model.trainable_variables)
            workers.wait_for_all("the end")
    clock, processor = np.median(steps[:, 0]), np.mean(steps[:, 1])
    print(json.dumps({"clock": float(clock), "processor": float(processor), "gradient_bytes": size}))


if __name__ == "__main__":
    main()
