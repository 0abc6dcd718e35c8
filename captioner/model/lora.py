"""LoRA: what a decoder learns beside weights that stay as they are. Axes: D width in, E width out, R rank."""

from collections.abc import Iterable, Iterator

import keras
import numpy as np

LORA_PARTS = ("cross_attention", "decoder")
"""The parts of a captioner that can have updates."""


def add_lora(decoder, parts: Iterable[str], rank: int, alpha: float, mlp: bool = False) -> None:
    """Gives the attention of a decoder's blocks low-rank updates, and freezes all else in the parts that have them.

    A kernel `(D, E)` becomes `kernel + alpha / rank * A @ B`, with A `(D, R)` random and B `(R, E)` zero: the
    decoder says at first what it said before. Query, key and value, which are one projection here, share their A. The
    updates are Keras's own, see `keras.layers.Dense.enable_lora`; they stay in float32 whatever the dtype policy.

    Args:
        decoder: a built `GPT2Decoder`.
        parts: of `LORA_PARTS`. `decoder` is the self-attention, `cross_attention` that to the image; both with their
            output projections.
        rank: int. R.
        alpha: float. Strength of the updates, divided by the rank so that the rate need not follow it.
        mlp: bool. Whether `decoder` is the MLP too.

    Raises:
        ValueError: If a part is unknown or has updates already, or `rank` is no rank.

    References:
        - [Hu et al., 2021](https://arxiv.org/abs/2106.09685), section 4; section 7.1 for all four projections of the
          attention at a low rank rather than one at a high rank
        - [Dettmers et al., 2023](https://arxiv.org/abs/2305.14314), section 4, for the MLP
    """
    parts = set(parts)
    if unknown := parts - set(LORA_PARTS):
        raise ValueError(f"`parts` must be of {', '.join(LORA_PARTS)}; received {sorted(unknown)}.")
    if rank < 1:
        raise ValueError(f"`rank` must be at least 1; received rank={rank}.")
    if any(part in parts for part, layers in _adapted_parts(decoder) if layers):
        raise ValueError(f"`parts` must not have LoRA yet; received {sorted(parts)}, of which some have.")
    for block in decoder.blocks:
        layers = [block.query_key_value, block.self_attention_output] if "decoder" in parts else []
        if "decoder" in parts and mlp:
            layers += [block.mlp_intermediate, block.mlp_output]
        if "cross_attention" in parts:
            layers += block.cross_attention_layers[1:]  # the first is the norm
        for layer in layers:
            layer.enable_lora(rank, lora_alpha=alpha)
    freeze_under_lora(decoder)


def freeze_under_lora(decoder) -> None:
    """Freezes all variables but the updates in the parts that have some, whatever was trained before.

    Keras's `enable_lora` leaves biases to be trained, and `layer.trainable = True` brings the kernel back.
    """
    for part, layers in _adapted_parts(decoder):
        if not layers:
            continue
        updates = {id(variable) for layer in layers for variable in _updates(layer)}
        for variable in _part_weights(decoder, part):
            variable.trainable = variable.trainable and id(variable) in updates


def merged_weights(model: keras.Model) -> list[np.ndarray]:
    """What `get_weights` would give without LoRA: each kernel with its update added, in float32.

    Keras's own merge, as in `save_weights`, rounds to the compute dtype.
    """
    adapted = {id(layer._kernel): layer for layer in _dense_layers(model) if layer.lora_enabled}
    updates = {id(variable) for layer in adapted.values() for variable in _updates(layer)}
    return [
        _merged_kernel(adapted[id(weight)]) if id(weight) in adapted else _array(weight)
        for weight in model.weights
        if id(weight) not in updates
    ]


def _merged_kernel(layer: keras.layers.Dense) -> np.ndarray:
    """`(D, E)`."""
    update = _array(layer.lora_kernel_a) @ _array(layer.lora_kernel_b)
    return _array(layer._kernel).astype("float32") + layer.lora_alpha / layer.lora_rank * update


def _adapted_parts(decoder) -> Iterator[tuple[str, list]]:
    """Each part with its layers that have updates."""
    cross = {id(layer) for block in decoder.blocks for layer in block.cross_attention_layers}
    for part in LORA_PARTS:
        yield (
            part,
            [
                layer
                for layer in _dense_layers(decoder)
                if layer.lora_enabled and (id(layer) in cross) == (part == "cross_attention")
            ],
        )


def _part_weights(decoder, part: str) -> list:
    """The cross-attention's variables, or with `decoder` all others, embeddings and final norm included."""
    layers = [layer for block in decoder.blocks for layer in block.cross_attention_layers]
    cross = {id(weight): weight for layer in layers for weight in layer.weights}
    if part == "cross_attention":
        return list(cross.values())
    return [weight for weight in decoder.weights if id(weight) not in cross]


def _dense_layers(layer: keras.layers.Layer) -> list[keras.layers.Dense]:
    return [found for found in layer._flatten_layers() if isinstance(found, keras.layers.Dense)]


def _updates(layer: keras.layers.Dense) -> tuple:
    return layer.lora_kernel_a, layer.lora_kernel_b


def _array(weight) -> np.ndarray:
    return keras.ops.convert_to_numpy(weight)
