"""Hugging Face's ViT and DeiT: what their tensors are called, and how KerasHub's layers keep them."""

import math
from collections.abc import Callable, Iterator, Mapping

import keras
import numpy as np

from captioner.weights.assign import WeightsError

IGNORED = {
    "pooler.*": "the classifier's pooling, which captions do not read",
    "embeddings.mask_token": "used in pretraining only",
}
"""Reason for each tensor of a `ViTModel` or `DeiTModel` that an image encoder does not have."""

QUERY_KEY_VALUE_BIASES = tuple(f".attention.attention.{name}.bias" for name in ("query", "key", "value"))
"""Endings of the names that a network without `qkv_bias` lacks."""

Row = tuple[str, keras.Variable, Callable[[np.ndarray], np.ndarray] | None]


def vision_transformer_table(encoder: keras.Model, prefix: str = "") -> Iterator[Row]:
    """Yields source name, variable and transform for each tensor of a `ViTModel` or `DeiTModel`.

    Args:
        encoder: from `captioner.model.vision_transformer`.
        prefix: str. What the names begin with, such as "encoder.".
    """
    backbone = encoder.get_layer("backbone")
    embeddings, transformer = _two_layers(backbone)
    yield f"{prefix}embeddings.cls_token", embeddings.class_token, None
    if hasattr(embeddings, "distillation_token"):
        yield f"{prefix}embeddings.distillation_token", embeddings.distillation_token, None
    positions = embeddings.position_embedding
    if isinstance(positions, keras.layers.Embedding):
        yield f"{prefix}embeddings.position_embeddings", positions.embeddings, lambda x: x[0]
    else:
        yield f"{prefix}embeddings.position_embeddings", positions, None
    patches = f"{prefix}embeddings.patch_embeddings.projection"
    # (out, in, rows, columns) to (rows, columns, in, out).
    yield f"{patches}.weight", embeddings.patch_embedding.kernel, lambda x: x.transpose(2, 3, 1, 0)
    yield f"{patches}.bias", embeddings.patch_embedding.bias, None
    for index, block in enumerate(transformer.encoder_layers):
        yield from _block(block, f"{prefix}encoder.layer.{index}")
    yield from _norm(transformer.layer_norm, f"{prefix}layernorm")


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


def _two_layers(backbone: keras.Model) -> list[keras.layers.Layer]:
    """Embedding and encoder of a backbone, which name them differently."""
    return [layer for layer in backbone.layers if not isinstance(layer, keras.layers.InputLayer)]


def _block(block: keras.layers.Layer, source: str) -> Iterator[Row]:
    attention = block.mha
    # Linear layers are (out, in); Keras's attention has an axis of heads N and one of their width H.
    heads = (attention.num_heads, attention.key_dim)
    for name, layer in (
        ("query", attention.query_dense),
        ("key", attention.key_dense),
        ("value", attention.value_dense),
    ):
        yield f"{source}.attention.attention.{name}.weight", layer.kernel, lambda x: x.T.reshape(-1, *heads)
        yield f"{source}.attention.attention.{name}.bias", layer.bias, lambda x: x.reshape(heads)
    output = attention.output_dense
    yield f"{source}.attention.output.dense.weight", output.kernel, lambda x: x.T.reshape(*heads, -1)
    yield f"{source}.attention.output.dense.bias", output.bias, None
    if hasattr(block, "output_layer"):  # DeiT
        intermediate, output = block.mlp.dense, block.output_layer.dense
    else:
        intermediate, output = block.mlp.dense_1, block.mlp.dense_2
    yield from _linear(intermediate, f"{source}.intermediate.dense")
    yield from _linear(output, f"{source}.output.dense")
    yield from _norm(block.layer_norm_1, f"{source}.layernorm_before")
    yield from _norm(block.layer_norm_2, f"{source}.layernorm_after")


def _linear(layer: keras.layers.Dense, source: str) -> Iterator[Row]:
    yield f"{source}.weight", layer.kernel, np.transpose
    yield f"{source}.bias", layer.bias, None


def _norm(layer: keras.layers.LayerNormalization, source: str) -> Iterator[Row]:
    yield f"{source}.weight", layer.gamma, None
    yield f"{source}.bias", layer.beta, None
