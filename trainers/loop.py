"""The one training loop: compiles, fits, resumes and exports, whatever the batches come from."""

import contextlib
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import tensorflow as tf

from captioner.model import ImageCaptioner
from captioner.model.encoder_split import EncoderSplit
from captioner.model.parts import variables_of_parts
from trainers.accumulation import accumulated_batches
from trainers.build import export_preset
from trainers.callbacks import EndOfEpoch, Progress
from trainers.checkpoint import load_checkpoint
from trainers.disk import explained_disk_errors
from trainers.optimization import CaptionLoss, build_optimizer
from trainers.run_folder import RunFolder
from trainers.self_critical import SelfCriticalModel
from trainers.settings import TrainSettings
from trainers.stage_progress import (
    begin_stage,
    first_state,
    is_over,
    load_latest,
    put_weights_aside,
    require_possible,
    train_parts_only,
)
from trainers.stages import stage_settings
from trainers.step_checkpoints import StepCheckpoints, saving_on_signals
from trainers.towers import TowerModel
from trainers.training_data import TrainingData, diverging_batch_stored, explained_data_errors
from trainers.validation import Validator
from trainers.wandb_log import WandbLog, import_wandb
from trainers.workers import Workers

log = logging.getLogger("captioner")


def train(
    settings: TrainSettings,
    run: RunFolder,
    captioner: ImageCaptioner,
    make_data: Callable[[TrainSettings], TrainingData],
    workers: Workers = Workers(),  # noqa: B008, it is frozen
) -> dict:
    """Trains a captioner, stage by stage if there are stages, and exports its best weights.

    Args:
        settings: TrainSettings.
        run: an open RunFolder.
        captioner: from `build_captioner`.
        make_data: function from the settings of a stage to its TrainingData, called when the captioner has the weights that the
            stage begins or goes on with. The images and captions must be the same for all.
        workers: what shares each batch.

    Returns:
        The metrics of the best epoch.

    Raises:
        DivergenceError: If the loss is no longer a number.
        CheckpointError: If a run to resume cannot be read.
        ValueError: If a stage is impossible, or an image became unusable.
        ImportError: If Weights & Biases is wanted and not installed.
        OSError: If the disk is full.
    """
    if settings.wandb_project is not None:
        import_wandb()  # before anything is built
    stages = stage_settings(settings)
    require_possible(stages, captioner, workers)
    path, state = None, first_state(settings)
    if settings.resume:
        path, state = load_latest(run, captioner)
        log.info(
            "Resuming after epoch %d of %d and %d steps.", state["epoch"], stages[-1].epochs, state["step"]
        )
    with contextlib.ExitStack() as stack:
        logs = []
        if settings.wandb_project is not None and run.writes:
            logs.append(stack.enter_context(contextlib.closing(WandbLog(settings, run))))
        for number, stage in enumerate(stages, 1):
            current = state.get("stage", 1)
            if number < current or (number == current < len(stages) and is_over(stage, state)):
                continue
            if number > current:
                path = None
                if run.writes:
                    put_weights_aside(run, number)
                workers.wait_for_all(f"stage {number}")
                begin_stage(run, captioner, state, number, first_epoch=stages[number - 2].epochs)
            _train_stage(stage, stages, run, captioner, make_data, state, path, logs, workers)
    workers.wait_for_all("the end of training")
    best = load_checkpoint(run.best_checkpoint, captioner)
    if run.writes:
        with workers.alone(), explained_disk_errors(run.preset, "run_dir"):
            export_preset(captioner, run.preset, settings.weights_dtype)
    return next(
        (line for line in run.read_metrics() if line["epoch"] == best["epoch"]), {"epoch": best["epoch"]}
    )


