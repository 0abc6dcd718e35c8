"""Where the package's data lies: beside the modules when installed, in `res/` of a checkout."""

from pathlib import Path

DEFAULT_PRESET = "flickr8k_lite2"
"""The bundled preset that commands use when none is named."""

_PACKAGE = Path(__file__).resolve().parent
_RESOURCES = (_PACKAGE / "res", _PACKAGE.parent / "res")


def bundled_preset(name: str) -> Path:
    """Returns the folder of a preset that the package carries.

    Args:
        name: string. The preset's name, one of `list_bundled_presets()`.

    Raises:
        ValueError: If the package carries no preset of that name.
    """
    presets = _bundled_presets()
    if name not in presets:
        raise ValueError(
            f"`name` must be a bundled preset ({', '.join(presets) or 'this installation has none'}); "
            f"received {name!r}. For a preset of your own give its folder."
        )
    return presets[name]


def list_bundled_presets() -> list[str]:
    """Returns the names of the presets that the package carries, sorted."""
    return list(_bundled_presets())


def bundled_recipes() -> dict[str, Path]:
    """Returns the files of the training recipes that the package carries, by name, sorted."""
    files = {path.stem: path for folder in _RESOURCES for path in folder.glob("recipes/*.json")}
    return dict(sorted(files.items()))


def _bundled_presets() -> dict[str, Path]:
    folders = {}
    for presets in (folder / "presets" for folder in _RESOURCES):
        if presets.is_dir():
            for folder in sorted(presets.iterdir()):
                if (folder / "config.json").is_file():
                    folders.setdefault(folder.name, folder)
    return dict(sorted(folders.items()))
