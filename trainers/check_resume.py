"""Kills a training at random steps, resumes it, and compares it with one that ran through."""

import dataclasses
import json
import logging
import multiprocessing
import random
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from trainers.run_folder import RunFolder
from trainers.settings import TrainSettings

log = logging.getLogger("captioner")

TIMES = ("train_seconds", "captions_per_second")
"""Metrics that no two runs share."""
POLL_SECONDS = 0.002


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResumeReport:
    """How a killed run compares with a whole one."""

    killed_at: tuple[int, ...]
    """Steps of the latest checkpoint at each kill."""
    differences: tuple[str, ...]
    """What is not equal to the bit; none if all is well."""


def check_resume(
    train: Callable, settings: TrainSettings, folder: Path, *, num_kills: int, seed: int = 0
) -> ResumeReport:
    """Trains twice: once in one go in `folder/whole`, once in `folder/killed`, where SIGKILL ends it again and again.

    Args:
        train: function of a module, from settings to metrics, such as `train_csv`; it runs in processes of its own.
        settings: of the run; folder and checkpoints are set here: there is one after each step.
        folder: path. Must not hold such runs yet.
        num_kills: int. Fewer, if the run ends before.
        seed: int. Of the moments of the kills.

    Returns:
        `ResumeReport`.

    Raises:
        FileExistsError: If one of the runs is there already.
        ChildProcessError: If a training ends with an error of its own.
    """
    settings = dataclasses.replace(settings, checkpoint_steps=1, resume=False)
    whole, killed = (RunFolder(folder / name) for name in ("whole", "killed"))
    for run in (whole, killed):
        if run.path.exists():  # it would be resumed at its end, and compared with itself
            raise FileExistsError(f"{run.path} is there already; take another folder, or remove it.")
    # Its children begin with TensorFlow imported, and share nothing else.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([train.__module__])
    started = time.monotonic()
    _wait(_start(context, train, settings, whole))
    longest_pause = (time.monotonic() - started) / 10
    log.info("The whole run took %.0f s.", longest_pause * 10)
    chance, killed_at = random.Random(seed), []
    for _ in range(num_kills):
        process = _start(context, train, settings, killed)
        if not _kill_at_random(process, killed, chance, longest_pause):
            break
        killed_at.append(_latest_step(killed))
        log.info("Killed with %d steps saved.", killed_at[-1])
    _wait(_start(context, train, settings, killed))
    return ResumeReport(killed_at=tuple(killed_at), differences=tuple(find_differences(whole, killed)))


def find_differences(whole: RunFolder, killed: RunFolder) -> list[str]:
    """What two runs do not share to the bit: metrics (but for times), the last checkpoint, the best one."""
    found = []
    if _metrics(whole) != _metrics(killed):
        found.append(f"the metrics: {whole.metrics} and {killed.metrics}")
    for path in (whole.checkpoints[0], whole.best_checkpoint):
        other = killed.path / "checkpoints" / path.name
        if not other.exists():
            found.append(f"{other} is missing")
            continue
        with h5py.File(path) as expected, h5py.File(other) as actual:
            found += _unequal_values(expected, actual, other)
    return found


def _start(context, train: Callable, settings: TrainSettings, run: RunFolder):
    settings = dataclasses.replace(settings, run_dir=run.path, resume=bool(run.checkpoints))
    process = context.Process(target=train, args=(settings,))
    process.start()
    return process


def _wait(process) -> None:
    process.join()
    if process.exitcode:
        raise ChildProcessError(
            f"the training ended with exit code {process.exitcode}; what it said stands above"
        )


def _kill_at_random(process, run: RunFolder, chance: random.Random, longest_pause: float) -> bool:
    """Kills the process some steps and a moment later; False if it came to its end before."""
    last = _latest_step(run) + chance.randint(0, 3)
    while process.is_alive() and _latest_step(run) <= last:
        time.sleep(POLL_SECONDS)
    # Not only right behind a checkpoint: also while one is written, and in a step.
    process.join(chance.uniform(0, min(longest_pause, 0.05)))
    if not process.is_alive():
        _wait(process)
        return False
    process.kill()
    process.join()
    return True


def _latest_step(run: RunFolder) -> int:
    checkpoints = run.checkpoints
    return int(checkpoints[0].stem.split("-")[1]) if checkpoints else 0


def _metrics(run: RunFolder) -> list[dict]:
    return [{k: v for k, v in line.items() if k not in TIMES} for line in run.read_metrics()]


def _unequal_values(expected, actual, path: Path) -> list[str]:
    if json.loads(expected.attrs["state"]) != json.loads(actual.attrs["state"]):
        return [f"{path}: the state"]
    return [
        f"{path}: {dataset.attrs['path']}"
        for group in expected
        for name, dataset in expected[group].items()
        if not np.array_equal(dataset[()], actual[group][name][()], equal_nan=True)
    ]
