"""Two functions by the names that users of GPT2-plus-EfficientNet-image-captioning know."""

import os
from pathlib import Path

from captioner.model.gpt2_decoder import GPT2Decoder
from captioner.weights import AssignmentReport, read_hdf5, read_tensorflow_checkpoint
from captioner.weights.gpt2 import assign_gpt2
from captioner.weights.gpt2_names import OPENAI, TENSORFLOW_HDF5


def load(model: GPT2Decoder, ckp_path: str | os.PathLike) -> AssignmentReport:
    """Fills a built decoder, such as `captioner.backbone.decoder`, from OpenAI's TensorFlow checkpoint.

    Args:
        model: GPT2Decoder of the checkpoint's sizes.
        ckp_path: folder of the checkpoint, or its prefix.

    Raises:
        WeightsError: If the checkpoint is damaged or does not fit.
    """
    return assign_gpt2(model, read_tensorflow_checkpoint(Path(ckp_path)), OPENAI)


def load_hdf5(model: GPT2Decoder, hdf5_path: str | os.PathLike) -> AssignmentReport:
    """Fills a built decoder from Hugging Face's `tf_model.h5`; see `load`."""
    return assign_gpt2(model, read_hdf5(hdf5_path), TENSORFLOW_HDF5)
