"""The `captioner train --recipes` command."""

import dataclasses
import json
import textwrap
from typing import Annotated

import tyro

from tools.errors import UsageError
from trainers.recipes import Recipe, list_recipes, read_recipe

WIDTH = 110


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecipesCommand:
    """Lists named recipes: what they train, on which data, with which hardware and to which score.

    With a name, shows its settings too, as JSON: written into a file and changed, they are for --config. A recipe is
    run with --recipe and the data of yours; flags win over its settings.

    Example:
        captioner train --recipes flickr8k_lite0
        captioner train --recipe flickr8k_lite0 --csv train.csv --images photos/ --run-dir runs/mine
    """

    name: Annotated[str | None, tyro.conf.Positional] = None
    """Recipe to show alone, with its settings."""


def show_recipes(command: RecipesCommand) -> int:
    """Prints the recipes."""
    if command.name is None:
        print("\n\n".join(_described(recipe) for recipe in list_recipes()))
        return 0
    try:
        recipe = read_recipe(command.name)
    except ValueError as error:
        raise UsageError(str(error)) from error
    print(_described(recipe))
    print(json.dumps(recipe.settings, indent=2))
    return 0


def _described(recipe: Recipe) -> str:
    needs = " ".join(f"--{need.replace('_', '-')} ..." for need in recipe.needs)
    lines = {
        "Run": f"captioner train --recipe {recipe.name} {needs} --run-dir ...",
        **({"After": recipe.after} if recipe.after else {}),
        "Data": recipe.data,
        "Hardware": recipe.hardware,
        "Score": recipe.score,
        "Source": recipe.source,
    }
    described = [f"{recipe.name}: {recipe.summary}"]
    for head, text in lines.items():
        described += textwrap.wrap(
            text, WIDTH, initial_indent=f"  {head + ':':<10}", subsequent_indent=" " * 12, break_long_words=False,
            break_on_hyphens=False,
        )  # fmt: skip
    return "\n".join(described)
