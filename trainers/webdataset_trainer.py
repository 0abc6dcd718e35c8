"""Trains a captioner from tar shards of images and captions."""

import contextlib
import dataclasses
import logging
from collections.abc import Sequence

from captioner.model import ImageCaptioner
from trainers.build import build_captioner
from trainers.caption_sets import tokenize_captions
from trainers.data_report import DataReport, check_data, read_problems, write_data_report
from trainers.loop import train
from trainers.pipeline import ImageFiles, validation_dataset
from trainers.process_reports import merge_process_reports, process_report
from trainers.records import CaptionedImage, Problem
from trainers.run_folder import RunFolder
from trainers.shards.batches import training_batches, validation_batches
from trainers.shards.data import ShardData, ShardImage, find_data
from trainers.shards.engines import find_engine
from trainers.shards.plan import ShardPlan
from trainers.shards.read_problems import ReadProblems
from trainers.shards.reader import CaptionTokens, ShardReader
from trainers.shards.remote import open_cache
from trainers.training_data import NO_VALIDATION, TrainingData, accept_data
from trainers.validation_tables import images_fingerprint, normalized_images, read_validation_table
from trainers.webdataset_settings import WebdatasetTrainSettings
from trainers.workers import Workers, joined_workers

log = logging.getLogger("captioner")

WHILE_TRAINING = "while training"


def train_webdataset(settings: WebdatasetTrainSettings) -> dict:
    """Runs a training from shards, start to end.

    Args:
        settings: WebdatasetTrainSettings.

    Returns:
        The metrics of the best epoch; `run_dir` holds everything else.

    Raises:
        ValueError: If settings, shards or tables are not usable.
        OSError: If a file or folder cannot be read or written.
    """
    with joined_workers(settings) as workers, workers.run_opened(settings) as run:
        with contextlib.ExitStack() as stack:
            metrics = _train(settings, run, workers, stack)
        workers.wait_for_all("the data reports")
        if run.writes:
            merge_process_reports(run.data_report, WHILE_TRAINING)
        return metrics


