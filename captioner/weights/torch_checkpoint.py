"""PyTorch checkpoints read without PyTorch, and without running anything that a file may hold."""

import math
import os
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from captioner.weights.assign import WeightsError
from captioner.weights.state_dict_pickle import STORAGE_DTYPES, Storage, Tensor, is_count, read_pickle

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_MAX_DIMENSIONS = 16
# Pickles hold names and shapes only; the largest GPT-2 needs less than 1 MB.
_MAX_PICKLE_BYTES = 16 * 2**20


def read_torch_checkpoint(path: str | os.PathLike) -> Mapping[str, np.ndarray]:
    """Opens the state dict that `torch.save` wrote, in its zip layout or the older one.

    The pickle inside may name tensors, storages and `OrderedDict`; anything else is refused before it is
    imported. Sizes are checked against the file before memory is taken.

    Args:
        path: path to a `.pth`, `.pt` or `.bin` file.

    Returns:
        A lazy mapping from tensor names to arrays; each access reads that tensor from the file. bfloat16
        tensors come as float32.

    Raises:
        WeightsError: If the file is damaged, refused, or not a state dict.
        OSError: If the file cannot be opened.
    """
    path = Path(path)
    try:
        if zipfile.is_zipfile(path):
            state, read_storage = _open_zip(path)
        else:
            state, read_storage = _open_legacy(path)
        return _StateDict(path, _tensors(state), read_storage)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    except OSError:
        raise
    except Exception as error:  # a damaged pickle or zip raises nearly anything
        raise WeightsError(
            f"{path}: not a whole PyTorch checkpoint ({type(error).__name__}: {error})."
        ) from None


def _read_pickle(file: BinaryIO) -> Any:
    start = file.tell()
    item, length = read_pickle(file.read(_MAX_PICKLE_BYTES))
    file.seek(start + length)
    return item


def _open_zip(path: Path) -> tuple[Any, Callable[[Storage], np.ndarray]]:
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        pickles = [name for name in entries if name.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            raise WeightsError("a zip file without exactly one data.pkl is not a PyTorch checkpoint.")
        folder = pickles[0].removesuffix("data.pkl")
        for name, entry in entries.items():
            # Entries are stored as they are, so that none can be larger than the file.
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
                raise WeightsError(f"{name} is compressed; PyTorch never does that, so it is refused.")
        if entries[pickles[0]].file_size > _MAX_PICKLE_BYTES:
            raise WeightsError("a pickle of absurd size.")
        if f"{folder}byteorder" in entries and archive.read(f"{folder}byteorder") != b"little":
            raise WeightsError("only little-endian checkpoints can be read.")
        with archive.open(pickles[0]) as file:
            state = _read_pickle(file)

    def read_storage(storage: Storage) -> np.ndarray:
        dtype, name = STORAGE_DTYPES[storage.kind], f"{folder}data/{storage.key}"
        if name not in entries or entries[name].file_size != storage.numel * dtype.itemsize:
            raise WeightsError(f"{path}: storage {name} is missing or not {storage.numel} x {dtype.name}.")
        try:
            with zipfile.ZipFile(path) as archive:
                return np.frombuffer(archive.read(name), dtype)
        # Its checksum is another, or it says to be encrypted.
        except (zipfile.BadZipFile, RuntimeError, EOFError) as error:
            raise WeightsError(f"{path}: storage {name} is damaged: {error}.") from None

    return state, read_storage


def _open_legacy(path: Path) -> tuple[Any, Callable[[Storage], np.ndarray]]:
    """Reads magic, version, system, state dict and storage keys, then finds each storage's bytes."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        if _read_pickle(file) != _LEGACY_MAGIC or _read_pickle(file) != _LEGACY_PROTOCOL:
            raise WeightsError("not a PyTorch checkpoint.")
        system = _read_pickle(file)
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise WeightsError("only little-endian checkpoints can be read.")
        state = _read_pickle(file)
        keys = _read_pickle(file)
        itemsizes = {t.storage.key: STORAGE_DTYPES[t.storage.kind].itemsize for t in _tensors(state).values()}
        spans = {}
        for key in keys:
            (numel,) = struct.unpack("<q", file.read(8))
            begin = file.tell()
            end = begin + numel * itemsizes[key]
            if numel < 0 or end > size:
                raise WeightsError(f"truncated: storage {key} ends at byte {end} of a file of {size} bytes.")
            spans[key] = (begin, numel)
            file.seek(end)

    def read_storage(storage: Storage) -> np.ndarray:
        begin, numel = spans.get(storage.key, (0, -1))
        if numel != storage.numel:
            raise WeightsError(
                f"{path}: storage {storage.key} is missing or not of {storage.numel} elements."
            )
        return np.fromfile(path, STORAGE_DTYPES[storage.kind], count=numel, offset=begin)

    return state, read_storage


def _tensors(state: Any) -> dict[str, Tensor]:
    """Checks that `state` maps names to tensors that lie inside their storages."""
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict):
        raise WeightsError(f"holds a {type(state).__name__}, not a state dict.")
    for name, tensor in state.items():
        if type(name) is not str or not isinstance(tensor, Tensor):
            raise WeightsError(
                f"entry {str(name)[:80]!r} is not a named tensor, so this is not a state dict."
            )
        storage, shape, strides = tensor.storage, tensor.shape, tensor.strides
        well_formed = (
            isinstance(storage, Storage)
            and type(shape) is tuple
            and type(strides) is tuple
            and len(shape) == len(strides) <= _MAX_DIMENSIONS
            and all(map(is_count, (tensor.offset, *shape, *strides)))
        )
        # A stride of 0 repeats elements, so the count is bounded as well as the last position.
        if (
            not well_formed
            or math.prod(shape) > storage.numel
            or (
                math.prod(shape)
                and tensor.offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
                >= storage.numel
            )
        ):
            raise WeightsError(f"tensor {name[:80]!r} does not lie inside its storage.")
    return dict(state)


class _StateDict(Mapping):
    """The tensors of one file, each read when it is asked for."""

    def __init__(self, path, tensors, read_storage):
        self._path, self._tensors, self._read_storage = path, tensors, read_storage

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self._tensors[name]
        flat = self._read_storage(tensor.storage)
        # Fewer if the file was cut since it was opened, or if tensors name one storage by types of different sizes.
        if len(flat) != tensor.storage.numel:
            raise WeightsError(
                f"{self._path}: tensor {name!r} wants {tensor.storage.numel} elements of its storage; {len(flat)} are there."
            )
        strides = [stride * flat.itemsize for stride in tensor.strides]
        array = np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, strides).copy()
        if tensor.storage.kind == "BFloat16Storage":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)
