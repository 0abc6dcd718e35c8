"""The `captioner train` commands."""

import contextlib
import dataclasses
import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterator

from tools.processes import with_processes
from tools.quiet import import_tensorflow
from trainers.csv_settings import CsvTrainSettings
from trainers.settings import TrainSettings
from trainers.webdataset_settings import WebdatasetTrainSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainCsvCommand(CsvTrainSettings):
    """Trains a captioner on images and captions of your own.

    A laptop trains the small architecture on a few thousand images: with --cache-features in well under an
    hour. The run folder then holds curves, checkpoints and a preset that `captioner caption --preset` takes.

    --config FILE takes settings from a JSON file such as a run's config.json, and --recipe NAME from a named recipe (captioner
    train --recipes lists them); flags win over both. Whether to resume, and as which of several processes, a file does not say.
    A file may have stages, each with its own parts, epochs and rate:
    {"stages": [{"epochs": 2, "train_parts": ["cross_attention"]}, {"epochs": 5, "rate_scales": {"decoder": 0.5}}]}

    Example:
        captioner train csv --csv train.csv --images photos/ --validation-split 0.1 --cache-features --run-dir
        runs/mine
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainWebdatasetCommand(WebdatasetTrainSettings):
    """Trains a captioner on tar shards such as img2dataset writes.

    Shards without an index are indexed first: each sample is checked, and a bad one is named and left out. A shard that is
    damaged while training loses its damaged samples, and nothing stops. --config, --recipe and stages: see captioner train csv.

    Example:
        captioner train webdataset --shards 'cc3m/{00000..00331}.tar' --validation-csv coco_val.json
        --validation-images val2017/ --epochs 2 --run-dir runs/cc3m
    """


def train_csv(command: TrainCsvCommand) -> int:
    """Runs a training from a table."""
    import_tensorflow()
    from trainers.cross_validation import cross_validate
    from trainers.csv_trainer import train_csv

    if not command.folds or command.fold:
        return _run(train_csv, command)
    command = with_processes(command, os.environ)  # refuses several, which the environment may tell of
    with log_on_terminal():
        summary = cross_validate(command, train_csv)
    for name, metric in summary.items():
        print(f"{name} {metric['mean']:.4g} +- {metric['standard_deviation']:.2g}")
    print(f"Runs: {command.run_dir}, one for each of {command.folds} folds")
    return 0


def train_webdataset(command: TrainWebdatasetCommand) -> int:
    """Runs a training from shards."""
    import_tensorflow()
    from trainers.webdataset_trainer import train_webdataset

    return _run(train_webdataset, command)


def _run(train: Callable[[TrainSettings], dict], command: TrainSettings) -> int:
    """Runs a training and prints where its results are."""
    command = with_processes(command, os.environ)
    with log_on_terminal():
        best = train(command)
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
