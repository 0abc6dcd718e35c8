"""TensorFlow checkpoints (`checkpoint`, `*.index`, `*.data-*`), read variable by variable."""

import math
import os
import re
from pathlib import Path

import numpy as np

from captioner.weights.assign import WeightsError
from captioner.weights.checkpoint_folder import checkpoint_file
from captioner.weights.lazy_tensors import LazyTensors, first_line


def read_tensorflow_checkpoint(path: str | os.PathLike) -> "TensorFlowCheckpoint":
    """Opens a checkpoint that a TensorFlow 1 `Saver` or `tf.raw_ops.SaveV2` wrote.

    Args:
        path: folder of the checkpoint, or its prefix such as `124M/model.ckpt`.

    Returns:
        A lazy mapping from variable names to float arrays. Its `shapes` are known without reading.

    Raises:
        WeightsError: If the checkpoint is damaged or holds anything but floats.
    """
    path = Path(path)
    return TensorFlowCheckpoint(find_checkpoint_prefix(path) if path.is_dir() else path)


def find_checkpoint_prefix(folder: Path) -> Path:
    """The prefix of the newest checkpoint in a folder, by its file `checkpoint`, or of the only one.

    Raises:
        WeightsError: If there is none.
    """
    state = checkpoint_file(folder, "checkpoint")
    if state is not None and state.stat().st_size < 2**20:
        text = state.read_text(encoding="utf-8", errors="replace")
        if found := re.search(r'^model_checkpoint_path:\s*"([^"]*)"', text, re.MULTILINE):
            # The name of another machine's folder does not matter.
            return folder / Path(found.group(1)).name
    prefixes = sorted(folder.glob("*.index"))
    if len(prefixes) != 1:
        raise WeightsError(
            f"{folder} must hold a file `checkpoint` that names a checkpoint, or one *.index; it holds {len(prefixes)}."
        )
    return prefixes[0].with_suffix("")


class TensorFlowCheckpoint(LazyTensors):
    """The variables of one checkpoint, each read when it is asked for."""

    def __init__(self, prefix: Path):
        import tensorflow as tf  # here, because other formats do without

        self._prefix = prefix
        data_size = _data_size(prefix)
        try:
            self._reader = tf.train.load_checkpoint(str(prefix))
            shapes = self._reader.get_variable_to_shape_map()
            dtypes = self._reader.get_variable_to_dtype_map()
        except Exception as error:  # a damaged index raises nearly anything
            raise WeightsError(
                f"{prefix}: not a whole TensorFlow checkpoint ({first_line(error)})."
            ) from None
        super().__init__({name: tuple(shape) for name, shape in sorted(shapes.items())})
        needed = 0
        for name, shape in self.shapes.items():
            if not dtypes[name].is_floating:
                raise WeightsError(f"{prefix}: {name} is of dtype {dtypes[name].name}; weights are floats.")
            needed += math.prod(shape) * dtypes[name].size
        if needed > data_size:
            raise WeightsError(f"{prefix}: variables of {needed} bytes in data files of {data_size}.")

    def _read(self, name: str) -> np.ndarray:
        try:
            return self._reader.get_tensor(name)
        except Exception as error:
            raise WeightsError(f"{self._prefix}: {name} cannot be read ({first_line(error)}).") from None


def _data_size(prefix: Path) -> int:
    names = [path.name for path in prefix.parent.glob("*") if path.name.startswith(f"{prefix.name}.data-")]
    files = [checkpoint_file(prefix.parent, name) for name in names]
    if not files or checkpoint_file(prefix.parent, f"{prefix.name}.index") is None:
        raise WeightsError(
            f"{prefix}: a checkpoint is the files {prefix.name}.index and {prefix.name}.data-*."
        )
    return sum(file.stat().st_size for file in files if file is not None)
