"""Pretrained GPT-2 from a local folder: OpenAI's and Hugging Face's files, into our decoder."""

import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from captioner.model import CaptionerBackbone, ImageCaptioner, ImageCaptionerPreprocessor
from captioner.model.gpt2_decoder import GPT2Decoder
from captioner.text import CaptionTokenizer
from captioner.weights.assign import AssignmentReport, WeightsError, assign_strictly
from captioner.weights.checkpoint_folder import checkpoint_file, read_json
from captioner.weights.deferred import fill, outside_deferral
from captioner.weights.gpt2_config import Gpt2Config, parse_gpt2_config, require_shapes
from captioner.weights.gpt2_download import require_unchanged
from captioner.weights.gpt2_names import HUGGING_FACE, OPENAI, TENSORFLOW_HDF5, Gpt2Names
from captioner.weights.gpt2_tokenizer import read_gpt2_tokenizer
from captioner.weights.hdf5_checkpoint import read_hdf5
from captioner.weights.image_encoders import load_image_encoder
from captioner.weights.safetensors_checkpoint import read_safetensors, read_sharded_safetensors
from captioner.weights.tensorflow_checkpoint import read_tensorflow_checkpoint


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gpt2Checkpoint:
    """A pretrained GPT-2 that lies in a folder; its tensors are read when they are assigned."""

    config: Gpt2Config
    """Sizes."""
    tokenizer: CaptionTokenizer
    """Its vocabulary, start and end token."""
    tensors: Mapping[str, np.ndarray]
    """Lazy mapping from their names to arrays."""
    names: Gpt2Names
    """Names of the format."""

    @property
    def decoder_arguments(self) -> dict[str, Any]:
        """The arguments of `GPT2Decoder` and `CaptionerBackbone` that the checkpoint fixes."""
        return {
            "vocabulary_size": self.config.num_tokens - self.tokenizer.num_special_tokens,
            "num_special_tokens": self.tokenizer.num_special_tokens,
            "hidden_dim": self.config.hidden_dim,
            "num_heads": self.config.num_heads,
            "num_layers": self.config.num_layers,
            "intermediate_dim": self.config.intermediate_dim,
            "max_sequence_length": self.config.max_sequence_length,
            "layer_norm_epsilon": self.config.layer_norm_epsilon,
        }

    def assign(self, decoder: GPT2Decoder) -> AssignmentReport:
        """Fills a decoder; cross-attention that the checkpoint lacks is muted, see `assign_gpt2`."""
        return assign_gpt2(decoder, self.tensors, self.names)


