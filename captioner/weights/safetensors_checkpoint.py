"""Safetensors files, read tensor by tensor and written the same way.

A file is the length of a JSON header (8 bytes, little-endian), the header, and the tensors' bytes without a
gap (https://github.com/huggingface/safetensors#format).
"""

import json
import math
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from captioner.weights.assign import WeightsError
from captioner.weights.checkpoint_folder import checkpoint_file, parse_json_object, read_json

# The format's own limit.
_MAX_HEADER_BYTES = 100_000_000
_MAX_DIMENSIONS = 16
_FLOATS = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # widened to float32 when read
}
# May lie in a file, as masks and counters; no weight is of these.
_ITEM_SIZES = {"I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_ITEM_SIZES |= {name: dtype.itemsize for name, dtype in _FLOATS.items()}


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


class SafetensorsFile(Mapping):
    """The float tensors of one file, each read when it is asked for."""

    def __init__(self, path: Path):
        self._path = path
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            try:
                self._start, header = _read_header(file, size)
                self._entries = _checked_entries(header, size - self._start)
            except ValueError as error:
                raise WeightsError(f"{path}: not a whole safetensors file: {error}.") from None
        self.shapes = {name: shape for name, (_, shape, _) in self._entries.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        kind, shape, begin = self._entries[name]
        if kind not in _FLOATS:
            raise WeightsError(f"{self._path}: tensor {name} is of dtype {kind}; weights are floats.")
        count = math.prod(shape)
        array = np.fromfile(self._path, _FLOATS[kind], count=count, offset=self._start + begin)
        if array.size != count:
            raise WeightsError(f"{self._path}: tensor {name} was cut off while it was read.")
        if kind == "BF16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        return array.reshape(shape)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


class ShardedSafetensors(Mapping):
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
        self.shapes = {
            tensor: shape for shard in self._shards.values() for tensor, shape in shard.shapes.items()
        }

    def __getitem__(self, name: str) -> np.ndarray:
        return self._shards[self._shard_of[name]][name]

    def __contains__(self, name: object) -> bool:
        return name in self._shard_of

    def __iter__(self) -> Iterator[str]:
        return iter(self._shard_of)

    def __len__(self) -> int:
        return len(self._shard_of)


def _read_header(file, size: int) -> tuple[int, dict]:
    length = file.read(8)
    if len(length) < 8:
        raise ValueError(f"{size} bytes hold no header")
    (length,) = struct.unpack("<Q", length)
    if length > min(size - 8, _MAX_HEADER_BYTES):
        raise ValueError(f"a header of {length} bytes in a file of {size}")
    return 8 + length, parse_json_object(file.read(length))


def _checked_entries(header: dict, data_size: int) -> dict[str, tuple[str, tuple[int, ...], int]]:
    """Dtype, shape and first byte of each tensor; together they must cover the data exactly."""
    entries, spans = {}, []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"tensor {name[:80]!r} must have dtype, shape and data_offsets")
        kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(kind, str) or kind not in _ITEM_SIZES:
            raise ValueError(f"tensor {name[:80]!r} is of the unknown dtype {str(kind)[:20]!r}")
        if not _are_counts(shape) or len(shape) > _MAX_DIMENSIONS or not _are_counts(offsets):
            raise ValueError(f"tensor {name[:80]!r} has no valid shape or data_offsets")
        begin, end = offsets if len(offsets) == 2 else (1, 0)
        if begin > end or end > data_size or end - begin != math.prod(shape) * _ITEM_SIZES[kind]:
            raise ValueError(
                f"tensor {name[:80]!r} of shape {shape} does not fit its bytes {offsets} of {data_size}"
            )
        entries[name] = (kind, tuple(shape), begin)
        spans.append((begin, end))
    position = 0
    for begin, end in sorted(spans):
        if begin != position:
            raise ValueError(f"tensors overlap or leave a gap at byte {position}")
        position = end
    if position != data_size:
        raise ValueError(f"tensors end at byte {position} of {data_size}")
    return entries


def _are_counts(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**48 for value in values)
