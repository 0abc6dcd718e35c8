"""The `captioner compare` command: the runs of several folders side by side."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import tyro

from tools.errors import UsageError
from trainers.run_folder import METRICS, RunFolder, plot_metrics

SHOWN = ("loss", "val_loss", "val_token_accuracy", "val_bleu_4", "val_cider", "captions_per_second")
"""Metrics of the table, where a run has them."""
PLOT = "comparison.png"
NOT_COMPARED = ("run_dir", "resume", "cache_dir")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareCommand:
    """Compares training runs: the metrics of their best epochs, the settings that differ, and their curves.

    Example:
        captioner compare runs/a runs/b
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders."""
    plot: Path | None = None
    """PNG file for the curves, instead of comparison.png in the first run folder."""


def compare(command: CompareCommand) -> int:
    """Prints the tables and draws the curves."""
    if len(command.runs) < 2:
        raise UsageError(f"`compare` needs at least two run folders; received {len(command.runs)}.")
    runs = {_name(path, command.runs): RunFolder(path) for path in command.runs}
    metrics = {name: _metrics(run) for name, run in runs.items()}
    print(_table(["run", "epoch", *SHOWN], [_best_row(name, lines) for name, lines in metrics.items()]))
    configs = {name: _config(run) for name, run in runs.items()}
    settings = sorted(set().union(*configs.values()) - set(NOT_COMPARED))
    differing = [
        [setting, *(_said(config.get(setting)) for config in configs.values())]
        for setting in settings
        if len({_said(config.get(setting)) for config in configs.values()}) > 1
    ]
    print()
    print(_table(["setting", *runs], differing) if differing else "All settings are the same.")
    # A file of that name in a run folder is ours, and may be replaced; in the current folder it may be anyone's.
    plot = command.plot or command.runs[0] / PLOT
    plot_metrics(metrics, plot)
    print(f"\nCurves: {plot}")
    return 0


def _name(path: Path, paths: tuple[Path, ...]) -> str:
    """The folder's own name, where no other has it."""
    return path.name if [other.name for other in paths].count(path.name) == 1 else str(path)


def _metrics(run: RunFolder) -> list[dict]:
    lines = run.read_metrics()
    if not lines:
        raise ValueError(
            f"{run.path} has no finished epoch in {METRICS}: it is no run folder, or its run has just begun."
        )
    return lines


def _config(run: RunFolder) -> dict:
    try:
        return dict(json.loads(run.config.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ValueError(f"{run.config} cannot be read: {error}.") from error


def _best_row(name: str, lines: list[dict]) -> list[str]:
    best = max(lines, key=lambda line: (line.get("val_cider", 0.0), -line.get("val_loss", -line["epoch"])))
    return [
        name,
        f"{best['epoch']} of {len(lines)}",
        *(f"{best[metric]:.4g}" if metric in best else "" for metric in SHOWN),
    ]


def _said(value) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def _table(head: list[str], rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in [head, *rows]
    )
