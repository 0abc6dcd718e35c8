"""Safetensors files, read tensor by tensor and written the same way.

A file is the length of a JSON header (8 bytes, little-endian), the header, and the tensors' bytes without a
gap (https://github.com/huggingface/safetensors#format). The package `safetensors` reads it; its writer wants all
tensors in memory at once, so ours is here.
"""

import json
import math
import os
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

import ml_dtypes  # noqa: F401  gives NumPy the bfloat16 that `safetensors` asks for
import numpy as np
from safetensors import SafetensorError, safe_open

from captioner.weights.assign import WeightsError
from captioner.weights.checkpoint_folder import checkpoint_file, read_json
from captioner.weights.lazy_tensors import LazyTensors, first_line

_FLOATS = ("F64", "F32", "F16", "BF16")
_MAX_DIMENSIONS = 16


def read_safetensors(path: str | os.PathLike) -> "SafetensorsFile":
    """Opens one safetensors file.

    Args:
        path: path of the file.

    Returns:
        A lazy mapping from tensor names to float arrays; each access reads that tensor from the file.
        bfloat16 tensors come as float32. Its `shapes` are known without reading.

    Raises:
        WeightsError: If the file is damaged: sizes are checked against the file before memory is taken.
        OSError: If the file cannot be opened.
    """
    return SafetensorsFile(Path(path))


def read_sharded_safetensors(index: str | os.PathLike) -> "ShardedSafetensors":
    """Opens the shards that a `model.safetensors.index.json` lists; see `read_safetensors`."""
    return ShardedSafetensors(Path(index))


def write_safetensors(
    path: str | os.PathLike, tensors: Iterable[tuple[str, tuple[int, ...], Callable[[], np.ndarray]]]
) -> None:
    """Writes float32 tensors, holding one of them in memory at a time.

    Args:
        path: path of the new file.
        tensors: rows of name, shape and a function that gives the array.

    Raises:
        OSError: If the file cannot be written.
    """
    tensors, end = list(tensors), 0
    header = {"__metadata__": {"format": "pt"}}  # transformers refuses a file that does not say so
    for name, shape, _ in tensors:
        begin, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)  # tensors start at a multiple of 8
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for _, shape, read in tensors:
            array = np.asarray(read(), "<f4", order="C")
            if array.shape != tuple(shape):
                raise ValueError(f"`tensors` must have the shapes they announce; received {array.shape}.")
            array.tofile(file)


class SafetensorsFile(LazyTensors):
    """The float tensors of one file, each read when it is asked for."""

    def __init__(self, path: Path):
        self._path = path
        try:
            with safe_open(path, "numpy") as file:
                slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
                self._dtypes = {name: tensor.get_dtype() for name, tensor in slices.items()}
                shapes = {name: tuple(tensor.get_shape()) for name, tensor in slices.items()}
        except SafetensorError as error:
            raise WeightsError(f"{path}: not a whole safetensors file: {first_line(error):.200}.") from None
        for name, shape in shapes.items():
            if len(shape) > _MAX_DIMENSIONS:
                raise WeightsError(f"{path}: tensor {name[:80]!r} has {len(shape)} dimensions.")
        super().__init__(shapes)

    def _read(self, name: str) -> np.ndarray:
        if self._dtypes[name] not in _FLOATS:
            raise WeightsError(
                f"{self._path}: tensor {name} is of dtype {self._dtypes[name]}; weights are floats."
            )
        try:
            # Opened anew, so that the pages of other tensors do not stay in memory.
            with safe_open(self._path, "numpy") as file:
                array = file.get_tensor(name)
        except SafetensorError as error:
            raise WeightsError(f"{self._path}: tensor {name} cannot be read ({first_line(error)}).") from None
        return array.astype("float32") if self._dtypes[name] == "BF16" else array


class ShardedSafetensors(LazyTensors):
    """The tensors of several files; the index says which file holds which."""

    def __init__(self, index: Path):
        shard_of = read_json(index).get("weight_map")
        if not isinstance(shard_of, dict) or not all(isinstance(name, str) for name in shard_of.values()):
            raise WeightsError(f"{index}: `weight_map` must name a file for each tensor.")
        self._shard_of, self._shards = shard_of, {}
        for name in sorted(set(shard_of.values())):
            if name != Path(name).name or (path := checkpoint_file(index.parent, name)) is None:
                raise WeightsError(f"{index}: there is no file {name!r} beside the index.")
            self._shards[name] = read_safetensors(path)
        held = {(tensor, name) for name, shard in self._shards.items() for tensor in shard}
        if differing := sorted(held ^ set(shard_of.items())):
            tensor, name = differing[0]
            raise WeightsError(
                f"{index}: index and files disagree on {len(differing)} tensors, such as {tensor} in {name}."
            )
        super().__init__({tensor: self._shards[name].shapes[tensor] for tensor, name in shard_of.items()})

    def _read(self, name: str) -> np.ndarray:
        return self._shards[self._shard_of[name]][name]
