"""`captioner evaluate`: scores captions with the COCO metrics."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from captioner.evaluation import (
    Evaluation,
    SheetRow,
    coco_file_names,
    contact_sheet,
    evaluate_captions,
    match_predictions,
    read_predictions,
)
from captioner.evaluation.official import require_official_metrics
from captioner.files import atomic_path
from captioner.images import ImageError
from captioner.resources import DEFAULT_PRESET
from tools.caption import load_captioner, resized
from tools.decoding_flags import DecodingFlags, choose_settings, given_flags, with_own_defaults
from tools.errors import UsageError
from tools.inputs import ImageInput
from tools.messages import say
from tools.read_ahead import batches, progress, reading_ahead
from tools.tables import read_caption_table


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateCommand:
    """Scores captions against a table of reference captions: BLEU-1..4, METEOR, ROUGE-L and CIDEr.

    Either a model writes the captions, or a file has them.

    Examples:
        captioner evaluate --csv dev.csv --images photos/ --output scores.json

        captioner evaluate --predictions results.json --csv dev.csv

        captioner evaluate --csv dev.csv --images photos/ --preset runs/mine --calibrate
    """

    csv: Path
    """Table of images and reference captions: CSV, TSV, COCO captions JSON or Karpathy's JSON."""
    images: Path | None = None
    """Folder that the table's image names start from; by default the table's own."""
    preset: str = DEFAULT_PRESET
    """The model: name of a preset, or folder of one (a training run's folder too)."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of the weights, see `captioner caption`; the preset's own if not given."""
    predictions: Path | None = None
    """Captions to score in place of a model's: COCO results JSON, JSON lines (.jsonl) or a CSV with image and
    caption."""
    image_column: str | None = None
    """The table's column of image names; guessed from common names by default."""
    caption_column: str | None = None
    """The table's column of captions; guessed from common names by default."""
    split: str | None = None
    """Only this split of the table, for tables that have splits."""
    limit: int | None = None
    """Only the first so many images of the table."""
    output: Path | None = None
    """JSON file for the scores, the settings and each image's caption with its own CIDEr."""
    contact_sheet: Path | None = None
    """PNG file for the images with the best and the worst captions."""
    contact_sheet_images: int = 12
    """Images on the contact sheet from each end."""
    image_size_px: int | None = None
    """Height and width that images are brought to; the preset's own if not given."""
    batch_size: int = 16
    """Images captioned at once."""
    calibrate: bool = False
    """Fit the confidence of captions to their CIDEr, and write it into the preset's folder."""
    calibration_cider: float | None = None
    """The CIDEr from which on --calibrate counts a caption as good; 0.5 if not given."""
    reliability_plot: Path | None = None
    """PNG file for how far confidence and truth agree on captions that --calibrate held out."""
    decoding: DecodingFlags = DecodingFlags()  # noqa: RUF009 - frozen

    def __post_init__(self) -> None:
        for name in ("limit", "batch_size", "contact_sheet_images", "image_size_px"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"`--{name.replace('_', '-')}` must be at least 1; received {value}.")
        if self.predictions is not None:
            given = list(given_flags(self.decoding))
            given += [name for name in ("image_size_px", "dtype") if getattr(self, name) is not None]
            given += ["preset"] if self.preset != DEFAULT_PRESET else []
            if given:
                raise UsageError(
                    f"`--{given[0].replace('_', '-')}` is for a model; with `--predictions` there is none."
                )
        if self.calibrate and self.predictions is not None:
            raise UsageError("`--calibrate` is for a model; with `--predictions` there is none.")
        if self.calibrate and self.image_size_px is not None:
            raise UsageError("`--calibrate` is for the preset's own image size; leave `--image-size-px` out.")
        if not self.calibrate and (self.calibration_cider is not None or self.reliability_plot is not None):
            raise UsageError("`--calibration-cider` and `--reliability-plot` belong to `--calibrate`.")


