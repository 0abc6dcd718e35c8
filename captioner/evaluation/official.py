"""The COCO evaluation package (pycocoevalcap): its scorers and files, or how to install it."""

import importlib
import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any

_ADVICE = 'needs pycocoevalcap, which is not installed: pip install "captioner[eval]"'


def official_scorer(module: str, name: str) -> Any:
    """The class `name` of pycocoevalcap's `module`, for example ("cider.cider", "Cider").

    Raises:
        ImportError: If pycocoevalcap is not installed; the message names the extra.
    """
    try:
        return getattr(importlib.import_module(f"pycocoevalcap.{module}"), name)
    except ModuleNotFoundError as error:
        raise ImportError(f"Scoring captions with the official metrics {_ADVICE}") from error


def require_official_metrics() -> None:
    """Says what is missing before captions are made that nothing could score.

    Raises:
        ImportError: If pycocoevalcap is not installed; the message names the extra.
    """
    official_scorer("bleu.bleu", "Bleu")


def official_file(relative_path: str) -> Path:
    """A file inside the installed pycocoevalcap.

    Raises:
        ImportError: If pycocoevalcap or the file is missing; the message names the extra.
    """
    spec = importlib.util.find_spec("pycocoevalcap")
    # The distribution has no __init__.py: it is a namespace package with one or more folders.
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder, relative_path)).is_file():
            return path
    raise ImportError(f"`pycocoevalcap/{relative_path}` was not found; scoring captions {_ADVICE}")


def official_version() -> str:
    """The installed version of pycocoevalcap."""
    return importlib.metadata.version("pycocoevalcap")
