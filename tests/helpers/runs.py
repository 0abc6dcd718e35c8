"""Training runs that are killed, read and compared."""

import contextlib
import json

import h5py
import numpy as np
import pytest

from trainers.callbacks import Progress
from trainers.run_folder import RunFolder

RANDOMNESS = {
    "dropout": 0.2,
    "ema_momentum": 0.9,
    "horizontal_flip": True,
    "min_crop_area": 0.5,
    "color_jitter": 0.2,
}
"""Settings of all that a run draws, and that a resumed one must draw alike."""


@contextlib.contextmanager
def killed_in_epoch(number):
    """Stops the training of the block, as Ctrl-C does, in the middle of that epoch."""
    step_end = Progress.on_train_batch_end

    def stop(self, batch, logs=None):
        step_end(self, batch, logs)
        if (self.epoch, batch) == (number - 1, 1):
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Progress, "on_train_batch_end", stop)
        yield


@contextlib.contextmanager
def unchanged(folder):
    """Requires that the block leaves every file of the folder as it was, to the byte."""

    def content():
        return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    before = content()
    yield
    assert content() == before


def last_checkpoint(folder):
    return RunFolder(folder).checkpoints[0]


def read_checkpoint(path):
    with h5py.File(path) as file:
        values = {f"{group}/{name}": file[group][name][()] for group in file for name in file[group]}
        return values, json.loads(file.attrs["state"])


def read_metrics(folder):
    """Metrics of each epoch without its times, which no two runs share."""
    timed = ("train_seconds", "captions_per_second")
    return [{k: v for k, v in line.items() if k not in timed} for line in RunFolder(folder).read_metrics()]


def assert_same_run(folder, expected):
    assert read_metrics(folder) == read_metrics(expected)
    for path in (last_checkpoint(expected), RunFolder(expected).best_checkpoint):
        values, state = read_checkpoint(folder / "checkpoints" / path.name)
        expected_values, expected_state = read_checkpoint(path)
        assert state == expected_state
        assert values.keys() == expected_values.keys()
        for key, value in values.items():
            np.testing.assert_array_equal(value, expected_values[key], err_msg=key)
