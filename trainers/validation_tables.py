"""The validation table of a run, and what both trainers do with tables."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from trainers.caption_sets import normalized_captions
from trainers.caption_tables import find_splits, read_captions
from trainers.records import CaptionedImage, CaptionRecords
from trainers.settings import TrainSettings


def read_validation_table(settings: TrainSettings, images_dir: Path | None = None) -> CaptionRecords:
    """Reads `validation_csv`: of several splits the one for validation.

    Args:
        settings: TrainSettings with a `validation_csv`.
        images_dir: path. The folder of images if the settings name none.
    """
    return read_captions(
        settings.validation_csv,
        settings.validation_images or images_dir,
        image_column=settings.image_column,
        caption_column=settings.caption_column,
        split=choose_split(find_splits(settings.validation_csv), "val"),
    )


def choose_split(splits: set[str], split: str) -> str | None:
    """`split` if a table tells several splits apart, this one among them; None takes the table as a whole."""
    return split if len(splits) > 1 and split in splits else None


def normalized_images(images: list[CaptionedImage], lowercase: bool) -> list[CaptionedImage]:
    """The images with their captions as they are trained."""
    return [CaptionedImage(image.path, normalized_captions(image.captions, lowercase)) for image in images]


def images_fingerprint(images: Sequence[CaptionedImage]) -> str:
    """Changes with names and sizes of image files and their captions, and not with their folder or when it was copied.

    A photo that is replaced by one of the same size to the byte is not noticed: to read all photos would take too long.
    """
    content = [(image.path.name, image.path.stat().st_size, image.captions) for image in images]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
