"""Pretrained and foreign weights: read without their frameworks, and assigned to our variables strictly."""

from captioner.weights.assign import AssignmentReport, WeightsError, assign_strictly
from captioner.weights.export_gpt2 import export_gpt2
from captioner.weights.gpt2 import from_pretrained_gpt2, load_gpt2
from captioner.weights.hdf5_checkpoint import read_hdf5
from captioner.weights.image_encoders import load_image_encoder
from captioner.weights.safetensors_checkpoint import (
    read_safetensors,
    read_sharded_safetensors,
    write_safetensors,
)
from captioner.weights.tensorflow_checkpoint import read_tensorflow_checkpoint
from captioner.weights.torch_checkpoint import read_torch_checkpoint

__all__ = [
    "AssignmentReport",
    "WeightsError",
    "assign_strictly",
    "export_gpt2",
    "from_pretrained_gpt2",
    "load_gpt2",
    "load_image_encoder",
    "read_hdf5",
    "read_safetensors",
    "read_sharded_safetensors",
    "read_tensorflow_checkpoint",
    "read_torch_checkpoint",
    "write_safetensors",
]
