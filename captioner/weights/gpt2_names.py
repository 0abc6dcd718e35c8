"""GPT-2's tensors in the formats that it is published in: one table of names and shapes, both ways.

Axes: V vocabulary (the special tokens included), P text positions, D width, F MLP width.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType

import keras
import numpy as np

from captioner.model.gpt2_decoder import GPT2Decoder
from captioner.weights.assign import WeightsError

# Layers of a block: ours, and theirs with a dot between scope and name. Their Conv1D keeps kernels (in, out)
# as our Dense does, and fuses query, key and value in the same order.
_SELF_ATTENTION_AND_MLP = {
    "self_attention_norm": "ln_1",
    "query_key_value": "attn.c_attn",
    "self_attention_output": "attn.c_proj",
    "mlp_norm": "ln_2",
    "mlp_intermediate": "mlp.c_fc",
    "mlp_output": "mlp.c_proj",
}
_CROSS_ATTENTION = {
    "cross_attention_norm": "ln_cross_attn",
    "cross_attention_query": "crossattention.q_attn",
    "cross_attention_key_value": "crossattention.c_attn",
    "cross_attention_output": "crossattention.c_proj",
}

Row = tuple[str, keras.Variable, Callable[[np.ndarray], np.ndarray] | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gpt2Names:
    """How one format names GPT-2's tensors, and where it adds an axis of length one."""

    separator: str
    """Between the parts of a name."""
    block: str
    """Part that numbers the blocks."""
    variables: Mapping[str, str]
    """Their word for a layer's `kernel`, `bias`, `gamma` and `beta`."""
    token_embedding: tuple[str, ...]
    """Names of the token embedding `(V, D)`; releases differ."""
    position_embedding: str
    """Name of the position embedding `(P, D)`."""
    leading_one: str = ""
    """Variable of the projections that has an axis of length one before ours."""
    ignored: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Reason for each pattern of names that are not used; `{prefix}` stands for that of `find_prefix`."""

    def find_prefix(self, names: Iterable[str]) -> str:
        """What stands before all names of the decoder: `transformer.`, nothing, or longer.

        Raises:
            WeightsError: If there is no token embedding, or more than one.
        """
        names = list(names)
        found = [
            name.removesuffix(end)
            for name in names
            for end in self.token_embedding
            if name == end or name.endswith(self.separator + end)
        ]
        if len(found) != 1:
            raise WeightsError(
                f"A GPT-2 checkpoint must have one tensor named {' or '.join(self.token_embedding)}; "
                f"this one has {len(found)} among {len(names)} tensors."
            )
        return found[0]

    def find_token_embedding(self, names: Iterable[str]) -> str:
        """Name of the token embedding."""
        names = set(names)
        prefix = self.find_prefix(names)
        return next(prefix + end for end in self.token_embedding if prefix + end in names)

    def layer_variable(self, block: int | None, layer: str, variable: str) -> str:
        """Name of a variable without prefix; `block` None means the final norm.

        Args:
            block: int or None.
            layer: name of a layer of our `TransformerBlock`, or `final_norm`.
            variable: `kernel`, `bias`, `gamma` or `beta`.
        """
        theirs = (_SELF_ATTENTION_AND_MLP | _CROSS_ATTENTION).get(layer, "ln_f")
        parts = theirs.split(".") if block is None else [self.block.format(block), *theirs.split(".")]
        return self.separator.join([*parts, self.variables[variable]])

    def has_cross_attention(self, names: Iterable[str]) -> bool:
        """Whether any tensor belongs to a cross-attention."""
        words = {theirs.split(".")[0] for theirs in _CROSS_ATTENTION.values()}
        return any(words & set(name.split(self.separator)) for name in names)

    def rows(self, decoder: GPT2Decoder, names: Iterable[str], *, cross_attention: bool) -> Iterator[Row]:
        """The table that `assign_strictly` takes for a built decoder.

        Args:
            decoder: GPT2Decoder.
            names: all names of the checkpoint.
            cross_attention: whether the checkpoint has cross-attention; without it, its variables have no row.
        """
        names = set(names)
        prefix, embedding = self.find_prefix(names), decoder.token_embedding
        size, name = decoder.vocabulary_size, self.find_token_embedding(names)
        yield name, embedding.embeddings, lambda array: array[:size]
        if embedding.special_embeddings is not None:
            yield name, embedding.special_embeddings, lambda array: array[size:]
        yield prefix + self.position_embedding, decoder.position_embedding, None
        for name, variable, leading_one in self._layers(decoder, cross_attention):
            yield prefix + name, variable, _without_leading_one if leading_one else None

    def tensors(
        self, decoder: GPT2Decoder, prefix: str
    ) -> Iterator[tuple[str, tuple[int, ...], Callable[[], np.ndarray]]]:
        """The other way: name, shape and array of each tensor of a decoder, cross-attention included."""
        embedding = decoder.token_embedding
        parts = [v for v in (embedding.embeddings, embedding.special_embeddings) if v is not None]
        shape = (sum(part.shape[0] for part in parts), decoder.hidden_dim)
        yield prefix + self.token_embedding[0], shape, lambda: np.concatenate([_array(p) for p in parts])
        rows = [(self.position_embedding, decoder.position_embedding, False)]
        for name, variable, leading_one in [*rows, *self._layers(decoder, True)]:
            shape = (1, *variable.shape) if leading_one else tuple(variable.shape)
            yield prefix + name, shape, lambda v=variable, s=shape: _array(v).reshape(s)

    def ignored_patterns(self, names: Iterable[str]) -> dict[str, str]:
        """What `assign_strictly` may leave out of these names, with the reasons."""
        prefix = self.find_prefix(names)
        outer = prefix.removesuffix(f"transformer{self.separator}")
        return {
            pattern.format(prefix=prefix, outer=outer): reason for pattern, reason in self.ignored.items()
        }

    def _layers(
        self, decoder: GPT2Decoder, cross_attention: bool
    ) -> Iterator[tuple[str, keras.Variable, bool]]:
        layers = _SELF_ATTENTION_AND_MLP | (_CROSS_ATTENTION if cross_attention else {})
        for index, block in enumerate(decoder.blocks):
            for layer in layers:
                yield from self._variables(index, layer, getattr(block, layer))
        yield from self._variables(None, "final_norm", decoder.final_norm)

    def _variables(self, block, layer_name, layer):
        is_norm = isinstance(layer, keras.layers.LayerNormalization)
        for variable in ("gamma", "beta") if is_norm else ("kernel", "bias"):
            name = self.layer_variable(block, layer_name, variable)
            yield name, getattr(layer, variable), variable == self.leading_one


HUGGING_FACE = Gpt2Names(
    separator=".",
    block="h.{}",
    variables=MappingProxyType({"kernel": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}),
    token_embedding=("wte.weight",),
    position_embedding="wpe.weight",
    ignored=MappingProxyType(
        {
            "{prefix}h.*.attn.bias": "the causal mask, which follows from the positions",
            "{prefix}h.*.crossattention.bias": "a causal mask that cross-attention never used",
            "{prefix}h.*.masked_bias": "the constant of masked scores",
            "{outer}lm_head.weight": "tied to the token embedding",
        }
    ),
)
"""`model.safetensors` of Hugging Face's PyTorch GPT-2, of the bare model or one with a head."""

TENSORFLOW_HDF5 = Gpt2Names(
    separator="/",
    block="h_._{}",
    variables=MappingProxyType(
        {"kernel": "weight:0", "bias": "bias:0", "gamma": "gamma:0", "beta": "beta:0"}
    ),
    token_embedding=("wte/weight:0", "wte/embeddings:0"),
    position_embedding="wpe/embeddings:0",
    leading_one="bias",
)
"""`tf_model.h5` of Hugging Face's TensorFlow GPT-2."""

OPENAI = Gpt2Names(
    separator="/",
    block="h{}",
    variables=MappingProxyType({"kernel": "w", "bias": "b", "gamma": "g", "beta": "b"}),
    token_embedding=("wte",),
    position_embedding="wpe",
    leading_one="kernel",
)
"""OpenAI's TensorFlow checkpoints, https://github.com/openai/gpt-2/blob/master/src/model.py."""


def _without_leading_one(array: np.ndarray) -> np.ndarray:
    return array[0] if array.ndim > 1 and array.shape[0] == 1 else array


def _array(variable: keras.Variable) -> np.ndarray:
    return keras.ops.convert_to_numpy(keras.ops.cast(variable, "float32"))