def _train_stage(
    stage: TrainSettings,
    stages: Sequence[TrainSettings],
    run: RunFolder,
    captioner: ImageCaptioner,
    make_data: Callable[[TrainSettings], TrainingData],
    state: dict,
    path: Path | None,
    logs: list[keras.callbacks.Callback],
    workers: Workers,
) -> None:
    """Trains to the end of a stage, from its checkpoint at `path` or from its beginning; `logs` are further callbacks."""
    train_parts_only(stage, captioner)
    data = make_data(stage)
    state["data"] = data.fingerprints
    _require_an_update(stages, data.steps_per_epoch)
    num_steps = (stage.epochs - state.get("first_epoch", 0)) * data.steps_per_epoch
    model = compiled_model(stage, captioner, num_steps, data.split, data.training_references, workers.devices)
    if path is not None:
        load_checkpoint(path, captioner, model.optimizer, model.metrics)
    if stage.resume:
        run.keep_metrics_until(state["epoch"])
    log.info(
        "Training %s of %s parameters on %s images%s; the run folder is %s.",
        f"{_num_parameters(model.trainable_variables):,}",
        f"{_num_parameters(captioner.weights):,}",
        f"{data.num_images:,}",
        f" in stage {state['stage']} of {len(stages)}, to epoch {stage.epochs}" if "stage" in state else "",
        run.path,
    )
    if not is_over(stage, state):
        _fit(stage, run, captioner, model, data, state, logs, stages[-1].epochs, workers)


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
    """
    model = training_model(captioner, split)
    # Over accumulated batches, the mean is in the weights.
    reduction = "sum" if settings.gradient_accumulation_steps > 1 else "mean_with_sample_weight"
    loss = CaptionLoss(settings.label_smoothing, reduction)
    # XLA pays on accelerators; on a processor the gradients of convolutions ran ten times slower with it.
    jit_compile = bool(_accelerators()) if keras.config.backend() == "tensorflow" else "auto"
    if settings.objective == "self_critical":
        encode = feature_encoder(captioner, split) if split else captioner.backbone.encode_images
        model = SelfCriticalModel(model, captioner, encode, references, settings)
        loss, jit_compile = model.caption_loss, False  # the reward is Python
    parts = variables_of_parts(captioner.backbone)
    part_by_variable = {id(variable): part for part, variables in parts.items() for variable in variables}
    optimizer = build_optimizer(settings, num_steps, lambda variable: part_by_variable[id(variable)])
    if devices and keras.config.backend() == "tensorflow":
        model = TowerModel(model, devices, loss)
        loss, jit_compile = model.caption_loss, False  # XLA compiles for one device
    model.compile(optimizer=optimizer, loss=loss, jit_compile=jit_compile)
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


def _fit(
    settings: TrainSettings,
    run: RunFolder,
    captioner,
    model,
    data: TrainingData,
    state: dict,
    logs: list[keras.callbacks.Callback],
    num_epochs: int,
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
    progress = Progress(data.num_images, settings.batch_size, data.num_captions, num_epochs, state["step"])
    checkpoints = StepCheckpoints(
        settings,
        run,
        captioner,
        state,
        data.steps_per_epoch,
        averages if state["step"] else (),
        workers,
    )
    end_of_epoch = EndOfEpoch(
        settings, run, captioner, validator, data.validation_paths, checkpoints, num_epochs
    )
    with (
        explained_data_errors(data),
        diverging_batch_stored(run, data, state),
        saving_on_signals(checkpoints),
        contextlib.closing(progress),
    ):
        # The rest of an epoch is a part of its own, as `fit` knows one length of epochs only.
        ends = [state["epoch"] + 1, settings.epochs] if state["step"] else [settings.epochs]
        for end in ends:
            if state["epoch"] == end or is_over(settings, state):
                break
            model.fit(
                _training_batches(settings, data, state),
                initial_epoch=state["epoch"],
                epochs=end,
                steps_per_epoch=data.steps_per_epoch - state["step"],
                shuffle=False,  # the batches come shuffled
                verbose=0,
                callbacks=[progress, checkpoints, end_of_epoch, *logs],
            )


def _training_batches(settings: TrainSettings, data: TrainingData, state: dict) -> tf.data.Dataset:
    position = state["epoch"], state["step"]
    # The self-critical objective weighs what it draws, and each batch alike.
    if settings.gradient_accumulation_steps == 1 or settings.objective == "self_critical":
        return data.training(*position)
    return accumulated_batches(
        data.training,
        settings.gradient_accumulation_steps,
        data.steps_per_epoch,
        *position,
        optimizer_epoch=state.get("first_epoch", 0),
    )


def _require_an_update(stages: Sequence[TrainSettings], steps_per_epoch: int) -> None:
    """Refuses a stage that ends before the gradients of its first update are there."""
    first_epoch = 0
    for stage in stages:
        num_steps = (stage.epochs - first_epoch) * steps_per_epoch
        if num_steps < stage.gradient_accumulation_steps:
            raise ValueError(
                f"`gradient_accumulation_steps` must be at most the {num_steps} steps of the run or stage, or no update is made; "
                f"received {stage.gradient_accumulation_steps}."
            )
        first_epoch = stage.epochs


def _num_parameters(variables) -> int:
    return sum(math.prod(variable.shape) for variable in variables)


def _accelerators() -> list:
    return tf.config.list_physical_devices("GPU")
