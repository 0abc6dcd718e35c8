"""Hugging Face's ViT and DeiT: what their tensors are called, and how our layers keep them."""

import math
from collections.abc import Iterator, Mapping

import keras
import numpy as np

from captioner.model.vision_transformer import ImageBlock
from captioner.weights.assign import Row, WeightsError

IGNORED = {
    "pooler.*": "the classifier's pooling, which captions do not read",
    "embeddings.mask_token": "used in pretraining only",
}
"""Reason for each tensor of a `ViTModel` or `DeiTModel` that an image encoder does not have."""

_QUERY_KEY_VALUE = tuple(f".attention.attention.{name}" for name in ("query", "key", "value"))
_TOKENS = {"class_token": "cls_token", "distillation_token": "distillation_token"}


def vision_transformer_table(encoder: keras.Model, prefix: str = "") -> Iterator[Row]:
    """Yields source names, variable and transform for each tensor of a `ViTModel` or `DeiTModel`.

    Args:
        encoder: from `captioner.model.vision_transformer`.
        prefix: str. What the names begin with, such as "encoder.".
    """
    embeddings = encoder.get_layer("patch_tokens")
    for name, token in zip(embeddings.token_names, embeddings.tokens, strict=True):
        yield f"{prefix}embeddings.{_TOKENS[name]}", token, None
    yield f"{prefix}embeddings.position_embeddings", embeddings.positions, None
    patches = f"{prefix}embeddings.patch_embeddings.projection"
    # (out, in, rows, columns) to (rows, columns, in, out).
    yield f"{patches}.weight", embeddings.projection.kernel, lambda x: x.transpose(2, 3, 1, 0)
    yield f"{patches}.bias", embeddings.projection.bias, None
    for index, block in enumerate(blocks(encoder)):
        yield from _block(block, f"{prefix}encoder.layer.{index}")
    yield from _norm(encoder.get_layer("final_norm"), f"{prefix}layernorm")


def blocks(encoder: keras.Model) -> list[ImageBlock]:
    """The transformer blocks of an encoder, in their order."""
    return [layer for layer in encoder.layers if isinstance(layer, ImageBlock)]


def require_shapes(config, shapes: Mapping[str, tuple[int, ...]], prefix: str) -> None:
    """Compares a config with the shapes of a checkpoint, before a network of that size takes memory.

    Args:
        config: `ImageEncoderConfig`.
        shapes: shape of each tensor by name.
        prefix: str. What the names begin with.

    Raises:
        WeightsError: If they disagree.
    """
    width, patches = config.hidden_dim, f"{prefix}embeddings.patch_embeddings.projection.weight"
    num_patches = math.prod(
        side // patch for side, patch in zip(config.image_size, config.patch_size, strict=True)
    )
    num_tokens = num_patches + (2 if config.kind == "deit" else 1)
    last = f"{prefix}encoder.layer.{config.num_layers - 1}"
    expected = {
        patches: (width, 3, *config.patch_size),
        f"{prefix}embeddings.position_embeddings": (1, num_tokens, width),
        f"{last}.intermediate.dense.weight": (config.intermediate_dim, width),
    }
    for name, shape in expected.items():
        if name not in shapes:
            raise WeightsError(f"The checkpoint lacks {name} {shape}, which its config asks for.")
        if tuple(shapes[name]) != shape:
            raise WeightsError(
                f"{name} must be of shape {shape}, as the config says; received {shapes[name]}."
            )


def _block(block: ImageBlock, source: str) -> Iterator[Row]:
    fused = [source + name for name in _QUERY_KEY_VALUE]
    # Linear layers are (out, in).
    yield (
        tuple(f"{name}.weight" for name in fused),
        block.query_key_value.kernel,
        lambda *parts: np.concatenate([part.T for part in parts], axis=1),
    )
    yield (
        tuple(f"{name}.bias" for name in fused),
        block.query_key_value.bias,
        lambda *parts: np.concatenate(parts),
    )
    yield from _linear(block.self_attention_output, f"{source}.attention.output.dense")
    yield from _linear(block.mlp_intermediate, f"{source}.intermediate.dense")
    yield from _linear(block.mlp_output, f"{source}.output.dense")
    yield from _norm(block.self_attention_norm, f"{source}.layernorm_before")
    yield from _norm(block.mlp_norm, f"{source}.layernorm_after")


def _linear(layer: keras.layers.Dense, source: str) -> Iterator[Row]:
    yield f"{source}.weight", layer.kernel, np.transpose
    yield f"{source}.bias", layer.bias, None


def _norm(layer: keras.layers.LayerNormalization, source: str) -> Iterator[Row]:
    yield f"{source}.weight", layer.gamma, None
    yield f"{source}.bias", layer.beta, None
