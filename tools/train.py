"""The `captioner train` commands."""

import contextlib
import dataclasses
import logging
import shlex
import sys
from collections.abc import Iterator

from tools.quiet import import_tensorflow
from trainers.csv_settings import CsvTrainSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainCsvCommand(CsvTrainSettings):
    """Trains a captioner on images and captions of your own.

    A laptop trains the small architecture on a few thousand images: with --cache-features in well under an
    hour. The run folder then holds curves, checkpoints and a preset that `captioner caption --preset` takes.

    Example:
        captioner train csv --csv train.csv --images photos/ --validation-split 0.1 --cache-features --run-dir
        runs/mine
    """


def train_csv(command: TrainCsvCommand) -> int:
    """Runs the training and prints where its results are."""
    import_tensorflow()
    from trainers.csv_trainer import train_csv

    with log_on_terminal():
        best = train_csv(command)
    scores = ", ".join(f"{name} {value:.4g}" for name, value in best.items() if name.startswith("val_"))
    print(f"Best epoch: {best['epoch']}" + (f" ({scores})" if scores else ""))
    print(f"Preset: {command.run_dir / 'preset'}")
    print(f"Use it: captioner caption --preset {shlex.quote(str(command.run_dir))} photo.jpg")
    return 0


@contextlib.contextmanager
def log_on_terminal() -> Iterator[None]:
    """Shows what our own code logs, and nothing of what the libraries log."""
    logger, handler = logging.getLogger("captioner"), logging.StreamHandler(sys.stderr)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
