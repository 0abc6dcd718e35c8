"""The one training loop: compiles, fits, resumes and exports, whatever the batches come from."""

import contextlib
import dataclasses
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from captioner.files import atomic_path
from captioner.model import ImageCaptioner
from captioner.model.encoder_split import EncoderSplit
from trainers.build import export_preset
from trainers.callbacks import DivergenceError, EndOfEpoch, Progress, out_of_patience
from trainers.checkpoint import CheckpointError, load_checkpoint
from trainers.optimization import CaptionLoss, build_optimizer
from trainers.records import Problem
from trainers.run_folder import RunFolder
from trainers.self_critical import SelfCriticalModel
from trainers.settings import TrainSettings
from trainers.step_checkpoints import StepCheckpoints, saving_on_signals
from trainers.towers import TowerModel
from trainers.validation import Validator
from trainers.workers import Workers, require_shareable

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
    fingerprint: str
    """Changes with images and captions: a resumed run must have the same."""
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


def train(
    settings: TrainSettings,
    run: RunFolder,
    captioner: ImageCaptioner,
    data: TrainingData,
    workers: Workers = Workers(),  # noqa: B008, it is frozen
) -> dict:
    """Trains a captioner and exports its best weights.

    Args:
        settings: TrainSettings.
        run: an open RunFolder.
        captioner: from `build_captioner`.
        data: TrainingData.
        workers: what shares each batch.

    Returns:
        The metrics of the best epoch.

    Raises:
        DivergenceError: If the loss is no longer a number.
        CheckpointError: If a run to resume cannot be read.
        ValueError: If a run to resume had other data, or an image became unusable.
        OSError: If the disk is full.
    """
    num_steps = settings.epochs * data.steps_per_epoch
    model = compiled_model(
        settings, captioner, num_steps, data.split, data.training_references, workers.devices
    )
    state = {"epoch": 0, "step": 0, "data": data.fingerprint}
    if settings.resume:
        state = _resume(settings, run, captioner, model, data)
    log.info(
        "Training %s of %s parameters on %s images; the run folder is %s.",
        f"{_num_parameters(model.trainable_variables):,}",
        f"{_num_parameters(captioner.weights):,}",
        f"{data.num_images:,}",
        run.path,
    )
    if state["epoch"] < settings.epochs and not out_of_patience(settings, state):
        _fit(settings, run, captioner, model, data, state, workers)
    workers.wait_for_all("the end of training")
    best = load_checkpoint(run.best_checkpoint, captioner)
    if run.writes:
        with workers.alone():
            export_preset(captioner, run.preset, settings.weights_dtype)
    return next(
        (line for line in run.read_metrics() if line["epoch"] == best["epoch"]), {"epoch": best["epoch"]}
    )


def compiled_model(
    settings: TrainSettings,
    captioner: ImageCaptioner,
    num_steps: int,
    split: EncoderSplit | None = None,
    references: tuple = (),
    devices: tuple[str, ...] = (),
) -> keras.Model:
    """The model that `fit` sees, with its loss and its optimizer.

    Args:
        settings: TrainSettings.
        captioner: from `build_captioner`.
        num_steps: int. Batches of the whole run.
        split: how the image encoder is split, if `x["images"]` holds features.
        references: the captions of each training image, for the self-critical objective.
        devices: names of the devices of this process that share each batch, if there are several.

    Raises:
        ValueError: If several devices cannot train this.
    """
    if devices:
        require_shareable(settings, captioner)
    model = training_model(captioner, split)
    loss = CaptionLoss(settings.label_smoothing)
    # XLA pays on accelerators; on a processor the gradients of convolutions ran ten times slower with it.
    jit_compile = bool(_accelerators()) if keras.config.backend() == "tensorflow" else "auto"
    if settings.objective == "self_critical":
        encode = feature_encoder(captioner, split) if split else captioner.backbone.encode_images
        model = SelfCriticalModel(model, captioner, encode, references, settings)
        loss, jit_compile = model.caption_loss, False  # the reward is Python
    if devices and keras.config.backend() == "tensorflow":
        model = TowerModel(model, devices, settings.label_smoothing)
        loss, jit_compile = model.caption_loss, False  # XLA compiles for one device
    model.compile(optimizer=build_optimizer(settings, num_steps), loss=loss, jit_compile=jit_compile)
    model.optimizer.build(model.trainable_variables)
    # At the end of each `fit` Keras would put the averages in place of the weights: a run in parts could not go on.
    model.optimizer.finalize_variable_values = lambda variables: None
    return model


