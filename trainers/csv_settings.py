"""What a training run from a table can be told."""

import dataclasses
from pathlib import Path

from trainers.settings import TrainSettings
from trainers.stages import stage_settings, stages_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class CsvTrainSettings(TrainSettings):
    """Settings of a run from a table."""

    csv: Path
    """Table of images and captions: CSV, TSV, JSON lines, COCO captions JSON, or Karpathy's dataset JSON."""
    images: Path | None = None
    """Folder that image names start from; by default the table's folder."""
    split: str | None = None
    """Split of the table to train on, "all" for every row; by default train, where the table tells splits apart."""
    validation_split: float = 0.0
    """Share of the training images set aside for validation, when there is no --validation-csv."""
    folds: int = 0
    """Cross-validation: cuts the images into so many parts and trains once for each, which validates while the others
    train; gives mean and spread of each metric."""
    fold: int = 0
    """With --folds: trains for this part alone, from 1; 0 for all."""
    cache_features: bool = False
    """Computes the feature maps of the frozen image encoder once and trains from them: minutes instead of
    hours."""
    cache_views: int = 1
    """Views of each image in that cache; the first is the plain image, the others are augmented."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if stages_of(self):  # each of them has been checked like a run
            self._require_a_stage_with_features()
            return
        if self.validation_csv is not None and self.validation_split:
            raise ValueError(
                f"`validation_split` must be 0 with a `validation_csv`; received {self.validation_split}."
            )
        if not 0 <= self.validation_split < 1:
            raise ValueError(
                f"`validation_split` must be at least 0 and below 1; received {self.validation_split}."
            )
        if self.cache_features and "image_encoder" in self.train_parts and self.frozen_until is None:
            raise ValueError(
                "`cache_features` needs an image encoder that is frozen, at least `frozen_until` some layer; received "
                "train_parts with image_encoder and frozen_until=None."
            )
        self._check_folds()
        self._check_views()

    def _require_a_stage_with_features(self) -> None:
        if self.cache_features and not any(stage.cache_features for stage in stage_settings(self)):
            raise ValueError(
                "`cache_features` is used by none of the stages, as they train the whole image encoder or do without it; "
                "leave it out."
            )

    def _check_folds(self) -> None:
        if self.folds == 1 or self.folds < 0:
            raise ValueError(f"`folds` must be at least 2, or 0 for none; received folds={self.folds}.")
        if self.folds and not self.fold and self.num_processes > 1:
            raise ValueError(
                f"`folds` must be trained one by one with several processes, by fold=1 and so on; received folds={self.folds}."
            )
        if not 0 <= self.fold <= self.folds:
            raise ValueError(
                f"`fold` must be from 1 to `folds`={self.folds}, or 0 for all; received {self.fold}."
            )
        if self.folds and (self.validation_csv is not None or self.validation_split):
            raise ValueError(
                "`folds` sets validation images aside itself: leave validation_csv and validation_split out."
            )

    def _check_views(self) -> None:
        augmentation = self.augmentation  # refuses what is out of range
        if self.cache_views < 1:
            raise ValueError(f"`cache_views` must be at least 1; received cache_views={self.cache_views}.")
        if self.cache_views > 1 and not self.cache_features:
            raise ValueError(
                f"`cache_views` needs `cache_features`; received cache_views={self.cache_views}."
            )
        if self.cache_features and (self.cache_views > 1) != (augmentation is not None):
            raise ValueError(
                "`cache_views` above 1 and an augmentation (min_crop_area, horizontal_flip, color_jitter) need each "
                "other with `cache_features`: only the further views of an image are augmented; received "
                f"cache_views={self.cache_views} and {augmentation or 'no augmentation'}."
            )
