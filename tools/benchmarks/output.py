"""What the benchmark commands share: where their report goes, and which interpreter has the peer."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

from captioner.files import atomic_path
from tools.errors import UsageError
from tools.messages import say


def require_markdown(output: str | None) -> None:
    """Refuses a file for the report that is not Markdown."""
    if output is not None and Path(output).suffix != ".md":
        raise UsageError(f"--output must end in .md; received {output!r}.")


def write_report(report: dict, text: str, output: str | None) -> None:
    """Prints the report, and writes it and its numbers if a file is given.

    Args:
        report: JSON values.
        text: the same as Markdown.
        output: a .md file; a .json beside it gets the numbers.
    """
    sys.stdout.write(text)
    if output is None:
        return
    path = Path(output)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    with atomic_path(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    say(f"written to {path} and {path.with_suffix('.json')}")


def python_with(*modules: str, given: str | None = None) -> str | None:
    """An interpreter that has the modules: the one that is given, else this one; or None.

    Raises:
        UsageError: If the given one has not.
    """
    if given is None:
        return sys.executable if all(importlib.util.find_spec(name) for name in modules) else None
    if not can_import(given, *modules):
        raise UsageError(f"--peer-python {given} cannot import {' and '.join(modules)}.")
    return given


def can_import(python: str, *modules: str) -> bool:
    """Whether an interpreter has the modules."""
    if python == sys.executable and not all(
        importlib.util.find_spec(name.partition(".")[0]) for name in modules
    ):
        return False
    words = [python, "-c", f"import {', '.join(modules)}"]
    try:
        return subprocess.run(words, capture_output=True, check=False).returncode == 0
    except OSError:
        return False
