"""Files of a checkpoint folder that a stranger made: found inside the folder only, JSON read with care."""

import json
from pathlib import Path
from typing import Any

from captioner.weights.assign import WeightsError

_MAX_JSON_BYTES = 64 * 2**20


def checkpoint_file(folder: Path, *names: str) -> Path | None:
    """The first of `names` that the folder holds, or None.

    Raises:
        WeightsError: If the name is a link that leaves the folder. The cache of the Hugging Face hub, whose
            snapshots are links to the blobs beside them, is taken as one folder.
    """
    for name in names:
        path = folder / name
        if path.is_symlink():
            _require_inside(path, folder)
        if path.is_file():
            return path
    return None


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        WeightsError: If the file is absurdly large, not JSON, or not an object.
    """
    if (size := path.stat().st_size) > _MAX_JSON_BYTES:
        raise WeightsError(f"{path}: {size} bytes are too many for a JSON file of a checkpoint.")
    try:
        return _parse_json_object(path.read_bytes())
    except ValueError as error:
        raise WeightsError(f"{path}: not a JSON object ({error}).") from None


def _parse_json_object(data: bytes) -> dict[str, Any]:
    """Parses a JSON object in which no name occurs twice; ValueError if it is anything else."""
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"it is a {type(value).__name__}")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a name occurs twice")
    return value


def _require_inside(path: Path, folder: Path) -> None:
    target, home = path.resolve(), folder.resolve()
    in_hub_cache = home.parent.name == "snapshots" and target.parent == home.parent.parent / "blobs"
    if not target.is_relative_to(home) and not in_hub_cache:
        raise WeightsError(
            f"{path} is a link out of its folder, to {target}; it is refused. Copy the file into the folder."
        )
