"""Pretrained and foreign weights: read without their frameworks, and assigned to our variables strictly."""

from captioner.weights.assign import AssignmentReport, WeightsError, assign_strictly
from captioner.weights.image_encoders import load_image_encoder
from captioner.weights.torch_checkpoint import read_torch_checkpoint

__all__ = [
    "AssignmentReport",
    "WeightsError",
    "assign_strictly",
    "load_image_encoder",
    "read_torch_checkpoint",
]
