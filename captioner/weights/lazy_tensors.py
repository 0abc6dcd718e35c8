"""What all checkpoint files are to the rest of the program: a mapping that reads a tensor when it is asked for."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping

import numpy as np


class LazyTensors(Mapping):
    """The tensors of a checkpoint by their names.

    Args:
        shapes: shape of each tensor; known without reading.
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]]):
        self.shapes = shapes

    @abstractmethod
    def _read(self, name: str) -> np.ndarray:
        """The array of a tensor that is there."""

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.shapes:
            raise KeyError(name)
        return self._read(name)

    def __contains__(self, name: object) -> bool:
        return name in self.shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def first_line(error: Exception) -> str:
    """What a library's error says, on one line."""
    return (str(error).splitlines() or [type(error).__name__])[0]