def _train(
    settings: WebdatasetTrainSettings, run: RunFolder, workers: Workers, stack: contextlib.ExitStack
) -> dict:
    # Shards without an index are indexed once.
    with workers.first_before_others("the indexes of the shards"):
        inputs = _read_inputs(settings, run, workers, stack)
    captioner = build_captioner(
        settings, (text for texts in inputs.training.captions(settings.lowercase) for text in texts)
    )
    return train(
        settings, run, captioner, lambda stage: _training_data(stage, captioner, inputs, workers), workers
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Inputs:
    """What a run trains and validates on."""

    training: ShardData
    """The shards to train on."""
    problems: ReadProblems
    """Samples that become unusable later."""
    validation_shards: ShardData | None = None
    """The shards to validate on."""
    validation_images: list[CaptionedImage] | None = None
    """Or the images of a table."""

    @property
    def fingerprints(self) -> dict[str, str]:
        """What `TrainingData` has of them."""
        validation = {}
        if self.validation_shards is not None:
            validation = {"validation": self.validation_shards.fingerprint()}
        elif self.validation_images is not None:
            validation = {"validation": images_fingerprint(self.validation_images)}
        return {"training": self.training.fingerprint()} | validation


def _read_inputs(
    settings: WebdatasetTrainSettings, run: RunFolder, workers: Workers, stack: contextlib.ExitStack
) -> _Inputs:
    words = (*settings.shards, *settings.validation_shards)
    cache = stack.enter_context(open_cache(words, settings.cache_dir, settings.shard_cache_gb))
    training = find_data(settings.shards, settings.shard_weights, cache=cache)
    reports = {"train": training.report()}
    inputs = {}
    if settings.validation_shards:
        inputs["validation_shards"] = find_data(settings.validation_shards, cache=cache)
        reports["validation"] = inputs["validation_shards"].report()
    elif settings.validation_csv is not None:
        images, reports["validation"] = check_data(
            read_validation_table(settings), cache_dir=settings.cache_dir
        )
        inputs["validation_images"] = normalized_images(images, settings.lowercase)

    own_report = (
        run.data_report if workers.is_first else process_report(run.data_report, workers.process_index)
    )

    def later(problems: Sequence[Problem]) -> dict[str, DataReport]:
        lost = {"problems": tuple(problems), "num_unnamed": {}, "num_unnamed_captions": 0}
        return {WHILE_TRAINING: dataclasses.replace(reports["train"], **lost)}

    def write(problems: Sequence[Problem]) -> None:
        write_data_report(own_report, {**(reports if workers.is_first else {}), **later(problems)})

    known = read_problems(own_report, WHILE_TRAINING) if settings.resume else []
    problems = ReadProblems(write, known)
    stack.callback(problems.close)
    inputs = _Inputs(training=training, problems=problems, **inputs)
    accept_data(
        settings,
        run,
        {**reports, **(later(known) if known else {})},
        inputs.fingerprints,
        has_validation="validation" in reports,
    )
    return inputs


def _training_data(
    settings: WebdatasetTrainSettings, captioner: ImageCaptioner, inputs: _Inputs, workers: Workers
) -> TrainingData:
    engine, decode = find_engine(settings.engine)
    log.info("Images are decoded by %s.", {"tf": "TensorFlow", "dali": "DALI"}[engine])
    data = inputs.training
    plan = ShardPlan(
        sources=data.plan_sources,
        seed=settings.seed,
        shuffle_buffer=settings.shuffle_buffer,
        process_index=workers.process_index,
        num_processes=workers.num_processes,
    )
    share = workers.share_of(settings.batch_size)
    tokens = CaptionTokens(
        tokenizer=captioner.preprocessor.tokenizer,
        captions_per_image=settings.captions_per_image,
        max_length=settings.max_length,
        lowercase=settings.lowercase,
        flip_captions_with_sides=settings.flip_captions_with_sides,
    )
    reader = ShardReader(shards=data.opened(settings.shuffle_buffer), tokens=tokens, problems=inputs.problems)

    def batches(first_epoch: int, first_step: int = 0):
        return training_batches(
            plan,
            reader,
            decode,
            batch_size=share,
            transform=captioner.preprocessor.image_transform,
            augmentation=settings.augmentation,
            num_epochs=settings.epochs,
            first_epoch=first_epoch,
            first_step=first_step,
            fill_batches=workers.num_shares > 1,
        )

    # How many captions a sample has is known once it is read; the number is for the speed that is shown.
    captions_each = min(settings.captions_per_image, data.report().num_captions / data.report().num_images)
    return TrainingData(
        training=batches,
        num_images=plan.num_places * workers.num_processes,
        num_captions=round(captions_each * plan.num_places * workers.num_processes),
        fingerprints=inputs.fingerprints,
        find_problems=lambda: list(inputs.problems),
        steps_per_epoch=plan.num_steps(share),
        training_references=data.captions(settings.lowercase),
        **_validation(settings, captioner, inputs, tokens),
    )


def _validation(
    settings: WebdatasetTrainSettings, captioner: ImageCaptioner, inputs: _Inputs, tokens: CaptionTokens
) -> dict:
    """The fields of `TrainingData` that are about validation."""
    transform = captioner.preprocessor.image_transform
    if inputs.validation_shards is not None:
        data = inputs.validation_shards
        references = tuple(data.captions(settings.lowercase))
        shards, order = data.opened(1), data.in_order()
        tokens = dataclasses.replace(tokens, captions_per_image=max(map(len, references)))
        reader = ShardReader(shards=shards, tokens=tokens, problems=inputs.problems)
        return {
            "validation": validation_batches(
                reader, order, batch_size=settings.batch_size, transform=transform
            ),
            "validation_paths": [
                ShardImage(shards, *place)
                for place in zip(order.shard.tolist(), order.row.tolist(), strict=True)
            ],
            "validation_references": references,
        }
    images = inputs.validation_images
    if images is None:
        log.warning("%s Give --validation-csv or --validation-shards.", NO_VALIDATION)
        return {}
    captions = tokenize_captions(images, tokens.tokenizer, max_length=settings.max_length)
    source = ImageFiles(paths=captions.paths, transform=transform)
    return {
        "validation": validation_dataset(captions, source, batch_size=settings.batch_size),
        "validation_paths": tuple(str(image.path) for image in images),
        "validation_references": tuple(image.captions for image in images),
    }