def training_model(captioner: ImageCaptioner, split: EncoderSplit | None) -> keras.Model:
    """The model that `fit` sees: the captioner's graph without its preprocessing, from images or from features."""
    if split is not None:
        return captioner.backbone.feature_model(split)
    return keras.Model(captioner.input, captioner.output)


def feature_encoder(captioner: ImageCaptioner, split: EncoderSplit) -> Callable:
    """The function from cached features to image tokens."""
    return lambda features: captioner.backbone.image_tokens(split.feature_map(features), training=False)


def _resume(settings: TrainSettings, run: RunFolder, captioner, model, data: TrainingData) -> dict:
    state = {"step": 0} | _load_latest(run, captioner, model)
    if state.setdefault("data", data.fingerprint) != data.fingerprint:
        raise ValueError(
            f"`resume` needs the images and captions that the run began with; those of {run.path} were others. See "
            f"{run.data_report} for what is left out now. Bring them back, or begin a new run with --preset {run.path}."
        )
    run.keep_metrics_until(state["epoch"])
    log.info("Resuming after epoch %d of %d and %d steps.", state["epoch"], settings.epochs, state["step"])
    return state


def _load_latest(run: RunFolder, captioner, model) -> dict:
    """The state of the latest checkpoint that is not damaged."""
    *later, last = run.checkpoints
    for path in later:
        try:
            return load_checkpoint(path, captioner, model.optimizer, model.metrics)
        except CheckpointError as error:
            log.warning("%s. Going on from the checkpoint before it.", error)
    return load_checkpoint(last, captioner, model.optimizer, model.metrics)


def _fit(
    settings: TrainSettings,
    run: RunFolder,
    captioner,
    model,
    data: TrainingData,
    state: dict,
    workers: Workers,
) -> None:
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
    averages = [keras.ops.convert_to_numpy(v) for metric in model.metrics for v in metric.variables]
    progress = Progress(
        data.num_images, settings.batch_size, data.num_captions, settings.epochs, state["step"]
    )
    checkpoints = StepCheckpoints(
        settings,
        run,
        captioner,
        state,
        data.steps_per_epoch,
        averages if state["step"] else (),
        workers.highest,
    )
    end_of_epoch = EndOfEpoch(settings, run, captioner, validator, data.validation_paths, checkpoints)
    with (
        _explained_data_errors(data),
        _diverging_batch_stored(run, data, state),
        saving_on_signals(checkpoints),
        contextlib.closing(progress),
    ):
        # The rest of an epoch is a part of its own, as `fit` knows one length of epochs only.
        ends = [state["epoch"] + 1, settings.epochs] if state["step"] else [settings.epochs]
        for end in ends:
            if state["epoch"] == end or out_of_patience(settings, state):
                break
            model.fit(
                data.training(state["epoch"], state["step"]),
                initial_epoch=state["epoch"],
                epochs=end,
                steps_per_epoch=data.steps_per_epoch - state["step"],
                shuffle=False,  # the batches come shuffled
                verbose=0,
                callbacks=[progress, checkpoints, end_of_epoch],
            )


@contextlib.contextmanager
def _diverging_batch_stored(run: RunFolder, data: TrainingData, state: dict) -> Iterator[None]:
    """Keeps the batch of the step after which a loss or weight was no number, to be looked at."""
    try:
        yield
    except DivergenceError as error:
        if not run.writes:
            raise
        step = min(state["step"], data.steps_per_epoch - 1)
        x, targets, sample_weight = next(data.training(state["epoch"], step).as_numpy_iterator())
        with atomic_path(run.diverged_batch) as path:
            np.savez(path, **x, targets=targets, sample_weight=sample_weight)
        raise DivergenceError(f"{error} The batch of that step is in {run.diverged_batch}.") from error


@contextlib.contextmanager
def _explained_data_errors(data: TrainingData) -> Iterator[None]:
    """Says in a user's words what TensorFlow reports from inside its graph."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        raise ValueError(
            "Out of memory. Lower --batch-size, with as much more --gradient-accumulation-steps, or --captions-per-image."
        ) from error
    except tf.errors.OpError as error:
        problems = "; ".join(f"{p.item}: {p.reason} {p.detail}".rstrip() for p in data.find_problems()[:5])
        raise ValueError(
            "Training stopped while reading images. The last checkpoint is intact. "
            + (f"Since the start these became unusable: {problems}." if problems else str(error.message))
        ) from error


def _num_parameters(variables) -> int:
    return sum(math.prod(variable.shape) for variable in variables)


def _accelerators() -> list:
    return tf.config.list_physical_devices("GPU")
