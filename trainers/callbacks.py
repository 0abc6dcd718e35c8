"""What happens around training steps: progress, a stop on divergence, and the end of an epoch."""

import logging
import math
import time

import keras
from tqdm import tqdm

from trainers.checkpoint import averaged_weights, save_checkpoint
from trainers.run_folder import RunFolder, plot_metrics
from trainers.settings import TrainSettings
from trainers.validation import Validator, image_rows

log = logging.getLogger("captioner")

SHEET_IMAGES = 24


class DivergenceError(ValueError):
    """The loss is no longer a number."""


class Progress(keras.callbacks.Callback):
    """A bar for each epoch, in images, with the loss; and a stop at the first loss that is not a number.

    Args:
        num_images: int. Images of an epoch.
        batch_size: int.
        captions_per_image: int.
    """

    def __init__(self, num_images: int, batch_size: int, captions_per_image: int):
        super().__init__()
        self.num_images, self.batch_size, self.captions_per_image = num_images, batch_size, captions_per_image
        self.bar = None

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch, self.start = epoch, time.monotonic()
        self.bar = tqdm(
            total=self.num_images, unit="image", desc=f"Epoch {epoch + 1}/{self.params['epochs']}"
        )

    def on_train_batch_end(self, batch, logs=None):
        loss = logs["loss"]
        if not math.isfinite(loss):
            self.bar.close()
            raise DivergenceError(
                f"The loss became {loss} at step {batch + 1} of epoch {self.epoch + 1}. The checkpoint of the last finished "
                "epoch is intact. Lower --learning-rate or --clip-norm, or use --dtype float32."
            )
        self.bar.update(min(self.batch_size, self.num_images - self.bar.n))
        self.bar.set_postfix(loss=f"{loss:.3f}", refresh=False)

    def on_epoch_end(self, epoch, logs=None):
        self.bar.close()
        if logs is not None:
            seconds = time.monotonic() - self.start
            logs["train_seconds"] = seconds
            logs["captions_per_second"] = self.num_images * self.captions_per_image / seconds


class EndOfEpoch(keras.callbacks.Callback):
    """Validates, records, and keeps the last and the best checkpoint; stops when nothing gets better.

    Args:
        settings: TrainSettings.
        run: RunFolder.
        captioner: the whole captioner, whose variables the checkpoints hold.
        validator: Validator, or None without validation images: then the last epoch is the best.
        paths: validation image files.
        state: where a resumed run is: `{"best_score": ..., "best_epoch": ...}`.
    """

    def __init__(
        self, settings: TrainSettings, run: RunFolder, captioner, validator: Validator | None, paths, state
    ):
        super().__init__()
        self.settings, self.run, self.captioner = settings, run, captioner
        self.validator, self.paths = validator, paths
        self.best_score, self.best_epoch = state.get("best_score"), state.get("best_epoch", 0)
        self.writer = None

    def on_epoch_end(self, epoch, logs=None):
        optimizer, number = self.model.optimizer, epoch + 1
        metrics = {"epoch": number, **{name: float(value) for name, value in (logs or {}).items()}}
        metrics["learning_rate"] = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
        with averaged_weights(self.captioner, optimizer):
            captions = {}
            if self.validator is not None:
                validation, captions = self.validator()
                metrics |= validation
            # CIDEr where it can be had, then the loss; without validation the latest.
            score = [metrics.get("val_cider", 0.0), -metrics.get("val_loss", -number)]
            if self.best_score is None or score > self.best_score:
                self.best_score, self.best_epoch = score, number
                save_checkpoint(
                    self.run.best_checkpoint, self.captioner, None, {"epoch": number, "score": score}
                )
        state = {"epoch": number, "best_score": self.best_score, "best_epoch": self.best_epoch}
        self.run.append_metrics(metrics)
        save_checkpoint(self.run.last_checkpoint, self.captioner, optimizer, state)
        self._show(metrics, captions)
        if self.settings.patience and number - self.best_epoch >= self.settings.patience:
            log.info(
                "No better epoch than %d in %d epochs: stopping.", self.best_epoch, self.settings.patience
            )
            self.model.stop_training = True

    def _show(self, metrics, captions):
        log.info(" ".join(f"{name}={value:.4g}" for name, value in metrics.items()))
        for index, text in sorted(captions.items())[:3]:
            log.info("  %s: %s", self.paths[index], text)
        plot_metrics(self.run.read_metrics(), self.run.path / "metrics.png")
        self._write_summaries(metrics)
        if captions:
            from captioner.evaluation import contact_sheet

            rows = image_rows(self.paths, captions, self.validator.references, SHEET_IMAGES)
            contact_sheet(rows, self.run.path / "validation.png", headline=f"Epoch {metrics['epoch']}")

    def _write_summaries(self, metrics):
        import tensorflow as tf

        self.writer = self.writer or tf.summary.create_file_writer(str(self.run.path / "tensorboard"))
        with self.writer.as_default(step=metrics["epoch"]):
            for name, value in metrics.items():
                if name != "epoch":
                    tf.summary.scalar(name, value)
        self.writer.flush()
