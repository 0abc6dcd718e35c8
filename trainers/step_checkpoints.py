"""Checkpoints within an epoch: by steps, by minutes, and when the process is asked to stop."""

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Iterator

import keras

from trainers.checkpoint import save_checkpoint
from trainers.divergence import require_finite_weights
from trainers.run_folder import RunFolder
from trainers.settings import TrainSettings
from trainers.stop_vote import StopVote
from trainers.workers import ALONE, Workers

log = logging.getLogger("captioner")

TERMINATED = 128 + signal.SIGTERM
"""Exit code of a process that was asked to end."""


class StepCheckpoints(keras.callbacks.Callback):
    """Saves the run within an epoch, so that `--resume` goes on at that very step.

    Args:
        settings: TrainSettings.
        run: RunFolder.
        captioner: the whole captioner, whose variables the checkpoints hold.
        state: where the run is, shared with `EndOfEpoch`: `epoch` and `step` count what is finished.
        steps_per_epoch: int.
        averages: values of the metrics' variables at `state["step"]`, or none at the start of an epoch.
        workers: Workers, which all stop at the same step.
    """

    def __init__(
        self,
        settings: TrainSettings,
        run: RunFolder,
        captioner,
        state: dict,
        steps_per_epoch: int,
        averages=(),
        workers: Workers = ALONE,
    ):
        super().__init__()
        self.settings, self.run, self.captioner, self.state = settings, run, captioner, state
        self.steps_per_epoch, self.averages = steps_per_epoch, averages
        self.workers, self.vote = workers, StopVote(workers)
        self.stop_signal = None
        self.saved_at = time.monotonic()

    def on_epoch_begin(self, epoch, logs=None):
        # Keras has just set all averages to zero.
        variables = [variable for metric in self.model.metrics for variable in metric.variables]
        for variable, value in zip(variables, self.averages, strict=False):
            variable.assign(value)
        self.averages = ()

    def on_train_batch_end(self, batch, logs=None):
        self.state["step"] += 1
        if self.state["step"] < self.steps_per_epoch:
            stop_signal = self.vote.after_step(self.stop_signal or 0)
            if stop_signal or self._is_due():
                require_finite_weights(
                    self.model, f"step {self.state['step']} of epoch {self.state['epoch'] + 1}"
                )
                self.save()
            self._stop(stop_signal)

    def save(self) -> None:
        """Writes the checkpoint of this step, and deletes those that are older than the kept ones."""
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
        if self.run.writes:
            path = self.run.checkpoint(self.state["epoch"] * self.steps_per_epoch + self.state["step"])
            save_checkpoint(path, self.captioner, self.model.optimizer, self.state, self.model.metrics)
            self.run.keep_checkpoints(self.settings.keep_checkpoints)
        self.saved_at = time.monotonic()

    def stop_if_asked(self) -> None:
        """Ends the run, whose checkpoint has just been saved, if a signal asked for it."""
        self._stop(self.workers.highest(self.stop_signal or 0))

    def _stop(self, stop_signal: int) -> None:
        if stop_signal == signal.SIGINT:
            raise KeyboardInterrupt
        if stop_signal:
            log.info("Saved, and stopped by signal %d. Go on with --resume.", stop_signal)
            raise SystemExit(TERMINATED)

    def _is_due(self) -> bool:
        if self.settings.checkpoint_steps:
            return self.state["step"] % self.settings.checkpoint_steps == 0
        minutes = self.settings.checkpoint_minutes
        return 0 < minutes <= (time.monotonic() - self.saved_at) / 60


@contextlib.contextmanager
def saving_on_signals(checkpoints: StepCheckpoints) -> Iterator[None]:
    """During the block SIGTERM and the first Ctrl-C save before they end the run; a second Ctrl-C ends it at once."""
    if (
        threading.current_thread() is not threading.main_thread()
    ):  # Python gives signals to the main thread alone
        yield
        return

    def ask(number, frame):
        if checkpoints.stop_signal is not None:
            raise KeyboardInterrupt
        checkpoints.stop_signal = number
        log.info("Saving after this step, then stopping. Ctrl-C again stops at once, without saving.")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
