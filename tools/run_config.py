"""A whole training run as one JSON file: the flags that are not given come from it."""

import dataclasses
import json
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tyro

from tools.errors import UsageError
from trainers.recipes import Recipe, read_recipe

NOT_FROM_A_FILE = ("resume", "num_processes", "process_index", "coordinator")
"""A run's config.json has them, but another run says by flags, or its cluster by the environment, where it runs."""
FROM_A_FILE = ("--config", "--recipe")
TRAINERS = {"csv": "csv", "webdataset": "shards"}
"""The setting that names the data of each trainer."""


def take_config(words: list[str]) -> tuple[list[str], dict, str, tuple[str, ...]]:
    """Takes `--config FILE` or `--recipe NAME` out of the words of a `train` command.

    Returns:
        The words without it, and with the trainer that it is for; its settings; where they come from, for messages; and the
        settings that flags must give.

    Raises:
        UsageError: If both are given or nothing is named, or what is named cannot be read.
    """
    flag, *other = [flag for flag in FROM_A_FILE if flag in words]
    if other:
        raise UsageError("`--config` and `--recipe` exclude each other.")
    place = words.index(flag)
    if place + 1 == len(words):
        raise UsageError(f"`{flag}` needs {'a file' if flag == '--config' else 'a name'} behind it.")
    source, words = words[place + 1], words[:place] + words[place + 2 :]
    if flag == "--recipe":
        recipe = _recipe(source)
        trainer, values, needs = recipe.trainer, recipe.settings, recipe.needs
    else:
        trainer, values, needs = None, read_run_config(source), ()
    if words[1:2] == [] or words[1].startswith("-"):
        words.insert(1, trainer or trainer_of(values, source))
    return words, values, f"`{flag}` {source}", needs


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


def trainer_named(name: str) -> tuple[type, Callable]:
    """The settings and the function of a trainer."""
    if name == "csv":
        from trainers.csv_settings import CsvTrainSettings
        from trainers.csv_trainer import train_csv

        return CsvTrainSettings, train_csv
    from trainers.webdataset_settings import WebdatasetTrainSettings
    from trainers.webdataset_trainer import train_webdataset

    return WebdatasetTrainSettings, train_webdataset


def read_run(path: str | Path) -> tuple[Any, Callable]:
    """The settings of a run's `config.json`, or of a file like it, and the function that trains with them.

    Raises:
        UsageError: If it cannot be read, or is not a whole run.
    """
    values = read_run_config(path)
    settings, train = trainer_named(trainer_of(values, path))
    return settings_from_config(settings, values, f"`--config` {path}"), train


def settings_from_config(
    settings: type, values: dict, source: str, flags_for: Sequence[str] | None = None
) -> Any:
    """An instance of a settings dataclass, with the file's values in the types of its fields.

    Args:
        settings: the dataclass.
        values: JSON values by name.
        source: what they come from, for messages: "`--config` run.json".
        flags_for: names of settings that flags must give, besides those without a value or default; None if there
            are no flags. They are `tyro.MISSING`.

    Raises:
        UsageError: If a name is unknown, a value has the wrong type, or one that has no default is missing and no flag can
            give it.
    """
    given = {name: value for name, value in values.items() if name not in NOT_FROM_A_FILE}
    known = _values_of_fields(settings, given, source)
    missing = [
        field.name
        for field in dataclasses.fields(settings)
        if field.name not in known
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if flags_for is not None:
        wanted = {field.name for field in dataclasses.fields(settings)} & {*missing, *flags_for}
        return settings(**known | dict.fromkeys(wanted, tyro.MISSING))
    if missing:
        raise UsageError(f"{source} lacks {', '.join(missing)}.")
    return settings(**known)


def _recipe(name: str) -> Recipe:
    try:
        return read_recipe(name)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _values_of_fields(kind: type, values: dict, source: str | Path) -> dict[str, Any]:
    """JSON values as the fields of a dataclass have them."""
    hints = typing.get_type_hints(kind)
    if unknown := sorted(values.keys() - hints.keys()):
        raise UsageError(f"{source} has settings that this command does not know: {', '.join(unknown)}.")
    return {name: _converted(value, hints[name], f"{name} in {source}") for name, value in values.items()}


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
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return kind(**_values_of_fields(kind, value, name))
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
    raise UsageError(f"{name} must be {wanted}; received {value!r}.")
