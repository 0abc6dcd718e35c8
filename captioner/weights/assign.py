"""Strict assignment: each source tensor is used or ignored for a reason, each variable is filled."""

import dataclasses
import fnmatch
import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import keras
import numpy as np

from captioner.weights.deferred import fill

_NAMES_SHOWN = 8


Row = tuple[str | tuple[str, ...], keras.Variable, Callable[..., np.ndarray] | None]
"""Name or names of the source, the variable it fills, and what takes the source arrays to the variable's layout."""


class WeightsError(ValueError):
    """A checkpoint that cannot be read, or that does not fit the model."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AssignmentReport:
    """What became of each tensor of a checkpoint."""

    assigned: dict[str, str]
    """Path of the target variable of each source tensor that was used; " and " joins several."""
    ignored: dict[str, str]
    """Reason for each source tensor that was left out."""
    new: tuple[str, ...]
    """Paths of the target variables that keep their initial values."""


def assign_strictly(
    sources: Mapping[str, np.ndarray],
    table: Iterable[Row],
    *,
    targets: Iterable[keras.Variable],
    ignored: Mapping[str, str] | None = None,
    new: Iterable[keras.Variable] = (),
) -> AssignmentReport:
    """Copies a checkpoint into variables, with every tensor on both sides accounted for.

    Names and shapes are checked before the first variable changes, so an error leaves the model as it was.

    Args:
        sources: mapping from tensor names to arrays. A lazy mapping is read one tensor at a time, twice.
        table: rows `(source_name, variable, transform)`. `transform` takes the source array to the variable's
            layout; None leaves it as it is. A source that fills two variables has a row for each; a variable that is
            made of several sources has a tuple of their names, and a `transform` of as many arrays.
        targets: all variables that the model wants filled, usually `model.variables`.
        ignored: reason for each shell-style pattern of source names that are not used, such as
            `{"*.num_batches_tracked": "counts training steps"}`.
        new: variables that are not in the checkpoint and keep their initial values.

    Returns:
        An `AssignmentReport`.

    Raises:
        WeightsError: If a source or a target is missing, left over or of the wrong shape; the message names
            them.
    """
    table = [(_names(source), variable, transform) for source, variable, transform in table]
    new, ignored = list(new), dict(ignored or {})
    problems = _table_problems(sources, table, list(targets), new)
    used = {name for names, _, _ in table for name in names}
    reasons = {}
    for name in sources:
        reason = next((why for pattern, why in ignored.items() if fnmatch.fnmatchcase(name, pattern)), None)
        if name not in used and reason is not None:
            reasons[name] = reason
    leftover = [name for name in sources if name not in used and name not in reasons]
    problems += _named("the checkpoint has tensors that the model does not", leftover, sources)
    if not problems:
        misfits = []
        for names, variable, transform in table:
            shape = np.shape(_transformed(sources, names, transform))
            if shape != tuple(variable.shape):
                misfits.append(f"{', '.join(names)} {shape} for {variable.path} {tuple(variable.shape)}")
        problems += _listed("shapes differ", misfits)
    if problems:
        raise WeightsError("The checkpoint does not fit the model: " + "; ".join(problems) + ".")
    for names, variable, transform in table:
        fill(variable, functools.partial(_transformed, sources, names, transform))
    return AssignmentReport(
        assigned=_targets(table),
        ignored=reasons,
        new=tuple(variable.path for variable in new),
    )


def _names(source: str | tuple[str, ...]) -> tuple[str, ...]:
    return (source,) if isinstance(source, str) else source


def _targets(table) -> dict[str, str]:
    paths = {}
    for names, variable, _ in table:
        for name in names:
            paths[name] = f"{paths[name]} and {variable.path}" if name in paths else variable.path
    return paths


def _table_problems(sources, table, targets, new):
    filled = Counter(id(variable) for _, variable, _ in table) + Counter(id(variable) for variable in new)
    twice = {v.path for v in [*(row[1] for row in table), *new] if filled[id(v)] > 1}
    missing = [name for names, _, _ in table for name in names if name not in sources]
    unfilled = [f"{v.path} {tuple(v.shape)}" for v in targets if id(v) not in filled]
    return [
        *_listed("the checkpoint lacks", dict.fromkeys(missing)),
        *_listed("variables would stay unset", unfilled),
        *_listed("variables would be set twice", sorted(twice)),
    ]


def _transformed(sources, names, transform):
    arrays = [np.asarray(sources[name]) for name in names]
    return arrays[0] if transform is None else transform(*arrays)


def _named(text, names, sources):
    return _listed(text, [f"{name} {np.shape(sources[name])}" for name in names])


def _listed(text, names):
    names = list(names)
    if not names:
        return []
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return [f"{text}: {', '.join(names[:_NAMES_SHOWN])}{more}"]
