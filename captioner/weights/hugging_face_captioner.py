"""Hugging Face's image captioners: a `VisionEncoderDecoderModel` of ViT or DeiT and GPT-2, into ours."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from captioner.model import CaptionerBackbone, ImageCaptioner, ImageCaptionerPreprocessor
from captioner.model.vision_transformer import vision_transformer
from captioner.weights import vision_transformer as vision_names
from captioner.weights.assign import AssignmentReport, WeightsError, assign_strictly
from captioner.weights.checkpoint_folder import checkpoint_file, read_json
from captioner.weights.deferred import outside_deferral
from captioner.weights.gpt2 import open_gpt2_tensors
from captioner.weights.gpt2_config import parse_gpt2_config, require_shapes
from captioner.weights.gpt2_names import HUGGING_FACE
from captioner.weights.gpt2_tokenizer import read_gpt2_tokenizer
from captioner.weights.hugging_face_config import parse_image_encoder, parse_image_processor
from captioner.weights.hugging_face_generation import parse_decoding, parse_token_ids

MODEL_TYPE = "vision-encoder-decoder"
"""`model_type` in the config.json of such a folder."""
_ENCODER, _PROJECTION = "encoder.", "enc_to_dec_proj."


def is_hugging_face_captioner(folder: str | os.PathLike) -> bool:
    """Whether a folder's config.json is that of an image encoder with a text decoder."""
    path = checkpoint_file(Path(folder), "config.json")
    return path is not None and read_json(path).get("model_type") == MODEL_TYPE


def load_hugging_face_captioner(
    folder: str | os.PathLike, *, dtype: str | keras.DTypePolicy | None = None
) -> tuple[ImageCaptioner, AssignmentReport]:
    """Builds the captioner of a folder: both halves, image processing, tokenizer and decoding defaults.

    Args:
        folder: path of a folder with config.json, preprocessor_config.json, the tokenizer's files and
            model.safetensors, also in shards; generation_config.json if there is one.
        dtype: dtype policy.

    Returns:
        The captioner, and what became of each tensor.

    Raises:
        WeightsError: If something is missing, damaged, or not what our model computes; the message names it.
    """
    folder = Path(folder)
    try:
        return _load(folder, dtype)
    except WeightsError as error:
        if str(error).startswith(str(folder)):
            raise
        raise WeightsError(f"{folder}: {error}") from None


def _load(folder: Path, dtype) -> tuple[ImageCaptioner, AssignmentReport]:
    config = read_json(_required(folder, "config.json"))
    if config.get("model_type") != MODEL_TYPE:
        raise WeightsError(f"`model_type` must be {MODEL_TYPE}; received {config.get('model_type')!r}.")
    tensors, _ = open_gpt2_tensors(folder, "VisionEncoderDecoderModel")
    encoder = parse_image_encoder(_part(config, "encoder"))
    decoder = parse_gpt2_config(_part(config, "decoder"))
    _require_cross_attention(config["decoder"], tensors)
    vision_names.require_shapes(encoder, tensors.shapes, _ENCODER)
    require_shapes(decoder, tensors.shapes, HUGGING_FACE)
    _require_tied(tensors)
    path = checkpoint_file(folder, "generation_config.json")
    generation = {} if path is None else read_json(path)
    token_ids = parse_token_ids(config, generation)
    tokenizer = read_gpt2_tokenizer(folder, token_ids)
    if tokenizer.vocabulary_size() != decoder.num_tokens:
        raise WeightsError(
            f"the model has {decoder.num_tokens} tokens and the tokenizer {tokenizer.vocabulary_size()}; "
            "they do not belong together."
        )
    processor = parse_image_processor(read_json(_required(folder, "preprocessor_config.json")), encoder)
    decoding = parse_decoding(config, generation, decoder.max_sequence_length)
    backbone = CaptionerBackbone(
        image_encoder=vision_transformer(**encoder.arguments, **processor.scaling, dtype=dtype),
        image_size=encoder.image_size,
        vocabulary_size=decoder.num_tokens - tokenizer.num_special_tokens,
        num_special_tokens=tokenizer.num_special_tokens,
        hidden_dim=decoder.hidden_dim,
        num_heads=decoder.num_heads,
        num_image_layers=0,
        plain_image_tokens=True,
        num_layers=decoder.num_layers,
        intermediate_dim=decoder.intermediate_dim,
        max_sequence_length=decoder.max_sequence_length,
        layer_norm_epsilon=decoder.layer_norm_epsilon,
        dtype=dtype,
    )
    report = _assign(backbone, tensors, encoder.query_key_value_bias)
    preprocessor = ImageCaptionerPreprocessor(
        tokenizer,
        encoder.image_size,
        sequence_length=decoding["max_length"] + 1,
        decoding=decoding,
        **processor.transform,
    )
    with outside_deferral():
        return ImageCaptioner(backbone, preprocessor), report


def _assign(
    backbone: CaptionerBackbone, tensors: Mapping[str, np.ndarray], has_biases: bool
) -> AssignmentReport:
    new = []
    if not has_biases:  # those that the original does without are 0, as ours begin
        new = [block.query_key_value.bias for block in vision_names.blocks(backbone.image_encoder)]
    without = {id(variable) for variable in new}
    rows = vision_names.vision_transformer_table(backbone.image_encoder, _ENCODER)
    rows = [row for row in rows if id(row[1]) not in without]
    rows += _projection_rows(backbone)
    rows += HUGGING_FACE.rows(backbone.decoder, tensors, cross_attention=True)
    ignored = {_ENCODER + pattern: reason for pattern, reason in vision_names.IGNORED.items()}
    return assign_strictly(
        tensors,
        rows,
        targets=backbone.weights,
        ignored=ignored | HUGGING_FACE.ignored_patterns(tensors),
        new=new,
    )


def _projection_rows(backbone: CaptionerBackbone) -> Iterator[tuple]:
    projection = backbone.image_tokens.projection
    if projection is not None:
        yield f"{_PROJECTION}weight", projection.kernel, np.transpose
        yield f"{_PROJECTION}bias", projection.bias, None


def _require_cross_attention(decoder: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    if decoder.get("cross_attention_hidden_size") is not None:
        raise WeightsError(
            "`cross_attention_hidden_size` of the decoder must be left out; our decoder has one width."
        )
    if not HUGGING_FACE.has_cross_attention(tensors):
        raise WeightsError("the decoder has no cross-attention, so it cannot see the image.")


def _require_tied(tensors: Mapping[str, np.ndarray]) -> None:
    """An output projection of its own would be lost in silence."""
    embedding = HUGGING_FACE.find_token_embedding(tensors)
    head = embedding.removesuffix("transformer.wte.weight") + "lm_head.weight"
    if head in tensors and not np.array_equal(tensors[head], tensors[embedding]):
        raise WeightsError(f"{head} differs from {embedding}; our decoder has one matrix for both.")


def _part(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = config.get(name)
    if not isinstance(part, dict):
        raise WeightsError(f"`{name}` of config.json must be an object; received {part!r:.40}.")
    return part


def _required(folder: Path, name: str) -> Path:
    path = checkpoint_file(folder, name)
    if path is None:
        raise WeightsError(f"{folder} must hold {name}.")
    return path