def load_gpt2(folder: str | os.PathLike) -> Gpt2Checkpoint:
    """Opens a folder with a GPT-2 of OpenAI (hparams.json) or Hugging Face (config.json).

    Files that `captioner download` fetched must be as they were then. Of Hugging Face's weights, `model.safetensors`
    (also in shards) goes before `tf_model.h5`.

    Args:
        folder: path of the folder.

    Returns:
        A `Gpt2Checkpoint`, whose sizes have been compared with its tensors.

    Raises:
        WeightsError: If something is missing, damaged, or not what our decoder computes.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise WeightsError(
            f"There is no folder {str(folder)!r}: give one with a GPT-2 of OpenAI or Hugging Face."
        )
    require_unchanged(folder)
    path = checkpoint_file(folder, "config.json", "hparams.json")
    if path is None:
        raise WeightsError(f"{folder} must hold config.json (Hugging Face) or hparams.json (OpenAI).")
    tensors, names = open_gpt2_tensors(folder)
    config = read_json(path)
    try:
        sizes = parse_gpt2_config(config)
        require_shapes(sizes, tensors.shapes, names)
    except WeightsError as error:
        raise WeightsError(f"{folder}: {error}") from None
    tokenizer = read_gpt2_tokenizer(folder, config)
    if tokenizer.vocabulary_size() != sizes.num_tokens:
        raise WeightsError(
            f"{folder}: the model has {sizes.num_tokens} tokens and the tokenizer {tokenizer.vocabulary_size()}; "
            "they do not belong together."
        )
    return Gpt2Checkpoint(config=sizes, tokenizer=tokenizer, tensors=tensors, names=names)


def open_gpt2_tensors(
    folder: Path, model_class: str = "AutoModelForCausalLM"
) -> tuple[Mapping[str, np.ndarray], Gpt2Names]:
    """The tensors of a folder and the names of their format.

    Args:
        folder: path of the folder.
        model_class: what `transformers` would open the folder with; named in the way out of a pickle.

    Raises:
        WeightsError: If there are none that can be read.
    """
    if (path := checkpoint_file(folder, "model.safetensors")) is not None:
        return read_safetensors(path), HUGGING_FACE
    if (path := checkpoint_file(folder, "model.safetensors.index.json")) is not None:
        return read_sharded_safetensors(path), HUGGING_FACE
    if (path := checkpoint_file(folder, "tf_model.h5")) is not None:
        return read_hdf5(path), TENSORFLOW_HDF5
    if checkpoint_file(folder, "hparams.json") is not None or any(folder.glob("*.index")):
        return read_tensorflow_checkpoint(folder), OPENAI
    if any(folder.glob("pytorch_model*.bin*")):
        raise WeightsError(
            f"{folder}: pytorch_model.bin is a pickle, which may run code, and is not read. With PyTorch, write it as "
            f"safetensors: from transformers import {model_class} as M; "
            f"M.from_pretrained({str(folder)!r}).save_pretrained(OUT)"
        )
    raise WeightsError(
        f"{folder} must hold model.safetensors, tf_model.h5, or OpenAI's checkpoint with model.ckpt.index and "
        "model.ckpt.data-*; it holds none."
    )


def assign_gpt2(
    decoder: GPT2Decoder, tensors: Mapping[str, np.ndarray], names: Gpt2Names
) -> AssignmentReport:
    """Fills a built decoder from a GPT-2.

    A GPT-2 without cross-attention leaves that of the decoder at its initial values, but for the output
    projection, which becomes zero: the decoder's predictions are those of the language model until training
    changes them, as in Flamingo's gates.

    Args:
        decoder: GPT2Decoder of the checkpoint's sizes.
        tensors: mapping from names to arrays.
        names: names of the format.

    Raises:
        WeightsError: If tensors and variables do not fit; the decoder is then as it was.

    References:
        - [Alayrac et al., 2022](https://arxiv.org/abs/2204.14198), section 2.2
    """
    cross_attention = names.has_cross_attention(tensors)
    fresh = [] if cross_attention else [layer for b in decoder.blocks for layer in b.cross_attention_layers]
    report = assign_strictly(
        tensors,
        names.rows(decoder, tensors, cross_attention=cross_attention),
        targets=decoder.weights,
        ignored=names.ignored_patterns(tensors),
        new=[variable for layer in fresh for variable in layer.weights],
    )
    for block in () if cross_attention else decoder.blocks:
        for variable in block.cross_attention_output.weights:
            fill(variable, functools.partial(np.zeros, variable.shape, variable.dtype))
    return report


def from_pretrained_gpt2(folder: str | os.PathLike, **arguments) -> ImageCaptioner:
    """A captioner with the GPT-2 of a folder as its decoder; image side and cross-attention wait for training.

    Args:
        folder: as for `load_gpt2`.
        **arguments: as for `build_captioner`.

    Example:
    ```python
    captioner = from_pretrained_gpt2("models/124M", image_encoder="efficientnet_v2_s")
    ```
    """
    return build_captioner(load_gpt2(folder), **arguments)[0]


def build_captioner(
    checkpoint: Gpt2Checkpoint,
    *,
    image_encoder: str | keras.Model = "efficientnet_v2_s",
    image_size: tuple[int, int] = (400, 400),
    image_encoder_weights: str | os.PathLike | None = "imagenet",
    num_image_layers: int = 2,
    dropout: float = 0.1,
    resize: str = "stretch",
    sequence_length: int = 32,
    dtype: str | keras.DTypePolicy | None = None,
) -> tuple[ImageCaptioner, AssignmentReport]:
    """Builds a captioner around a pretrained GPT-2.

    Args:
        checkpoint: from `load_gpt2`.
        image_encoder: a name that `build_image_encoder` knows, or a model with weights of its own.
        image_size: `(height, width)` in px.
        image_encoder_weights: `"imagenet"`, a local file, or None for random weights.
        num_image_layers: bidirectional blocks over the image tokens.
        dropout: of image tokens and decoder; GPT-2 was trained with 0.1.
        resize: how a photo gets that size; see `ImageTransform`.
        sequence_length: text positions of a batch.
        dtype: dtype policy.

    Returns:
        The captioner, and what became of each tensor of the checkpoint.

    Raises:
        WeightsError: If weights are missing or do not fit.
    """
    backbone = CaptionerBackbone(
        image_encoder=image_encoder,
        image_size=image_size,
        num_image_layers=num_image_layers,
        dropout=dropout,
        dtype=dtype,
        **checkpoint.decoder_arguments,
    )
    report = checkpoint.assign(backbone.decoder)
    if image_encoder_weights is not None and isinstance(image_encoder, str):
        encoder = load_image_encoder(image_encoder, image_size, image_encoder_weights)
        backbone.image_encoder.set_weights(encoder.get_weights())
    length = min(sequence_length, checkpoint.config.max_sequence_length)
    preprocessor = ImageCaptionerPreprocessor(
        checkpoint.tokenizer, image_size, resize, sequence_length=length
    )
    with outside_deferral():
        return ImageCaptioner(backbone, preprocessor), report
