"""What happens around training steps: progress, a stop on divergence, and the end of an epoch."""

import logging
import math
import time

import keras
from tqdm import tqdm

from trainers.checkpoint import averaged_weights, save_checkpoint
from trainers.divergence import WAY_OUT, DivergenceError, require_finite_weights
from trainers.run_folder import RunFolder, plot_metrics
from trainers.settings import TrainSettings
from trainers.step_checkpoints import StepCheckpoints
from trainers.validation import Validator, image_rows

log = logging.getLogger("captioner")

SHEET_IMAGES = 24


class Progress(keras.callbacks.Callback):
    """A bar for each epoch, in images, with the loss; and a stop at the first loss that is not a number.

    Args:
        num_images: int. Images of an epoch.
        batch_size: int.
        num_captions: int. Captions of an epoch.
        num_epochs: int. Epochs of the run.
        first_step: int. Steps of the first epoch that an earlier process has done.
    """

    def __init__(
        self, num_images: int, batch_size: int, num_captions: int, num_epochs: int, first_step: int = 0
    ):
        super().__init__()
        self.num_images, self.batch_size, self.num_captions = num_images, batch_size, num_captions
        self.num_epochs, self.first_step = num_epochs, first_step
        self.bar = None

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch, self.start = epoch, time.monotonic()
        self.bar = tqdm(
            total=self.num_images,
            initial=self.first_step * self.batch_size,
            unit="image",
            desc=f"Epoch {epoch + 1}/{self.num_epochs}",
        )

    def on_train_batch_end(self, batch, logs=None):
        loss = logs["loss"]
        if not math.isfinite(loss):
            raise DivergenceError(
                f"The loss became {loss} at step {self.first_step + batch + 1} of epoch {self.epoch + 1}. {WAY_OUT}"
            )
        self.bar.update(min(self.batch_size, self.num_images - self.bar.n))
        self.bar.set_postfix(loss=f"{loss:.3f}", refresh=False)

    def on_epoch_end(self, epoch, logs=None):
        self.close()
        if logs is not None:
            seconds = time.monotonic() - self.start
            share = 1 - self.first_step * self.batch_size / self.num_images
            logs["train_seconds"] = seconds
            logs["captions_per_second"] = self.num_captions * share / seconds
        self.first_step = 0

    def close(self) -> None:
        """Ends the bar's line, also when training stops in the middle of an epoch."""
        if self.bar is not None:
            self.bar.close()


class EndOfEpoch(keras.callbacks.Callback):
    """Validates, records, and keeps the last and the best checkpoint; stops when nothing gets better.

    Args:
        settings: TrainSettings.
        run: RunFolder.
        captioner: the whole captioner, whose variables the checkpoints hold.
        validator: Validator, or None without validation images: then the last epoch is the best.
        paths: validation image files.
        checkpoints: StepCheckpoints, whose state says where the run is:
            `{"epoch": ..., "step": ..., "backend": ..., "data": ..., "best_score": ..., "best_epoch": ...}`, and in a run of
            stages `"stage"` and its `"first_epoch"`.
        num_epochs: int. Epochs of the run.
    """

    def __init__(
        self,
        settings: TrainSettings,
        run: RunFolder,
        captioner,
        validator: Validator | None,
        paths,
        checkpoints: StepCheckpoints,
        num_epochs: int,
    ):
        super().__init__()
        self.num_epochs = num_epochs
        self.settings, self.run, self.captioner = settings, run, captioner
        self.validator, self.paths = validator, paths
        self.checkpoints, self.state = checkpoints, checkpoints.state
        self.writer = None

    def on_epoch_end(self, epoch, logs=None):
        optimizer, number = self.model.optimizer, epoch + 1
        metrics = {"epoch": number, **{name: float(value) for name, value in (logs or {}).items()}}
        metrics |= {"stage": self.state["stage"]} if "stage" in self.state else {}
        metrics["learning_rate"] = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
        require_finite_weights(self.model, f"the last step of epoch {number}")
        with averaged_weights(optimizer):
            captions = {}
            if self.validator is not None:
                validation, captions = self.validator()
                metrics |= validation
            if not math.isfinite(metrics.get("val_loss", 0.0)):
                raise DivergenceError(
                    f"The validation loss became {metrics['val_loss']} after epoch {number}. {WAY_OUT}"
                )
            # CIDEr where it can be had, then the loss; without validation the latest.
            score = [metrics.get("val_cider", 0.0), -metrics.get("val_loss", -number)]
            if self.state.get("best_score") is None or score > self.state["best_score"]:
                self.state |= {"best_score": score, "best_epoch": number}
                if self.run.writes:
                    save_checkpoint(
                        self.run.best_checkpoint, self.captioner, None, {"epoch": number, "score": score}
                    )
        self.state |= {"epoch": number, "step": 0}
        self.run.append_metrics(metrics)
        self.checkpoints.save()
        if self.run.writes:
            self._show(metrics, captions)
        if number < self.num_epochs:
            self.checkpoints.stop_if_asked()
        if self.checkpoints.workers.highest(int(out_of_patience(self.settings, self.state))):
            log.info(
                "No epoch was better than epoch %d for %d epochs: stopping.",
                self.state["best_epoch"],
                self.settings.patience,
            )
            self.model.stop_training = True

    def _show(self, metrics, captions):
        log.info(" ".join(f"{name}={value:.4g}" for name, value in metrics.items()))
        for index, text in sorted(captions.items())[:3]:
            log.info("  %s: %s", self.paths[index], text)
        plot_metrics({"": self.run.read_metrics()}, self.run.path / "metrics.png")
        self._write_summaries(metrics)
        if captions:
            from captioner.evaluation import contact_sheet

            rows = image_rows(self.paths, captions, self.validator.references, SHEET_IMAGES)
            contact_sheet(rows, self.run.contact_sheet, headline=f"Epoch {metrics['epoch']}")

    def _write_summaries(self, metrics):
        import tensorflow as tf

        self.writer = self.writer or tf.summary.create_file_writer(str(self.run.path / "tensorboard"))
        with self.writer.as_default(step=metrics["epoch"]):
            for name, value in metrics.items():
                if name != "epoch":
                    tf.summary.scalar(name, value)
        self.writer.flush()


def out_of_patience(settings: TrainSettings, state: dict) -> bool:
    """Whether a run, or its stage, has gone on for `patience` epochs without a better one."""
    last_better = max(state.get("best_epoch", 0), state.get("first_epoch", 0))
    return 0 < settings.patience <= state["epoch"] - last_better
