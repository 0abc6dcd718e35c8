"""Checkpoints: every variable of model and optimizer, and where the run is, in one HDF5 file."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import h5py
import keras
import numpy as np

from captioner.files import atomic_path


class CheckpointError(ValueError):
    """A checkpoint is damaged or belongs to another model."""


def save_checkpoint(path: str | os.PathLike, model: keras.Model, optimizer, state: dict) -> None:
    """Writes model, optimizer and state in one step: the file is whole or it is the one before.

    Args:
        path: path of the `.h5` file.
        model: its variables include the random state of dropout.
        optimizer: a built Keras optimizer, or None.
        state: JSON values: epoch, best score and so on.
    """
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["state"] = json.dumps(state)
        for group, variables in _groups(model, optimizer).items():
            for i, variable in enumerate(variables):
                dataset = file.create_dataset(f"{group}/{i:05d}", data=_value(variable))
                dataset.attrs["path"] = variable.path


def load_checkpoint(path: str | os.PathLike, model: keras.Model, optimizer=None) -> dict:
    """Reads what `save_checkpoint` wrote into the same model and optimizer.

    Everything is checked before anything is assigned.

    Args:
        path: path of the `.h5` file.
        model: a model of the same architecture.
        optimizer: a built optimizer of the same settings, or None to leave it out.

    Returns:
        The state.

    Raises:
        CheckpointError: If the file is damaged, or its variables are not those of model and optimizer.
    """
    path = Path(path)
    try:
        with h5py.File(path, "r") as file:
            state = json.loads(file.attrs["state"])
            values = []
            for group, variables in _groups(model, optimizer).items():
                stored = file.get(group, {})
                if len(stored) != len(variables):
                    raise CheckpointError(
                        f"{path} holds {len(stored)} variables of the {group}, which has {len(variables)}: it belongs to "
                        "another run or other settings."
                    )
                for i, variable in enumerate(variables):
                    dataset = stored[f"{i:05d}"]
                    if dataset.shape != tuple(variable.shape):
                        raise CheckpointError(
                            f"{path}: {dataset.attrs['path']} has shape {dataset.shape}, but {variable.path} of the "
                            f"{group} has {tuple(variable.shape)}: it belongs to other settings."
                        )
                    values.append((variable, dataset[()]))
    except (OSError, KeyError, json.JSONDecodeError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise CheckpointError(f"{path} is not a whole checkpoint: {error}") from error
    for variable, value in values:
        variable.assign(value)
    return state


@contextlib.contextmanager
def averaged_weights(model: keras.Model, optimizer) -> Iterator[None]:
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
    for variable, average in pairs:
        variable.assign(average.value)
    try:
        yield
    finally:
        for (variable, _), value in zip(pairs, kept, strict=True):
            variable.assign(value)


def _groups(model, optimizer) -> dict:
    groups = {"model": model.variables}
    return groups if optimizer is None else groups | {"optimizer": optimizer.variables}


def _value(variable) -> np.ndarray:
    return keras.ops.convert_to_numpy(variable.value)
