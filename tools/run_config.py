"""A whole training run as one JSON file: the flags that are not given come from it."""

import dataclasses
import json
import types
import typing
from pathlib import Path
from typing import Any

from tools.errors import UsageError

NOT_FROM_A_FILE = ("resume",)
TRAINERS = {"csv": "csv", "webdataset": "shards"}
"""The setting that names the data of each trainer."""


def read_run_config(path: str | Path) -> dict:
    """The JSON object of a run's `config.json`, or of a file like it.

    Raises:
        UsageError: If it cannot be read.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"`--config` {path} cannot be read: {error}.") from error
    if not isinstance(values, dict):
        raise UsageError(f"`--config` {path} must be a JSON object of settings, such as a run's config.json.")
    return values


def trainer_of(values: dict, source: str | Path) -> str:
    """The word after `train` for the settings of a run: the one whose data they name.

    Raises:
        UsageError: If they name none.
    """
    for trainer, data in TRAINERS.items():
        if data in values:
            return trainer
    raise UsageError(
        f"`--config` {source} names no data: it must have one of {', '.join(TRAINERS.values())}."
    )


def settings_from_config(settings: type, values: dict, source: str | Path) -> Any:
    """An instance of a settings dataclass, with the file's values in the types of its fields.

    Raises:
        UsageError: If a name is unknown, a value has the wrong type, or one that has no default is missing.
    """
    hints = typing.get_type_hints(settings)
    fields = {field.name: field for field in dataclasses.fields(settings)}
    if unknown := sorted(values.keys() - fields.keys()):
        raise UsageError(
            f"`--config` {source} has settings that this command does not know: {', '.join(unknown)}."
        )
    known = {
        name: _converted(value, hints[name], f"{name} in {source}")
        for name, value in values.items()
        if name not in NOT_FROM_A_FILE
    }
    missing = [
        name
        for name, field in fields.items()
        if name not in known
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise UsageError(f"`--config` {source} lacks {', '.join(missing)}.")
    return settings(**known)


def _converted(value: Any, kind: Any, name: str) -> Any:
    """A JSON value as the type of a field."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        [kind] = [argument for argument in arguments if argument is not type(None)]
        return _converted(value, kind, name)
    if origin is tuple and isinstance(value, list):
        return tuple(_converted(item, arguments[0], name) for item in value)
    if origin is dict and isinstance(value, dict):
        keys, values = arguments
        return {
            _converted(key, keys, f"a key of {name}"): _converted(item, values, f"{key} of {name}")
            for key, item in value.items()
        }
    if origin is typing.Literal and value in arguments:
        return value
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and type(value) is kind:
        return value
    wanted = getattr(kind, "__name__", None) or str(kind)
    raise UsageError(f"`--config`: {name} must be {wanted}; received {value!r}.")
