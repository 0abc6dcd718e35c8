"""Caption metrics of the COCO evaluation, a quick check for training, and contact sheets."""

from captioner.evaluation.contact_sheet import SheetRow, contact_sheet
from captioner.evaluation.ngram_scores import CiderD, quick_scores
from captioner.evaluation.predictions import coco_file_names, match_predictions, read_predictions
from captioner.evaluation.scores import CaptionScore, Evaluation, evaluate_captions

__all__ = [
    "CaptionScore",
    "CiderD",
    "Evaluation",
    "SheetRow",
    "coco_file_names",
    "contact_sheet",
    "evaluate_captions",
    "match_predictions",
    "quick_scores",
    "read_predictions",
]
