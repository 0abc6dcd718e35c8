"""Trains a captioner from a table of images and captions."""

import dataclasses
import logging

from captioner.images import Augmentation
from captioner.model import ImageCaptioner
from captioner.model.encoder_split import EncoderSplit, split_image_encoder
from trainers.build import build_captioner
from trainers.caption_sets import CaptionSet, tokenize_captions
from trainers.caption_tables import find_splits, read_captions
from trainers.csv_settings import CsvTrainSettings
from trainers.data_report import check_data, check_images
from trainers.encode_images import weights_fingerprint
from trainers.feature_cache import cache_features
from trainers.loop import train
from trainers.pipeline import ImageFiles, ImageSource, num_steps, training_dataset, validation_dataset
from trainers.records import CaptionedImage, split_by_fold, split_by_image
from trainers.run_folder import RunFolder
from trainers.training_data import NO_VALIDATION, TrainingData, accept_data
from trainers.validation_tables import (
    choose_split,
    images_fingerprint,
    normalized_images,
    read_validation_table,
)
from trainers.workers import Workers, joined_workers

log = logging.getLogger("captioner")


def train_csv(settings: CsvTrainSettings) -> dict:
    """Runs a training from a table, start to end.

    Args:
        settings: CsvTrainSettings.

    Returns:
        The metrics of the best epoch; `run_dir` holds everything else.

    Raises:
        ValueError: If settings, tables or images are not usable.
        OSError: If a file or folder cannot be read or written.
    """
    if settings.folds and not settings.fold:
        raise ValueError("`folds` without a `fold` is for `cross_validate`, which trains once for each.")
    with joined_workers(settings) as workers, workers.run_opened(settings) as run:
        inputs = _read_inputs(settings, run)
        captioner = build_captioner(settings, (text for image in inputs.training for text in image.captions))
        return train(
            settings,
            run,
            captioner,
            lambda stage: _training_data(stage, captioner, inputs, workers),
            workers,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Inputs:
    """What a run trains and validates on."""

    training: list[CaptionedImage]
    """The images to train on."""
    validation: list[CaptionedImage]
    """The images to validate on, if any."""
    fingerprints: dict[str, str]
    """As in `TrainingData`."""


def _read_inputs(settings: CsvTrainSettings, run: RunFolder) -> _Inputs:
    columns = {"image_column": settings.image_column, "caption_column": settings.caption_column}
    splits = find_splits(settings.csv)
    split = settings.split or choose_split(splits, "train")
    tables = {"train": read_captions(settings.csv, settings.images, split=split, **columns)}
    if settings.validation_csv is not None:
        tables["validation"] = read_validation_table(settings, settings.images)
    elif (
        not (settings.validation_split or settings.folds) and split == "train" and choose_split(splits, "val")
    ):
        tables["validation"] = read_captions(settings.csv, settings.images, split="val", **columns)
    checked = {name: check_data(records, cache_dir=settings.cache_dir) for name, records in tables.items()}
    images = {name: normalized_images(images, settings.lowercase) for name, (images, _) in checked.items()}
    training, validation = images["train"], images.get("validation", [])
    # A split of the table is the same for the same table and settings.
    fingerprints = {"training": images_fingerprint(training), "validation": images_fingerprint(validation)}
    has_validation = "validation" in tables or bool(settings.folds or settings.validation_split)
    reports = {name: report for name, (_, report) in checked.items()}
    accept_data(settings, run, reports, fingerprints, has_validation=has_validation)
    if settings.folds:
        training, validation = split_by_fold(training, settings.folds, settings.fold, settings.seed)
    elif settings.validation_split:
        training, validation = split_by_image(training, settings.validation_split, settings.seed)
    return _Inputs(training=training, validation=validation, fingerprints=fingerprints)


def _training_data(
    settings: CsvTrainSettings,
    captioner: ImageCaptioner,
    inputs: _Inputs,
    workers: Workers,
) -> TrainingData:
    training, validation = inputs.training, inputs.validation

    def caption_set(images):
        return tokenize_captions(
            images,
            captioner.preprocessor.tokenizer,
            max_length=settings.max_length,
            flip_captions_with_sides=settings.flip_captions_with_sides,
        )

    split = None
    if settings.cache_features:
        split = split_image_encoder(captioner.backbone.image_encoder, settings.frozen_until)
    captions = caption_set(training)
    source = _image_source(settings, captioner, split, captions, settings.augmentation)

    def training_batches(first_epoch: int, first_step: int = 0):
        return training_dataset(
            captions,
            source,
            batch_size=settings.batch_size,
            captions_per_image=settings.captions_per_image,
            seed=settings.seed,
            first_epoch=first_epoch,
            first_step=first_step,
            num_epochs=settings.epochs - first_epoch,
            process_index=workers.process_index,
            num_processes=workers.num_processes,
            fill_batches=workers.num_shares > 1,
        )

    validation_batches = None
    if validation:
        validation_set = caption_set(validation)
        validation_source = _image_source(settings, captioner, split, validation_set, None)
        validation_batches = validation_dataset(
            validation_set, validation_source, batch_size=settings.batch_size
        )
    else:
        log.warning("%s Give --validation-csv or --validation-split.", NO_VALIDATION)
    return TrainingData(
        training=training_batches,
        num_images=len(training),
        num_captions=sum(min(len(image.captions), settings.captions_per_image) for image in training),
        fingerprints=inputs.fingerprints,
        find_problems=lambda: check_images(
            (*training, *validation), cache_dir=settings.cache_dir, progress=False
        ),
        steps_per_epoch=num_steps(len(training), settings.batch_size),
        validation=validation_batches,
        validation_paths=tuple(str(image.path) for image in validation),
        training_references=tuple(image.captions for image in training),
        validation_references=tuple(image.captions for image in validation),
        split=split,
    )


def _image_source(
    settings: CsvTrainSettings,
    captioner: ImageCaptioner,
    split: EncoderSplit | None,
    captions: CaptionSet,
    augmentation: Augmentation | None,
) -> ImageSource:
    transform = captioner.preprocessor.image_transform
    if split is None:
        return ImageFiles(
            paths=captions.paths,
            transform=transform,
            augmentation=augmentation,
            allow_flip=captions.allow_flip,
        )
    return cache_features(
        split.frozen,
        weights_fingerprint(split.frozen),
        captions.paths,
        transform,
        settings.cache_dir,
        views=settings.cache_views if augmentation else 1,
        augmentation=augmentation,
        allow_flip=captions.allow_flip,
        seed=settings.seed,
    )
