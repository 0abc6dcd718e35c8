"""Checkpoints: every variable of model and optimizer, and where the run is, in one HDF5 file."""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import keras
import numpy as np

from captioner.files import atomic_path


class CheckpointError(ValueError):
    """A checkpoint is damaged or belongs to another model."""


def save_checkpoint(
    path: str | os.PathLike, model: keras.Model, optimizer, state: dict, metrics: Sequence = ()
) -> None:
    """Writes model, optimizer and state in one step: the file is whole or it is the one before.

    Args:
        path: path of the `.h5` file.
        model: its variables include the random state of dropout.
        optimizer: a built Keras optimizer, or None.
        state: JSON values: epoch, best score and so on.
        metrics: Keras metrics whose averages go on from here.

    Raises:
        OSError: If the file cannot be written, such as on a full disk.
    """
    text = json.dumps(state)
    digest = _Digest(text)
    try:
        with atomic_path(path) as temporary:
            with h5py.File(temporary, "w") as file:
                file.attrs["state"] = text
                for group, variables in _groups(model, optimizer, metrics).items():
                    for i, variable in enumerate(variables):
                        name, value = f"{group}/{i:05d}", _value(variable)
                        file.create_dataset(name, data=value).attrs["path"] = variable.path
                        digest.add(name, variable.path, value)
                file.attrs["digest"] = digest.text()
            with temporary.open("rb+") as file:  # a power cut must not leave the new name on an empty file
                os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # HDF5 reports a full disk as either
        raise OSError(
            f"cannot write the checkpoint {path}: {error}. The one before is intact: make room, and go on with "
            "--resume."
        ) from error


def load_checkpoint(
    path: str | os.PathLike, model: keras.Model, optimizer=None, metrics: Sequence = ()
) -> dict:
    """Reads what `save_checkpoint` wrote into the same model and optimizer.

    Everything is checked before anything is assigned.

    Args:
        path: path of the `.h5` file.
        model: a model of the same architecture.
        optimizer: a built optimizer of the same settings, or None to leave it out.
        metrics: the same metrics, or none to leave them out.

    Returns:
        The state.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If the file is damaged, or its variables are not those of model and optimizer.
    """
    path = Path(path)
    with _whole_file(path) as file:
        state = json.loads(file.attrs["state"])
        values = [
            (variable, value)
            for group, variables in _groups(model, optimizer, metrics).items()
            for variable, value in _matched(file.get(group, {}), variables, group, path)
        ]
    for variable, value in values:
        variable.assign(value)
    return state


def read_state(path: str | os.PathLike) -> dict:
    """The state in a checkpoint, all of which is checked.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If the file is damaged.
    """
    with _whole_file(Path(path)) as file:
        return json.loads(file.attrs["state"])


@contextlib.contextmanager
def averaged_weights(optimizer) -> Iterator[None]:
    """Runs a block with the optimizer's moving average in place of the weights; without one, changes
    nothing."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    averages = optimizer._model_variables_moving_average if optimizer.use_ema else []
    pairs = [
        (variable, average)
        for variable, average in zip(optimizer._trainable_variables, averages, strict=False)
        if average is not None
    ]
    kept = [_value(variable) for variable, _ in pairs]
    try:
        for variable, average in pairs:
            variable.assign(average.value)
        yield
    finally:
        for (variable, _), value in zip(pairs, kept, strict=True):
            variable.assign(value)


class _Digest:
    """A checksum of a whole checkpoint: HDF5 by itself does not notice a changed byte."""

    def __init__(self, state: str) -> None:
        self.hash = hashlib.blake2b(state.encode(), digest_size=16)

    def add(self, name: str, variable_path: str, value: np.ndarray) -> None:
        self.hash.update(f"{name} {variable_path} {value.dtype} {value.shape}".encode())
        self.hash.update(np.ascontiguousarray(value).tobytes())

    def text(self) -> str:
        return self.hash.hexdigest()


@contextlib.contextmanager
def _whole_file(path: Path) -> Iterator[h5py.File]:
    """Opens a checkpoint that has its checksum, and explains what the block finds missing in it."""
    try:
        with h5py.File(path, "r") as file:
            try:
                _require_undamaged(file, path)
            except CheckpointError:
                raise
            except Exception as error:  # what HDF5 raises for a damaged file, is nearly anything
                raise CheckpointError(f"{path} is not a whole checkpoint: {error}") from error
            yield file
    except FileNotFoundError:
        raise
    except (OSError, RuntimeError, KeyError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is not a whole checkpoint: {error}") from error


def _require_undamaged(file: h5py.File, path: Path) -> None:
    digest = _Digest(file.attrs["state"])
    for group in ("model", "optimizer", "metrics"):
        for name, dataset in sorted(file.get(group, {}).items()):
            digest.add(f"{group}/{name}", dataset.attrs["path"], dataset[()])
    # Files from before there were checksums have none.
    if file.attrs.get("digest", digest.text()) != digest.text():
        raise CheckpointError(
            f"{path} is damaged: its content does not have the checksum that it was written with."
        )


def _matched(stored, variables, group: str, path: Path) -> Iterator[tuple]:
    """Each variable with its stored value, which must have its name and shape."""
    if len(stored) != len(variables):
        raise CheckpointError(
            f"{path} holds {len(stored)} variables of the {group}, which has {len(variables)}: it belongs to "
            "another run or other settings."
        )
    for i, variable in enumerate(variables):
        dataset = stored[f"{i:05d}"]
        found = dataset.attrs["path"]
        if dataset.shape != tuple(variable.shape) or _uncounted(found) != _uncounted(variable.path):
            raise CheckpointError(
                f"{path} holds {found} of shape {dataset.shape} where the {group} has {variable.path} of shape "
                f"{tuple(variable.shape)}: it belongs to another run or other settings."
            )
        yield variable, dataset[()]


def _uncounted(variable_path: str) -> str:
    """A variable's path without the counters that Keras adds (`dense_3`): they depend on what was built before."""
    return re.sub(r"_\d+(?=/|_|$)", "", variable_path)


def _groups(model, optimizer, metrics) -> dict:
    groups = {"model": model.variables}
    if optimizer is not None:
        groups["optimizer"] = optimizer.variables
    if metrics:
        groups["metrics"] = [variable for metric in metrics for variable in metric.variables]
    return groups


def _value(variable) -> np.ndarray:
    value = keras.ops.convert_to_numpy(variable.value)
    return value.astype("float32") if value.dtype.name == "bfloat16" else value  # HDF5 has no bfloat16
