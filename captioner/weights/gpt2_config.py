"""GPT-2's sizes in `config.json` or `hparams.json`: read strictly, and written for Hugging Face.

Axes: V vocabulary (the special tokens included), P text positions, D width, F MLP width.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from captioner.model.gpt2_decoder import GPT2Decoder
from captioner.weights.assign import WeightsError
from captioner.weights.gpt2_names import Gpt2Names

_MOST = 2**31
# What our decoder computes; a checkpoint that says otherwise would give other logits.
_FIXED = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "tie_word_embeddings": (True,),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gpt2Config:
    """Sizes of a GPT-2."""

    num_tokens: int
    """V, the special tokens included."""
    max_sequence_length: int
    """P."""
    hidden_dim: int
    """D."""
    num_heads: int
    """Attention heads; divides D."""
    num_layers: int
    """Blocks."""
    intermediate_dim: int
    """F."""
    layer_norm_epsilon: float = 1e-5
    """Added to the variance."""

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if name != "layer_norm_epsilon" and not (type(value) is int and 0 < value < _MOST):
                raise WeightsError(f"`{name}` of the config must be a count from 1; received {value!r}.")
        epsilon = self.layer_norm_epsilon
        if not isinstance(epsilon, int | float) or not 0 < epsilon < 1:
            raise WeightsError(f"`layer_norm_epsilon` must be above 0 and below 1; received {epsilon!r}.")
        if self.hidden_dim % self.num_heads:
            raise WeightsError(
                f"`n_head` must divide `n_embd`; received n_head={self.num_heads}, n_embd={self.hidden_dim}."
            )


def parse_gpt2_config(config: Mapping[str, Any]) -> Gpt2Config:
    """Reads OpenAI's hparams.json, or Hugging Face's config.json of a GPT-2.

    Args:
        config: the JSON object; for an encoder-decoder, its `decoder` part.

    Raises:
        WeightsError: If a size is missing or absurd, or an option is set that our decoder does not compute;
            the message names it.
    """
    if config.get("model_type", "gpt2") != "gpt2":
        raise WeightsError(f"`model_type` must be gpt2; received {config['model_type']!r}.")
    for name, allowed in _FIXED.items():
        if config.get(name, allowed[0]) not in allowed:
            rule = " or ".join(map(repr, allowed))
            raise WeightsError(
                f"`{name}` must be {rule}, all that our decoder computes; received {config[name]!r}."
            )
    positions = "n_positions" if "n_positions" in config else "n_ctx"
    vocabulary = "vocab_size" if "vocab_size" in config else "n_vocab"
    needed = (vocabulary, positions, "n_embd", "n_head", "n_layer")
    if missing := [name for name in needed if name not in config]:
        raise WeightsError(f"`{missing[0]}` is missing from the config.")
    sizes = [config[name] for name in needed]
    inner = config.get("n_inner")
    if inner is None:
        inner = 4 * sizes[2] if type(sizes[2]) is int else sizes[2]
    return Gpt2Config(
        num_tokens=sizes[0],
        max_sequence_length=sizes[1],
        hidden_dim=sizes[2],
        num_heads=sizes[3],
        num_layers=sizes[4],
        intermediate_dim=inner,
        layer_norm_epsilon=config.get("layer_norm_epsilon", 1e-5),
    )


def require_shapes(config: Gpt2Config, shapes: Mapping[str, tuple[int, ...]], names: Gpt2Names) -> None:
    """Compares the config with the shapes of a checkpoint, before a model of that size takes memory.

    Raises:
        WeightsError: If they disagree.
    """
    prefix, last = names.find_prefix(shapes), config.num_layers - 1
    kernel = names.layer_variable(last, "mlp_intermediate", "kernel")
    expected = {
        names.find_token_embedding(shapes): (config.num_tokens, config.hidden_dim),
        prefix + names.position_embedding: (config.max_sequence_length, config.hidden_dim),
        prefix + kernel: (config.hidden_dim, config.intermediate_dim),
    }
    if len(shapes) < 12 * config.num_layers:
        raise WeightsError(
            f"`n_layer` is {config.num_layers}, too many for a checkpoint of {len(shapes)} tensors."
        )
    for name, shape in expected.items():
        received = shapes.get(name)
        if received is None:
            raise WeightsError(f"The checkpoint lacks {name} {shape}, which its config asks for.")
        if received not in (shape, (1, *shape)):
            raise WeightsError(f"{name} must be of shape {shape}, as the config says; received {received}.")


def hugging_face_config(decoder: GPT2Decoder, **token_ids: int) -> dict[str, Any]:
    """The config.json with which `transformers` computes what our decoder does.

    Args:
        decoder: GPT2Decoder.
        **token_ids: such as `bos_token_id` and `eos_token_id`.
    """
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "add_cross_attention": True,
        "vocab_size": decoder.vocabulary_size + decoder.num_special_tokens,
        "n_positions": decoder.max_sequence_length,
        "n_embd": decoder.hidden_dim,
        "n_head": decoder.num_heads,
        "n_layer": decoder.num_layers,
        "n_inner": decoder.intermediate_dim,
        "layer_norm_epsilon": decoder.layer_norm_epsilon,
        "resid_pdrop": decoder.dropout,
        "embd_pdrop": decoder.dropout,
        "attn_pdrop": decoder.dropout,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "tie_word_embeddings": True,
        **token_ids,
    }
