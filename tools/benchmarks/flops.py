"""Counts what the matrix products and convolutions of a training step compute, in floating-point operations.

Axes: B images, G texts per image, T text positions, S image tokens, D width, V vocabulary.
"""

import math

BACKWARD = 2
"""Gradients of inputs and of weights: each costs as much as the forward pass."""


def step_flops(forward: float) -> float:
    """Of a step, from those of the forward pass; dropout, norms and the optimizer are not products."""
    return (1 + BACKWARD) * forward


def decoder_flops(
    model: dict, num_images: int, num_captions: int, num_tokens: int, num_image_tokens: int
) -> float:
    """Of the decoder's forward pass and its logits.

    Args:
        model: `hidden_dim`, `num_layers`, `vocabulary_size`.
        num_images: int. B; their keys and values are projected once for all their texts.
        num_captions: int. G.
        num_tokens: int. T.
        num_image_tokens: int. S.
    """
    width, rows = model["hidden_dim"], num_images * num_captions * num_tokens
    weights = 4 * width**2 + 2 * width**2 + 8 * width**2  # self-attention, cross-attention's text side, MLP
    layer = 2 * rows * weights + 2 * num_images * num_image_tokens * 2 * width**2
    layer += 4 * rows * (num_tokens + num_image_tokens) * width
    return model["num_layers"] * layer + 2 * rows * width * model["vocabulary_size"]


def vit_tokens(vit: dict) -> int:
    """Image tokens of a vision transformer, the class token included."""
    return (vit["image_size"] // vit["patch_size"]) ** 2 + 1


def vit_flops(vit: dict) -> float:
    """Of one image through a vision transformer.

    Args:
        vit: its sizes, in Hugging Face's words.
    """
    width, tokens = vit["hidden_size"], vit_tokens(vit)
    weights = 4 * width**2 + 2 * width * vit["intermediate_size"]
    layer = 2 * tokens * weights + 4 * tokens**2 * width
    patches = 2 * (tokens - 1) * 3 * vit["patch_size"] ** 2 * width
    return vit["num_hidden_layers"] * layer + patches


def network_flops(network) -> float:
    """Of one image through a Keras network of convolutions and dense layers."""
    import keras

    total = 0
    for layer in network.layers:
        if not isinstance(layer, keras.layers.Layer) or not hasattr(layer, "kernel"):
            continue
        cells = math.prod(layer.output.shape[1:-1])
        kernel = layer.kernel.shape
        # Each weight meets each output cell once: a depthwise kernel has one weight for each channel and offset.
        total += 2 * cells * math.prod(kernel)
    return total


def image_tokens_flops(model: dict, num_image_tokens: int, channels: int) -> float:
    """Of one image: the projection of its feature map, and the bidirectional blocks over its tokens."""
    width = model["hidden_dim"]
    layer = 2 * num_image_tokens * 12 * width**2 + 4 * num_image_tokens**2 * width
    return model["num_image_layers"] * layer + 2 * num_image_tokens * channels * width
