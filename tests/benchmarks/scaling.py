"""Steps of a training in one process on one core, and in several, each on a core of its own: the efficiency of sharing.

Usage: python tests/benchmarks/scaling.py [--engine jax] [--processes 2] [--batch-size 8] [--steps 20] [--repetitions 3]

Each process has the same number of images, so that P processes show P times the images in a step. Engines: `jax` is the training
as it is, `fit` with keras.distribution; `tensorflow` is a loop of its own with MultiWorkerMirroredStrategy, which decision 012
compares it with; `tensorflow-fit` is Keras's `fit` with that strategy. Runs on processors. Times of the clock mean something on
an idle machine only; processor seconds do on a busy one, but do not see a process that waits. The last line is the largest
difference of a weight after all steps between P processes and one with all their images, without dropout.
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
ENGINES = ("jax", "tensorflow", "tensorflow-fit")
TOKENS = 20


def main() -> None:
    """Measures in turns and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=ENGINES, default="jax")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=8, help="images of a process in a step")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        index, count, weights, addresses = arguments.worker
        _work(arguments, int(index), int(count), Path(weights), addresses.split(","))
        return
    with tempfile.TemporaryDirectory() as folder:
        weights = {count: Path(folder) / f"{count}.npz" for count in (1, arguments.processes)}
        results = {1: [], arguments.processes: []}
        for _ in range(arguments.repetitions):
            for count, found in results.items():
                found.append(_measure(arguments, count, arguments.batch_size, weights[count]))
                print(f"{count} processes: {found[-1]}", file=sys.stderr)
        _measure(arguments, 1, arguments.batch_size * arguments.processes, weights[1])
        difference = _largest_difference(*weights.values())
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
    print(
        f"Largest difference of a weight from one process with all images, after {arguments.steps} steps: {difference:.1e}"
    )


