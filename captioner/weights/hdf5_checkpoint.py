"""HDF5 weight files, such as the `tf_model.h5` of Hugging Face, read dataset by dataset."""

import os
from pathlib import Path

import h5py
import numpy as np

from captioner.weights.assign import WeightsError
from captioner.weights.lazy_tensors import LazyTensors, first_line

_MAX_DEPTH = 32


def read_hdf5(path: str | os.PathLike) -> "Hdf5File":
    """Opens an HDF5 file of float datasets.

    Links of the file, soft, external or second hard ones, are refused, as are datasets that are compressed or
    stored elsewhere: no writer of weights makes them, and they could read other files, take more memory than the
    file has bytes, or never come to an end.

    Args:
        path: path of the file.

    Returns:
        A lazy mapping from dataset paths without the leading slash to float arrays. Its `shapes` are known
        without reading.

    Raises:
        WeightsError: If the file is damaged or refused.
    """
    return Hdf5File(Path(path))


class Hdf5File(LazyTensors):
    """The float datasets of one file, each read when it is asked for."""

    def __init__(self, path: Path):
        super().__init__({})
        self._path, self._addresses = path, set()
        if not path.is_file():
            raise WeightsError(f"{path}: there is no such file.")
        try:
            with h5py.File(path, "r") as file:
                self._collect(file, "", 0, path.stat().st_size)
        except WeightsError:
            raise
        except Exception as error:  # a damaged file raises nearly anything
            raise WeightsError(f"{path}: not a whole HDF5 file ({first_line(error)}).") from None

    def _read(self, name: str) -> np.ndarray:
        try:
            with h5py.File(self._path, "r") as file:
                return file[name][()]
        except Exception as error:
            raise WeightsError(
                f"{self._path}: dataset {name} cannot be read ({first_line(error)})."
            ) from None

    def _collect(self, group: h5py.Group, prefix: str, depth: int, file_size: int) -> None:
        if depth > _MAX_DEPTH:
            raise WeightsError(f"{self._path}: groups are nested too deeply at {prefix[:80]!r}.")
        self._require_first_time(prefix, group)
        for key in group:
            name = f"{prefix}{key}"
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise WeightsError(
                    f"{self._path}: {name} is a link; weights files have none, so it is refused."
                )
            item = group[key]
            if isinstance(item, h5py.Group):
                self._collect(item, f"{name}/", depth + 1, file_size)
            elif isinstance(item, h5py.Dataset):
                self._require_plain(name, item, file_size)
                self._require_first_time(name, item)
                self.shapes[name] = tuple(item.shape)

    def _require_first_time(self, name: str, item: h5py.Group | h5py.Dataset) -> None:
        """Refuses hard links: with two to each group, n groups have 2^n paths."""
        address = h5py.h5o.get_info(item.id).addr
        if address in self._addresses:
            raise WeightsError(f"{self._path}: {name[:80]} is there by another name too; it is refused.")
        self._addresses.add(address)

    def _require_plain(self, name: str, dataset: h5py.Dataset, file_size: int) -> None:
        if dataset.dtype.kind != "f":
            raise WeightsError(f"{self._path}: {name} is of dtype {dataset.dtype}; weights are floats.")
        if dataset.external or dataset.is_virtual or dataset.chunks is not None:
            raise WeightsError(f"{self._path}: {name} is compressed or stored elsewhere; it is refused.")
        offset, stored = dataset.id.get_offset() or 0, dataset.id.get_storage_size()
        if dataset.nbytes != stored or offset + stored > file_size:
            raise WeightsError(
                f"{self._path}: {name} of shape {dataset.shape} does not lie inside the file of {file_size} bytes."
            )
