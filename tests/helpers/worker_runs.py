"""Training runs in processes of their own, with as many devices and on such a backend as a test asks for."""

import contextlib
import dataclasses
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import keras
import pytest
import tensorflow as tf

from trainers.callbacks import Progress

CHECKOUT = Path(__file__).parents[2]
SECONDS = 900
"""The most that a run may take, on a busy machine."""

SCRIPT = """
import dataclasses, json, signal, sys

name, path, num_devices, changes = sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4])
import keras

if keras.config.backend() == "tensorflow":
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * num_devices
    )
from tools.run_config import NOT_FROM_A_FILE, settings_from_config, trainer_named
from worker_runs import batches_of_processes, killed_after, told

settings, train = trainer_named(name)
values = json.load(open(path))
with batches_of_processes(changes.get("processes", 0)), killed_after(changes.get("steps"), changes.get("signal", signal.SIGKILL)):
    settings = settings_from_config(settings, values, path)
    settings = dataclasses.replace(settings, **{name: values[name] for name in NOT_FROM_A_FILE if name != "resume"})
    if changes.get("ray"):
        from trainers.ray_workers import train_with_ray
        from worker_runs import train_and_be_killed_once

        train_with_ray(train_and_be_killed_once, settings, num_workers=2, max_failures=1)
    else:
        with told(settings):
            train(dataclasses.replace(settings, resume=values["resume"]))
"""


@contextlib.contextmanager
def batches_of_processes(count):
    """One process trains on the batches that so many would have together."""
    from trainers import webdataset_trainer

    share_of = webdataset_trainer.training_batches

    def joined(plan, reader, decode, *, batch_size, **rest):
        rest["fill_batches"] = True
        shares = [
            share_of(
                dataclasses.replace(plan, process_index=index, num_processes=count),
                reader,
                decode,
                batch_size=batch_size // count,
                **rest,
            )
            for index in range(count)
        ]
        return tf.data.Dataset.zip(*shares).map(
            lambda *batches: tf.nest.map_structure(lambda *arrays: tf.concat(arrays, 0), *batches)
        )

    with pytest.MonkeyPatch.context() as patch:
        if count:
            patch.setattr(webdataset_trainer, "training_batches", joined)
        yield


@contextlib.contextmanager
def killed_after(num_steps, by=signal.SIGKILL):
    """The process sends itself a signal after so many steps."""
    step_end = Progress.on_train_batch_end

    def end(self, batch, logs=None):
        step_end(self, batch, logs)
        self.num_steps = getattr(self, "num_steps", 0) + 1
        if self.num_steps == num_steps:
            os.kill(os.getpid(), by)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Progress, "on_train_batch_end", end)
        yield


@contextlib.contextmanager
def told(settings):
    """Writes what `read_told` reads, beside the run folder: what the process has trained at the end, and which paths of the run
    folder it made, changed or removed."""
    result, paths = {}, set()
    run_dir = os.path.abspath(settings.run_dir)

    def note(event, arguments):
        if event == "open":
            path, _, flags = arguments
            changed = [path] if flags & (os.O_WRONLY | os.O_RDWR) else []
        else:  # HDF5 opens files unseen, but under names that are renamed after
            changed = {"os.rename": arguments[:2], "os.remove": arguments[:1], "os.mkdir": arguments[:1]}.get(
                event, ()
            )
        for path in changed:
            if not isinstance(path, int) and os.path.abspath(os.fsdecode(path)).startswith(run_dir + os.sep):
                paths.add(os.path.relpath(os.fsdecode(path), run_dir))

    def end(self, logs=None):
        # Before the best weights are read from the file of the first process.
        digest = hashlib.sha256()
        for variable in (*self.model.weights, *self.model.optimizer.variables):
            digest.update(keras.ops.convert_to_numpy(variable).tobytes())
        result["weights"] = digest.hexdigest()

    sys.addaudithook(note)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Progress, "on_train_end", end)
        yield
    _told_path(settings, settings.process_index).write_text(
        json.dumps(result | {"changed": sorted(paths)}), encoding="utf-8"
    )


def read_told(settings, process_index) -> dict:
    """What a process that ended well has told: `weights`, a digest of weights and optimizer, and `changed`, paths in the run
    folder."""
    return json.loads(_told_path(settings, process_index).read_text(encoding="utf-8"))


def _told_path(settings, process_index) -> Path:
    return settings.run_dir.parent / f"{settings.run_dir.name}-{process_index}-told.json"


def train_and_be_killed_once(settings):
    """Trains from shards; the second process is killed in the middle, the first time."""
    from trainers.webdataset_trainer import train_webdataset

    mark = settings.run_dir.parent / "killed"
    first_time = settings.process_index == 1 and not mark.exists()
    if first_time:
        mark.touch()
    with killed_after(5 if first_time else None):
        train_webdataset(settings)


def start_run(settings, *, backend="tensorflow", num_devices=1, **changes):
    """Starts a training on virtual processors, beside its run folder; `finish_run` waits for it. Changes: `processes`,
    `steps`, `signal`, `ray`, see above."""
    trainer = "csv" if hasattr(settings, "csv") else "webdataset"
    words = ["-c", SCRIPT, trainer, str(_written(settings)), str(num_devices), json.dumps(changes)]
    return _start(words, settings, backend, num_devices)


def start_commands(settings, num_processes):
    """Starts `captioner train webdataset --resume` in several processes, their places in the environment as torchrun does it."""
    port = str(free_port())
    return [
        _start(
            ["-m", "tools.main", "train", "webdataset", "--config", str(_written(settings)), "--resume"],
            settings,
            "jax",
            WORLD_SIZE=str(num_processes),
            RANK=str(index),
            MASTER_ADDR="localhost",
            MASTER_PORT=port,
        )
        for index in range(num_processes)
    ]


def _written(settings) -> Path:
    """The settings as a file beside the run folder."""
    path = settings.run_dir.parent / f"{settings.run_dir.name}-{settings.process_index}.json"
    path.write_text(json.dumps(settings.to_dict()), encoding="utf-8")
    return path


def _start(words, settings, backend, num_devices=1, **environment):
    environment = os.environ | {
        "KERAS_BACKEND": backend,
        "CUDA_VISIBLE_DEVICES": "",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={num_devices}",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": os.pathsep.join([str(CHECKOUT), str(CHECKOUT / "tests" / "helpers")]),
        **environment,
    }
    return subprocess.Popen(
        [sys.executable, *words],
        env=environment,
        cwd=settings.run_dir.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish_run(process):
    """Waits for a training and fails with what it said if it failed."""
    said, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, said[-4000:]
    return said


def start_processes(settings, num_processes, killed=None, steps=None, by=signal.SIGKILL):
    """Starts a training of several processes, of which one is sent a signal after some steps."""
    address = f"localhost:{free_port()}"
    return [
        start_run(
            dataclasses.replace(
                settings, num_processes=num_processes, process_index=index, coordinator=address
            ),
            backend="jax",
            steps=steps if index == killed else None,
            signal=by,
        )
        for index in range(num_processes)
    ]


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]