def _measure(arguments, count: int, batch_size: int, weights: Path) -> dict:
    """Median seconds of a step, of the slowest process, and processor seconds of all; the first process writes its weights."""
    addresses = ",".join(f"localhost:{port}" for port in _free_ports(count))
    shared = ["--engine", arguments.engine, "--steps", str(arguments.steps), "--batch-size", str(batch_size)]
    environment = os.environ | {
        "KERAS_BACKEND": arguments.engine.partition("-")[0],
        "JAX_PLATFORMS": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": str(CHECKOUT),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, *shared, "--worker", str(index), str(count), str(weights), addresses],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]
    results = [process.communicate() for process in processes]
    for process, (_, errors) in zip(processes, results, strict=True):
        if process.returncode:
            raise SystemExit(f"{arguments.engine} in {count} processes failed:\n{errors[-2000:]}")
    answers = [json.loads(printed.splitlines()[-1]) for printed, _ in results]
    return {
        "clock": max(answer["clock"] for answer in answers),
        "processor": sum(answer["processor"] for answer in answers),
        "gradient_bytes": answers[0]["gradient_bytes"],
    }


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports


def _largest_difference(one: Path, other: Path) -> float:
    import numpy as np

    with np.load(one) as first, np.load(other) as second:
        return max(float(np.abs(first[name] - second[name]).max()) for name in first)


def _work(arguments, index: int, count: int, weights: Path, addresses: list[str]) -> None:
    """One process: trains on a batch in memory, and prints what its steps took."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[index]})
    import numpy as np

    from trainers.settings import TrainSettings

    settings = TrainSettings(
        run_dir=weights.parent,
        image_encoder_weights="none",
        dropout=0.0,
        batch_size=arguments.batch_size * count,
        num_processes=count,
        process_index=index,
        coordinator=addresses[0],
    )
    engines = {
        "jax": _train_by_jax,
        "tensorflow": _train_by_strategy,
        "tensorflow-fit": _train_by_strategy_and_fit,
    }
    ends, variables = engines[arguments.engine](settings, arguments.steps, index, addresses)
    steps = np.diff(ends[1:], axis=0)  # the first two compile
    if index == 0:
        np.savez(weights, *variables)
    print(
        json.dumps(
            {
                "clock": float(np.median(steps[:, 0])),
                "processor": float(np.mean(steps[:, 1])),
                "gradient_bytes": sum(variable.nbytes for variable in variables),
            }
        )
    )


def _train_by_jax(settings, num_steps: int, index: int, addresses) -> tuple[list, list]:
    """As `captioner train` does it."""
    from trainers.loop import compiled_model
    from trainers.workers import joined_workers

    with joined_workers(settings) as workers:
        captioner = _captioner(settings)
        model = compiled_model(settings, captioner, 1000, devices=workers.devices)
        return _fit(model, _batch(settings, captioner, index), num_steps, workers.wait_for_all)


def _train_by_strategy(settings, num_steps: int, index: int, addresses) -> tuple[list, list]:
    """A loop of its own: loss by the tokens of all processes, gradients added before the update."""
    import keras
    import tensorflow as tf

    from trainers.loop import training_model
    from trainers.optimization import CaptionLoss

    strategy = _strategy(settings, index, addresses)
    with strategy.scope():
        captioner = _captioner(settings)
        model = training_model(captioner, None)
        optimizer = keras.optimizers.AdamW(settings.learning_rate)
        optimizer.build(model.trainable_variables)
        loss = CaptionLoss(settings.label_smoothing, reduction="sum")
    x, targets, sample_weight = tf.nest.map_structure(tf.constant, _batch(settings, captioner, index))
    sample_weight /= float(settings.batch_size * settings.captions_per_image * TOKENS)

    def replica_step():
        with tf.GradientTape() as tape:
            value = loss(targets, model(x, training=True), sample_weight)
        gradients = tape.gradient(value, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return value

    step, ends = tf.function(lambda: strategy.run(replica_step)), []
    for _ in range(num_steps + 2):
        float(step())
        ends.append((time.perf_counter(), time.process_time()))
    return ends, [keras.ops.convert_to_numpy(variable) for variable in model.trainable_variables]


def _train_by_strategy_and_fit(settings, num_steps: int, index: int, addresses) -> tuple[list, list]:
    """Keras's `fit` in the strategy's scope."""
    import keras

    from trainers.loop import training_model
    from trainers.optimization import CaptionLoss

    with _strategy(settings, index, addresses).scope():
        captioner = _captioner(settings)
        model = training_model(captioner, None)
        model.compile(keras.optimizers.AdamW(settings.learning_rate), CaptionLoss(settings.label_smoothing))
    return _fit(model, _batch(settings, captioner, index), num_steps)


def _strategy(settings, index: int, addresses: list[str]):
    import tensorflow as tf

    if settings.num_processes == 1:
        return tf.distribute.get_strategy()
    cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    os.environ["TF_CONFIG"] = json.dumps(cluster)
    return tf.distribute.MultiWorkerMirroredStrategy()


def _captioner(settings):
    import keras

    from trainers.build import build_captioner

    keras.utils.set_random_seed(0)
    return build_captioner(settings, [f"a photo of {number} dogs" for number in range(2000)])


def _batch(settings, captioner, index: int) -> tuple:
    """This process's images of the step, of which each is another."""
    import numpy as np

    num_images = settings.batch_size // settings.num_processes
    images = [
        np.random.default_rng(index * num_images + number).random(
            (*captioner.backbone.image_size, 3), "float32"
        )
        for number in range(num_images)
    ]
    shape = (num_images, settings.captions_per_image, TOKENS)
    x = {
        "images": np.stack(images),
        "token_ids": np.ones(shape, "int32"),
        "padding_mask": np.ones(shape, bool),
    }
    return x, np.ones(shape, "int32"), np.ones(shape, "float32")


def _fit(model, batch, num_steps: int, wait=lambda place: None) -> tuple[list, list]:
    import keras
    import tensorflow as tf

    class Times(keras.callbacks.Callback):
        """Both clocks at the end of each step."""

        def __init__(self):
            super().__init__()
            self.ends = []

        def on_train_batch_end(self, batch, logs=None):
            float(logs["loss"])
            self.ends.append((time.perf_counter(), time.process_time()))

    times = Times()
    batches = tf.data.Dataset.from_tensors(batch).repeat(num_steps + 2)
    model.fit(batches, verbose=0, callbacks=[times])
    variables = [keras.ops.convert_to_numpy(variable) for variable in model.trainable_variables]
    wait("the end")
    return times.ends, variables


if __name__ == "__main__":
    main()
