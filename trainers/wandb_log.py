"""Sends the metrics of a run to Weights & Biases, where it is installed."""

import json
import logging
import secrets

import keras

from trainers.run_folder import RunFolder
from trainers.settings import TrainSettings

log = logging.getLogger("captioner")


class WandbLog(keras.callbacks.Callback):
    """Sends the settings, and after each epoch its metrics and contact sheet, which other callbacks have written before.

    `wandb.json` in the run folder says which run of which project has got which epochs: a resumed run goes on in it, and
    epochs that were not sent before an end are sent then.

    Args:
        settings: TrainSettings with a `wandb_project`.
        run: an open RunFolder.

    Raises:
        ImportError: If wandb is not installed.
        ValueError: If it cannot begin.
    """

    def __init__(self, settings: TrainSettings, run: RunFolder):
        super().__init__()
        wandb = import_wandb()
        self.run, self.path = run, run.path / "wandb.json"
        self.state = self._stored_state(settings.wandb_project)
        try:
            self.wandb_run = wandb.init(
                project=settings.wandb_project,
                id=self.state["id"],
                name=run.path.name,
                config=settings.to_dict(),
                dir=run.path,
                resume="allow",
                settings=wandb.Settings(silent=True, console="off"),
            )
        except wandb.errors.Error as error:
            raise ValueError(
                f"`wandb_project` {settings.wandb_project!r} cannot be logged to: {error}. Try `wandb login`, or set "
                "WANDB_MODE=offline and send the run later with `wandb sync`."
            ) from error
        self.make_image = wandb.Image
        self.run.write_json(self.path, self.state)
        log.info("Logging to Weights & Biases: run %s of %s.", self.state["id"], settings.wandb_project)

    def on_epoch_end(self, epoch, logs=None):
        self.send()

    def send(self) -> None:
        """Sends the epochs that are not sent yet."""
        new = [line for line in self.run.read_metrics() if line["epoch"] > self.state["epoch"]]
        for line in new:
            values = dict(line)
            if line is new[-1] and self.run.contact_sheet.exists():
                values["validation"] = self.make_image(str(self.run.contact_sheet))
            self.wandb_run.log(values, step=line["epoch"])
            self.state["epoch"] = line["epoch"]
        self.run.write_json(self.path, self.state)

    def close(self) -> None:
        """Ends the connection, in whatever way the training ended."""
        self.send()
        self.wandb_run.finish()

    def _stored_state(self, project: str) -> dict:
        try:
            stored = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            stored = {}
        if self.run.checkpoints and stored.get("project") == project:
            return stored
        return {"project": project, "id": secrets.token_hex(4), "epoch": 0}


def import_wandb():
    """The wandb module.

    Raises:
        ImportError: If it is not installed, with the way out.
    """
    try:
        import wandb
    except ImportError as error:
        raise ImportError(
            '`wandb_project` needs Weights & Biases: pip install "captioner[wandb]", or leave it out; TensorBoard and '
            "metrics.jsonl get the same metrics."
        ) from error
    return wandb
