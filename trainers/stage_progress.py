"""Where a run is among its stages, and how it gets from one to the next."""

import contextlib
import itertools
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import keras

from captioner.files import atomic_path
from captioner.model import ImageCaptioner
from trainers.callbacks import out_of_patience
from trainers.checkpoint import CheckpointError, load_checkpoint, read_state
from trainers.disk import explained_disk_errors
from trainers.run_folder import RunFolder
from trainers.self_critical import require_tensorflow
from trainers.settings import TrainSettings
from trainers.stages import stages_of
from trainers.workers import Workers, require_shareable

log = logging.getLogger("captioner")


def require_possible(stages: Sequence[TrainSettings], captioner: ImageCaptioner, workers: Workers) -> None:
    """Refuses at once what would end a later stage at its beginning.

    Raises:
        ValueError: If a stage needs another backend, or a layer that the image encoder does not have, or cannot be trained on
            several devices where there are several.
    """
    for stage in stages:
        if workers.devices:
            require_shareable(stage, captioner)
        if stage.objective == "self_critical":
            require_tensorflow()
        train_parts_only(stage, captioner)


def train_parts_only(stage: TrainSettings, captioner: ImageCaptioner) -> None:
    """Freezes what a stage does not train."""
    captioner.backbone.set_trainable_parts(stage.train_parts, stage.frozen_until)


def first_state(settings: TrainSettings) -> dict:
    """The state of a run that begins: `epoch` and `step` count what is finished; the Keras backend; with stages also the number
    of the one that is trained, and the epochs before it."""
    stage = {"stage": 1, "first_epoch": 0} if stages_of(settings) else {}
    return {"epoch": 0, "step": 0, "backend": keras.config.backend(), **stage}


def load_latest(run: RunFolder, captioner: ImageCaptioner) -> tuple[Path, dict]:
    """Loads the weights of the latest checkpoint that is not damaged; returns its path and its state.

    Raises:
        CheckpointError: If all are damaged.
    """
    *later, last = run.checkpoints
    damaged = []
    for path in later:
        try:
            state = load_checkpoint(path, captioner)
            break
        except CheckpointError as error:
            log.warning("%s. Going on from the checkpoint before it.", error)
            damaged.append(path)
    else:
        path, state = last, load_checkpoint(last, captioner)
    if run.writes:  # they would count among those that are kept
        for other in damaged:
            other.unlink(missing_ok=True)
    return path, {"step": 0} | state


def require_resumable(run: RunFolder, fingerprints: dict[str, str]) -> None:
    """Refuses at once, before anything is written, a run that cannot go on as it began.

    Args:
        run: RunFolder.
        fingerprints: as in `TrainingData`.

    Raises:
        ValueError: If the Keras backend is another, or the data are; names which of them changed.
        CheckpointError: If all checkpoints are damaged, or one that is needed later is.
    """
    state = _latest_state(run)
    _require_same_backend(run, state)
    _require_same_data(run, state.get("data"), fingerprints)
    _require_later_checkpoints(run, state)


def is_over(stage: TrainSettings, state: dict) -> bool:
    """Whether the stage that the state is about has nothing left to train."""
    return state["epoch"] >= stage.epochs or out_of_patience(stage, state)


def put_weights_aside(run: RunFolder, number: int) -> None:
    """Keeps the weights that a stage begins with, the best so far, in a file of their own, unless they are there.

    The file of the best epoch changes in the stage, and a run that is killed in its first steps must begin it again with the
    same ones. The captioner is not touched: of several processes only the first writes, and only all together can assign.
    """
    path = run.stage_checkpoint(number)
    if not path.exists():
        read_state(run.best_checkpoint)  # refuses a damaged one
        with explained_disk_errors(path, "run_dir"), atomic_path(path) as temporary:
            shutil.copyfile(run.best_checkpoint, temporary)


def begin_stage(
    run: RunFolder, captioner: ImageCaptioner, state: dict, number: int, first_epoch: int
) -> None:
    """Gives the captioner the weights that were put aside for a stage, and brings the state there."""
    load_checkpoint(run.stage_checkpoint(number), captioner)
    log.info("Stage %d begins with the weights of epoch %d.", number, state["best_epoch"])
    state |= {"stage": number, "epoch": first_epoch, "first_epoch": first_epoch, "step": 0}


def _latest_state(run: RunFolder) -> dict:
    *later, last = run.checkpoints
    for path in later:
        with contextlib.suppress(CheckpointError):  # `load_latest` says so
            return read_state(path)
    return read_state(last)


def _require_same_backend(run: RunFolder, state: dict) -> None:
    now = keras.config.backend()
    begun = state.get("backend", now)  # runs of earlier versions do not say it
    if begun != now:
        raise ValueError(
            f"`resume` needs the Keras backend that the run began with, since others round and draw differently; {run.path} "
            f"began with {begun}, and this is {now}. Set KERAS_BACKEND={begun}, or begin a new run with --preset {run.path}."
        )


def _require_same_data(run: RunFolder, begun: dict[str, str] | None, now: dict[str, str]) -> None:
    if not isinstance(begun, dict):
        log.warning(
            "%s was begun by an earlier version: whether its data are still the same is not known.", run.path
        )
        return
    changed = sorted(name for name in begun.keys() | now.keys() if begun.get(name) != now.get(name))
    if changed:
        raise ValueError(
            f"`resume` needs the images and captions that the run began with; changed: {' and '.join(changed)} data of "
            f"{run.path}. What is left out now stands above, what was then in {run.data_report}. Bring them back, or "
            f"begin a new run with --preset {run.path}."
        )


def _require_later_checkpoints(run: RunFolder, state: dict) -> None:
    """Checks the best weights so far, and those put aside for stages that have not saved yet."""
    paths = [run.best_checkpoint] if "best_epoch" in state else []
    if "stage" in state:
        following = map(run.stage_checkpoint, itertools.count(state["stage"] + 1))
        paths += itertools.takewhile(Path.exists, following)
    for path in paths:
        try:
            read_state(path)
        except (CheckpointError, FileNotFoundError) as error:
            raise CheckpointError(
                f"`resume` will need {path}, which cannot be read: {error} Bring it back from a copy, or begin a new run."
            ) from error
