"""Named recipes: settings of whole runs that the package carries, with what they need and what to expect."""

import dataclasses
import json
from typing import Any

from captioner.resources import bundled_recipes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of a run, and what a user wants to know before starting it."""

    name: str
    """The name of its file."""
    summary: str
    """One sentence."""
    trainer: str
    """csv or webdataset: the word after `train`."""
    needs: tuple[str, ...]
    """Settings that the user must give, besides the run folder."""
    after: str | None
    """The recipe whose run this one goes on from, for a recipe of two steps."""
    data: str
    """Data that it is for, and how to get them."""
    hardware: str
    """Expected hardware and time."""
    score: str
    """Expected score, and whether it was measured with this code."""
    source: str
    """Where the settings come from."""
    settings: dict[str, Any]
    """Settings as in a run's config.json, without data and folders."""


def read_recipe(name: str) -> Recipe:
    """Reads a recipe.

    Raises:
        ValueError: If there is no such recipe.
    """
    paths = bundled_recipes()
    if name not in paths:
        raise ValueError(
            f"`recipe` must be one of {', '.join(paths) or 'none, as this installation has no recipes'}; received {name!r}. "
            "See `captioner train --recipes`."
        )
    values = json.loads(paths[name].read_text(encoding="utf-8"))
    return Recipe(name=name, **values | {"needs": tuple(values["needs"])})


def list_recipes() -> list[Recipe]:
    """All recipes, sorted by name."""
    return [read_recipe(name) for name in bundled_recipes()]
