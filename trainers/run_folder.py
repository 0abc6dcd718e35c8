"""The run folder: a training run as files that explain themselves."""

import contextlib
import dataclasses
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from captioner.files import atomic_path
from trainers.disk import explained_disk_errors, run_file

CONFIG, METRICS, REPORT, LOCK = "config.json", "metrics.jsonl", "data_report.json", ".lock"
MAY_CHANGE = (
    "resume",
    "run_dir",
    "cache_dir",
    "shard_cache_gb",
    "checkpoint_minutes",
    "checkpoint_steps",
    "keep_checkpoints",
    "wandb_project",
    "process_index",
    "coordinator",
    "process_timeout_s",
)
"""Settings that do not change what a resumed run computes."""


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """Where each file of a run is."""

    path: Path
    """The folder."""
    writes: bool = True
    """False in all processes of a training but the first: they only read."""

    @property
    def config(self) -> Path:
        """The settings of the run."""
        return self.path / CONFIG

    @property
    def metrics(self) -> Path:
        """One JSON object for each epoch."""
        return self.path / METRICS

    @property
    def data_report(self) -> Path:
        """What was left out of the data."""
        return self.path / REPORT

    @property
    def checkpoints(self) -> list[Path]:
        """The kept checkpoints, each with everything that a resumed run needs; the latest first."""
        return sorted(self.path.glob("checkpoints/step-*.h5"), reverse=True)

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint after that many steps of the whole run lies."""
        return self.path / "checkpoints" / f"step-{step:010d}.h5"

    def keep_checkpoints(self, number: int) -> None:
        """Deletes all but the latest ones."""
        for path in self.checkpoints[number:]:
            path.unlink(missing_ok=True)

    @property
    def best_checkpoint(self) -> Path:
        """The weights of the best epoch."""
        return self.path / "checkpoints" / "best.h5"

    def stage_checkpoint(self, number: int) -> Path:
        """The weights that the stage of that number began with."""
        return self.path / "checkpoints" / f"stage-{number}.h5"

    @property
    def diverged_batch(self) -> Path:
        """The batch of the step at which a run diverged, and the one before it (`previous_images` and so on): arrays of images,
        token_ids, padding_mask, targets, sample_weight."""
        return self.path / "diverged_batch.npz"

    @property
    def contact_sheet(self) -> Path:
        """The last epoch's captions of validation images."""
        return self.path / "validation.png"

    @property
    def preset(self) -> Path:
        """The exported captioner."""
        return self.path / "preset"

    @contextlib.contextmanager
    def opened(self, settings: dict, resume: bool) -> Iterator[None]:
        """Creates the folder, or opens it to resume, and keeps other processes out of it during the block.

        A folder without a checkpoint is begun anew.

        Raises:
            FileExistsError: If a run is there and `resume` is not asked for.
            FileNotFoundError: If there is nothing to resume.
            ValueError: If the run to resume had other settings.
            OSError: If the folder cannot be written, or another process trains in it.
        """
        if resume and not self.checkpoints:
            raise FileNotFoundError(
                f"`run_dir` {self.path} has no checkpoint to resume from: it ended before its first one. Start "
                "without --resume."
            )
        if not self.writes:
            yield
            return
        with explained_disk_errors(self.path, "run_dir"):
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / LOCK).open("a")
        with lock:
            if not _lock(lock):
                raise OSError(
                    f"`run_dir` {self.path} is in use by another training. Wait for it, or give another folder."
                )
            if resume:
                self._require_same_settings(settings)
            else:
                self._begin(settings)
            for path in self.path.glob("checkpoints/.*.h5"):  # half-written, by a process that was killed
                path.unlink()
            yield

    def _begin(self, settings: dict) -> None:
        if self.checkpoints or self.preset.exists():
            raise FileExistsError(
                f"`run_dir` {self.path} holds a run already. Go on with --resume, or give another folder."
            )
        self.metrics.unlink(missing_ok=True)
        for path in self.path.glob("checkpoints/stage-*.h5"):
            path.unlink()
        self.write_json(self.config, settings)

    def _require_same_settings(self, settings: dict) -> None:
        try:
            stored = dict(json.loads(self.config.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(
                f"`resume` needs the settings that the run began with; {self.config} cannot be read: {error}."
            ) from error
        changed = sorted(
            name
            for name in stored.keys() | settings.keys()
            if name not in MAY_CHANGE and stored.get(name) != settings.get(name)
        )
        if changed:
            values = ", ".join(f"{name}: {stored.get(name)!r} -> {settings.get(name)!r}" for name in changed)
            raise ValueError(
                f"`resume` needs the settings that the run began with, since order and learning rate depend on them; "
                f"changed: {values}. Use the old ones, or begin a new run with --preset {self.path}."
            )

    def append_metrics(self, metrics: dict) -> None:
        """Adds the line of an epoch, durably."""
        if not self.writes:
            return
        with (
            explained_disk_errors(self.metrics, "run_dir"),
            self.metrics.open("a", encoding="utf-8") as file,
        ):
            file.write(json.dumps(metrics) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def read_metrics(self) -> list[dict]:
        """The epochs so far."""
        if not self.metrics.exists():
            return []
        lines = self.metrics.read_text(encoding="utf-8").splitlines(keepends=True)
        # A line without its end is one that a full disk or a power cut left half written.
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def keep_metrics_until(self, num_epochs: int) -> None:
        """Drops lines of epochs that a resumed run will do again."""
        if not self.writes:
            return
        kept = [line for line in self.read_metrics() if line["epoch"] <= num_epochs]
        with run_file(self.metrics) as path:
            path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")

    @staticmethod
    def write_json(path: Path, value) -> None:
        """Writes a JSON file in one step."""
        with run_file(path) as temporary:
            temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def plot_metrics(metrics: dict[str, list[dict]], path: Path) -> None:
    """Draws curves: loss on the left, scores on the right.

    Args:
        metrics: for each run its epochs, by the name that its curves have; "" names them by the metric alone.
        path: the PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, names in zip(
        figure.subplots(1, 2),
        (("loss", "val_loss"), ("val_cider", "val_bleu_4", "val_token_accuracy")),
        strict=True,
    ):
        for number, (run, lines) in enumerate(metrics.items()):
            for name, style in zip(names, ("-", "--", ":"), strict=False):
                points = [(line["epoch"], line[name]) for line in lines if name in line]
                if not points:
                    continue
                look = {"linestyle": style, "color": f"C{number}"} if run else {}
                axes.plot(
                    *zip(*points, strict=True),
                    marker="o",
                    markersize=3,
                    label=f"{run} {name}".strip(),
                    **look,
                )
        for epoch in _stage_begins(metrics):
            axes.axvline(epoch, color="0.7", linewidth=0.8)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:  # the line between stages has no label
            axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _stage_begins(metrics: dict[str, list[dict]]) -> set[float]:
    """Where a line between two stages stands."""
    return {
        (before["epoch"] + after["epoch"]) / 2
        for lines in metrics.values()
        for before, after in itertools.pairwise(lines)
        if before.get("stage") != after.get("stage")
    }


def _lock(file: TextIO) -> bool:
    """Takes a file for this process until it is closed or the process ends; False if another has it."""
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True
