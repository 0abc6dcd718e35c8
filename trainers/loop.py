"""The one training loop: compiles, fits, resumes and exports, whatever the batches come from."""

import dataclasses
import logging
from collections.abc import Callable

import keras

from captioner.model import ImageCaptioner
from captioner.model.encoder_split import EncoderSplit
from trainers.build import export_preset
from trainers.callbacks import EndOfEpoch, Progress
from trainers.checkpoint import load_checkpoint
from trainers.optimization import CaptionLoss, build_optimizer
from trainers.run_folder import RunFolder
from trainers.settings import TrainSettings
from trainers.validation import Validator

log = logging.getLogger("captioner")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingData:
    """What a trainer feeds to the loop."""

    training: object
    """Function `(first_epoch) -> tf.data.Dataset` of `(x, y, sample_weight)`, from that epoch to the last."""
    num_images: int
    """Training images of an epoch."""
    steps_per_epoch: int
    """Batches of an epoch."""
    validation: object | None = None
    """Dataset of validation batches, in order, or None."""
    validation_paths: tuple = ()
    """Validation image files, in the same order."""
    validation_references: tuple = ()
    """The captions of each of them."""
    split: EncoderSplit | None = None
    """How the image encoder is split, if `x["images"]` holds the features of its frozen part."""


def train(settings: TrainSettings, run: RunFolder, captioner: ImageCaptioner, data: TrainingData) -> dict:
    """Trains a captioner and exports its best weights.

    Args:
        settings: TrainSettings.
        run: a prepared RunFolder.
        captioner: from `build_captioner`.
        data: TrainingData.

    Returns:
        The metrics of the best epoch.

    Raises:
        DivergenceError: If the loss is no longer a number.
        CheckpointError: If a run to resume cannot be read.
    """
    model = training_model(captioner, data.split)
    optimizer = build_optimizer(settings, settings.epochs * data.steps_per_epoch)
    # XLA pays on accelerators; on a processor it costs a minute of compilation for each shape and runs no
    # faster.
    jit_compile = bool(_accelerators()) if keras.config.backend() == "tensorflow" else "auto"
    model.compile(optimizer=optimizer, loss=CaptionLoss(settings.label_smoothing), jit_compile=jit_compile)
    model.optimizer.build(model.trainable_variables)
    state = {"epoch": 0}
    if settings.resume:
        state = load_checkpoint(run.last_checkpoint, captioner, model.optimizer)
        run.keep_metrics_until(state["epoch"])
        log.info("Resuming after epoch %d of %d.", state["epoch"], settings.epochs)
    validator = None
    if data.validation is not None:
        validator = Validator(
            captioner,
            model,
            data.validation,
            list(data.validation_references),
            num_captioned=settings.num_validation_captions,
            num_beams=settings.validation_beams,
            max_length=settings.max_length,
            encode=data.split and feature_encoder(captioner, data.split),
        )
    if state["epoch"] < settings.epochs:
        model.fit(
            data.training(state["epoch"]),
            initial_epoch=state["epoch"],
            epochs=settings.epochs,
            steps_per_epoch=data.steps_per_epoch,
            verbose=0,
            callbacks=[
                Progress(data.num_images, settings.batch_size, settings.captions_per_image),
                EndOfEpoch(settings, run, captioner, validator, data.validation_paths, state),
            ],
        )
    best = load_checkpoint(run.best_checkpoint, captioner)
    export_preset(captioner, run.preset, settings.weights_dtype)
    return next(line for line in run.read_metrics() if line["epoch"] == best["epoch"])


def training_model(captioner: ImageCaptioner, split: EncoderSplit | None) -> keras.Model:
    """The model that `fit` sees: the captioner's graph without its preprocessing, from images or from features."""
    if split is not None:
        return captioner.backbone.feature_model(split)
    return keras.Model(captioner.input, captioner.output)


def feature_encoder(captioner: ImageCaptioner, split: EncoderSplit) -> Callable:
    """The function from cached features to image tokens."""
    return lambda features: captioner.backbone.image_tokens(split.feature_map(features), training=False)


def _accelerators() -> list:
    import tensorflow as tf

    return tf.config.list_physical_devices("GPU")
