"""What a trainer feeds to the loop, and what happens where that cannot be trained on."""

import contextlib
import dataclasses
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from captioner.files import atomic_path
from captioner.model.encoder_split import EncoderSplit
from trainers.data_report import DataReport, require_good_data, write_data_report
from trainers.divergence import DivergenceError
from trainers.records import Problem
from trainers.run_folder import RunFolder
from trainers.settings import TrainSettings
from trainers.stage_progress import require_resumable
from trainers.stages import stage_settings

log = logging.getLogger("captioner")

NO_VALIDATION = "No validation images: the last epoch will be exported."


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingData:
    """What a trainer feeds to the loop."""

    training: Callable
    """Function `(first_epoch, first_step) -> tf.data.Dataset` of `(x, y, sample_weight)`, from that step of that epoch
    to the end of the last."""
    num_images: int
    """Training images of an epoch."""
    num_captions: int
    """Captions shown in an epoch."""
    steps_per_epoch: int
    """Batches of an epoch."""
    fingerprints: dict[str, str]
    """For "training" and "validation" what changes with images and captions: a resumed run must have the same."""
    find_problems: Callable[[], list[Problem]]
    """Looks for images that became unusable since training began."""
    validation: tf.data.Dataset | None = None
    """Validation batches, in order, or None."""
    validation_paths: Sequence = ()
    """Validation image files, in the same order; or what prints as a name and is an array, such as `ShardImage`."""
    validation_references: tuple = ()
    """The captions of each of them."""
    training_references: Iterable = ()
    """The captions of each training image."""
    split: EncoderSplit | None = None
    """How the image encoder is split, if `x["images"]` holds the features of its frozen part."""


def accept_data(
    settings: TrainSettings,
    run: RunFolder,
    reports: Mapping[str, DataReport],
    fingerprints: dict[str, str],
    *,
    has_validation: bool,
) -> None:
    """Reports the data of a run, and refuses those that are too bad or not those that a run to resume began with.

    Args:
        settings: TrainSettings.
        run: an open RunFolder. A resume that is refused leaves it as it is.
        reports: as for `write_data_report`.
        fingerprints: as in `TrainingData`.
        has_validation: bool. Whether there are validation images.

    Raises:
        ValueError: If that is so.
        CheckpointError: If a run to resume cannot be read.
    """
    patience = max(stage.patience for stage in stage_settings(settings))
    if patience and not has_validation:
        raise ValueError(
            f"`patience` needs validation images, without which no epoch is better than another; received {patience}."
        )
    for report in reports.values():
        log.info(report.summary())
    if settings.resume:
        require_resumable(run, fingerprints)
    if run.writes:
        write_data_report(run.data_report, reports)
    if settings.resume:
        return  # what is used is the same, and was good enough
    for report in reports.values():
        require_good_data(report, settings.max_bad_fraction, run.data_report)


@contextlib.contextmanager
def diverging_batch_stored(run: RunFolder, data: TrainingData, state: dict) -> Iterator[None]:
    """Keeps the batch of the step after which a loss or weight was no number, and the one before it, to be looked at.

    Weights that the update of the batch before has spoiled show in the loss of the next. Its arrays are called
    `previous_images` and so on; the first step of a run or stage has none.
    """
    try:
        yield
    except DivergenceError as error:
        if not run.writes:
            raise
        num_steps = data.steps_per_epoch
        step = state["epoch"] * num_steps + min(state["step"], num_steps - 1)
        first = max(step - 1, state.get("first_epoch", 0) * num_steps)
        arrays = {}
        batches = data.training(*divmod(first, num_steps)).take(step - first + 1)
        for x, targets, sample_weight in batches.as_numpy_iterator():
            previous = {f"previous_{name}": array for name, array in arrays.items()}
            arrays = {**x, "targets": targets, "sample_weight": sample_weight}
        with atomic_path(run.diverged_batch) as path:
            np.savez(path, **arrays, **previous)
        raise DivergenceError(f"{error} The last batches are in {run.diverged_batch}.") from error


@contextlib.contextmanager
def explained_data_errors(data: TrainingData) -> Iterator[None]:
    """Says in a user's words what TensorFlow reports from inside its graph."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        raise ValueError(
            "Out of memory. Lower --batch-size, with as much more --gradient-accumulation-steps, or --captions-per-image."
        ) from error
    except tf.errors.OpError as error:
        problems = "; ".join(map(str, data.find_problems()[:5]))
        raise ValueError(
            "Training stopped while reading images. The last checkpoint is intact. "
            + (f"Since the start these became unusable: {problems}. " if problems else "")
            + _reason(str(error.message))
        ) from error


def _reason(message: str) -> str:
    """What a Python function in TensorFlow's graph raised, without TensorFlow's words around it and the traceback."""
    raised = re.findall(r"^[\w.]*Error: (.+)$", message, re.MULTILINE)
    return raised[-1] if raised else message
