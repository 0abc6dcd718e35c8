"""The part of Python's pickle format that state dicts are written in, read without Python's unpickler.

Its instructions make numbers, texts, lists, dictionaries and stand-ins for tensors. None imports or calls anything, and time and
memory grow in proportion to the length of the pickle.
"""

import dataclasses
import pickletools
from typing import Any

import numpy as np

from captioner.weights.assign import WeightsError

STORAGE_DTYPES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype("<u2"),  # widened to float32 when read
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
"""Dtypes of the kinds of storage, which are names of `torch`."""


@dataclasses.dataclass(frozen=True)
class Storage:
    """A reference to elements of tensors, which lie outside the pickle."""

    kind: str
    key: str
    numel: int


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A view of a storage, with what the pickle claims of it."""

    storage: Any
    offset: Any
    shape: Any
    strides: Any


@dataclasses.dataclass(frozen=True)
class _Name:
    module: str
    name: str


_DICTIONARY = _Name("collections", "OrderedDict")
_TENSOR = _Name("torch._utils", "_rebuild_tensor_v2")
_NAMES = {_DICTIONARY, _TENSOR, *(_Name("torch", kind) for kind in STORAGE_DTYPES)}


def read_pickle(data: bytes) -> tuple[Any, int]:
    """Reads one pickle.

    Args:
        data: bytes that begin with the pickle; more may follow.

    Returns:
        `(item, length)`: what was pickled, made of None, bool, int, float, str, list, tuple, dict, `Storage` and
        `Tensor`; and the bytes of the pickle.

    Raises:
        WeightsError: If the pickle holds what no state dict needs.
        Exception: Of nearly any kind, if it is damaged.
    """
    stack, marks, memo = [], [], {}

    def since_mark() -> list:
        items = stack[marks[-1] :]
        del stack[marks.pop() :]
        return items

    for instruction, argument, position in pickletools.genops(data):
        match instruction.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop(), position + 1
            case "MARK":
                marks.append(len(stack))
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(instruction.name == "NEWTRUE")
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE" | "SHORT_BINUNICODE":
                stack.append(argument)
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                length = int(instruction.name[-1])
                stack[-length:] = [tuple(stack[-length:])]
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "APPEND":
                _extend(stack[-2], [stack.pop()])
            case "APPENDS":
                items = since_mark()
                _extend(stack[-1], items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _update(stack[-1], [(key, value)])
            case "SETITEMS":
                items = since_mark()
                _update(stack[-1], list(zip(items[::2], items[1::2], strict=True)))
            case "GLOBAL":
                stack.append(_named(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_named(module, name))
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "REDUCE":
                arguments, called = stack.pop(), stack.pop()
                stack.append(_made(called, arguments))
            case "BUILD":  # the versions of layers that PyTorch hangs on a state dict; not needed
                stack.pop()
            case _:
                raise WeightsError(
                    f"an instruction {instruction.name} in the pickle, which no state dict needs"
                )
    raise WeightsError("a pickle without an end")


def _extend(target: Any, items: list) -> None:
    if type(target) is not list:
        raise WeightsError("a malformed list in the pickle")
    target.extend(items)


def _update(target: Any, items: list[tuple]) -> None:
    # Large integers can be chosen so that their hashes are the same, and tuples so that a hash takes forever.
    if type(target) is not dict or not all(type(key) is str or is_count(key) for key, _ in items):
        raise WeightsError("a dictionary in the pickle whose keys are not all names or numbers")
    target.update(items)


def _named(module: Any, name: Any) -> _Name:
    if type(module) is not str or type(name) is not str or (found := _Name(module, name)) not in _NAMES:
        raise WeightsError(
            f"the file asks for {f'{module}.{name}'[:80]}, which no state dict needs; it is refused. "
            "Save it again with torch.save(model.state_dict(), path)."
        )
    return found


def _storage(reference: Any) -> Storage:
    if type(reference) is not tuple or len(reference) not in (5, 6) or reference[0] != "storage":
        raise WeightsError("an unknown kind of reference in the pickle")
    _, kind, key, _, numel, *view = reference
    if (
        type(kind) is not _Name
        or kind.name not in STORAGE_DTYPES
        or type(key) is not str
        or not is_count(numel)
        or view not in ([], [None])
    ):
        raise WeightsError("a malformed storage reference in the pickle")
    return Storage(kind.name, key, numel)


def _made(called: Any, arguments: Any) -> dict | Tensor:
    if type(arguments) is tuple and called == _TENSOR and len(arguments) >= 4:
        return Tensor(*arguments[:4])
    if arguments == () and called == _DICTIONARY:
        return {}
    raise WeightsError("a malformed call in the pickle")


def is_count(value: Any) -> bool:
    """Whether `value` is an integer that can count bytes of a file."""
    return type(value) is int and 0 <= value < 2**40