def evaluate(command: EvaluateCommand) -> int:
    """Scores captions and prints the scores; returns 0, or 1 if an image could not be captioned."""
    require_official_metrics()
    if command.predictions is not None and not command.predictions.is_file():
        raise UsageError(f"`--predictions` must be a file; {str(command.predictions)!r} is none.")
    records = read_caption_table(
        command.csv,
        command.images,
        image_column=command.image_column,
        caption_column=command.caption_column,
        split=command.split,
    )
    references = {image.path: list(image.captions) for image in records.images}
    chosen = list(references)[: command.limit]
    failed: dict[Path, str] = {}
    captions: dict[Path, Any] = {}
    if command.predictions is not None:
        given = read_predictions(command.predictions)
        matched = match_predictions(given, references, coco_file_names(command.csv))
        predictions = {path: matched[path] for path in chosen if path in matched}
        settings = {"predictions": str(command.predictions)}
    else:
        captions, settings = _caption(command, chosen, failed)
        predictions = {path: caption.text for path, caption in captions.items()}
    chosen = [path for path in chosen if path not in failed]
    if not chosen:
        say("no image could be captioned, so there is nothing to score.")
        return 1
    evaluation = evaluate_captions(predictions, {path: references[path] for path in chosen})
    settings = {"csv": str(command.csv), **settings, "failed_images": len(failed), **evaluation.settings}
    evaluation = dataclasses.replace(evaluation, settings=settings)
    _print_scores(evaluation)
    _write(command, evaluation)
    if command.calibrate:
        _calibrate(command, [captions[path] for path in chosen], evaluation)
    if failed:
        say(f"{len(failed)} images could not be captioned and are not in the scores.")
    return 1 if failed else 0


def _caption(
    command: EvaluateCommand, paths: Sequence[Path], failed: dict[Path, str]
) -> tuple[dict[Path, Any], dict]:
    """The best caption of each image, by the preset; notes in `failed` the images that cannot be read."""
    sampler = choose_settings(command.decoding)
    model = resized(load_captioner(command.preset, command.dtype), command.image_size_px)
    sampler = with_own_defaults(sampler, command.decoding, model)
    best_captions: dict[Path, Any] = {}
    images = [ImageInput(str(path), path) for path in paths]
    with reading_ahead(images, ahead=command.batch_size) as reading, progress(len(images)) as bar:
        for batch in batches(reading, command.batch_size):
            photos = {}
            for image, pixels in batch:
                if isinstance(pixels, ImageError):
                    failed[image.path] = str(pixels)
                    bar.write(f"captioner: {pixels}; skipped", file=sys.stderr)
                else:
                    photos[image.path] = pixels
            if photos:
                captions = model.caption(
                    list(photos.values()), sampler=sampler, batch_size=command.batch_size
                )
                best_captions.update(zip(photos, (best for best, *_ in captions), strict=True))
            bar.update(len(batch))
    size = {} if command.image_size_px is None else {"image_size_px": command.image_size_px}
    return best_captions, {"preset": command.preset, **size, **sampler.to_dict()}


def _print_scores(evaluation: Evaluation) -> None:
    settings = evaluation.settings
    sys.stdout.write(f"{settings['num_images']} images, {settings['num_references']} references\n")
    for name, score in evaluation.scores.items():
        sys.stdout.write(f"{name:<8} {score:.4f}\n")
    sys.stdout.write(f"tokenizer: {settings['tokenizer']}\n")
    for note in evaluation.notes:
        sys.stdout.write(f"note: {note}\n")


def _write(command: EvaluateCommand, evaluation: Evaluation) -> None:
    if command.output is not None:
        with atomic_path(command.output) as temporary:
            text = json.dumps(evaluation.to_dict(), indent=1, ensure_ascii=False)
            temporary.write_text(f"{text}\n", encoding="utf-8", errors="replace")
    if command.contact_sheet is not None:
        best, worst = evaluation.best_and_worst(command.contact_sheet_images)
        rows = []
        for name, captions in (("best", best), ("worst", worst)):
            for rank, entry in enumerate(captions, start=1):
                lines = (
                    f"{name} {rank}, CIDEr {entry.cider:.3f}: {entry.caption}",
                    f"reference: {entry.references[0]}",
                )
                rows.append(SheetRow(entry.image, lines))
        headline = (
            f"Best and worst of {len(evaluation.captions)} captions, CIDEr {evaluation.scores['CIDEr']:.3f}"
        )
        contact_sheet(rows, command.contact_sheet, headline=headline)


def _calibrate(command: EvaluateCommand, captions: Sequence[Any], evaluation: Evaluation) -> None:
    """Fits the confidence, writes it into the preset, and says how good it is."""
    from captioner.evaluation.calibration import DEFAULT_MIN_CIDER, fit_calibration, plot_reliability
    from captioner.model.calibration import save_calibration

    min_cider = DEFAULT_MIN_CIDER if command.calibration_cider is None else command.calibration_cider
    calibration, measured = fit_calibration(
        [caption.log_prob for caption in captions],
        [len(caption.token_ids) for caption in captions],
        [entry.cider for entry in evaluation.captions],
        min_cider,
    )
    if command.reliability_plot is not None:
        plot_reliability(measured, min_cider, command.reliability_plot)
    path = save_calibration(command.preset, calibration)
    error, count = measured.expected_calibration_error, sum(measured.counts)
    sys.stdout.write(
        f"confidence: probability of a CIDEr of {min_cider:g} or more; expected calibration error {error:.3f} "
        f"on {count} held-out captions; written to {path}\n"
    )
