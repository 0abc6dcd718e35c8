"""Splits an image encoder: into a frozen front, whose output can be cached, and a trained rest; or into a chain.

Axes: B images, H rows, W columns of pixels; h rows, w columns, C channels of features.
"""

import dataclasses
import math

import keras


@dataclasses.dataclass(frozen=True)
class EncoderSplit:
    """An image encoder in two models that share its layers."""

    frozen: keras.Model
    """From images `(B, H, W, 3)` to features `(B, h, w, C)`."""
    trained: keras.Model | None
    """From those features to the feature map of the whole encoder; None if the whole encoder is frozen."""

    def feature_map(self, features):
        """Runs the trained rest, with the batch statistics as they are."""
        return features if self.trained is None else self.trained(features, training=False)


def split_image_encoder(encoder: keras.Model, frozen_until: str | None = None) -> EncoderSplit:
    """Splits an image encoder behind one of its layers.

    Args:
        encoder: functional Keras model.
        frozen_until: name of the last frozen layer, through which every path must lead; None freezes everything.

    Returns:
        `EncoderSplit`.

    Raises:
        ValueError: If there is no such layer, or a path leads around it.
    """
    if frozen_until is None:
        return EncoderSplit(encoder, None)
    names = [layer.name for layer in encoder.layers]
    if frozen_until not in names:
        raise ValueError(
            f"`frozen_until` must be a layer of the image encoder ({names[0]} ... {names[-1]}); received {frozen_until!r}."
        )
    features = encoder.get_layer(frozen_until).output
    if features is encoder.output:
        return EncoderSplit(encoder, None)
    try:
        return EncoderSplit(keras.Model(encoder.input, features), keras.Model(features, encoder.output))
    except ValueError as error:
        raise ValueError(
            f"`frozen_until` must be a layer through which every path leads, such as the sum that ends a block; "
            f"received {frozen_until!r}."
        ) from error


def chain(network: keras.Model) -> list[keras.Model]:
    """Splits a network into models that are run one after the other and share its layers.

    There are about as many as the square root of the number of operations, and their results are about as large: kept
    are then only the tensors between them and, while one is computed again, what is inside it.

    Args:
        network: functional Keras model of one input and one output.

    Returns:
        The models, at least one; a network with a path around every other operation is one model.

    References:
        - [Chen et al., 2016](https://arxiv.org/abs/1604.06174), section 4.1
    """
    operations = network.operations
    last_use = {id(network.outputs[0]): len(operations)}
    for position, operation in reversed(list(enumerate(operations))):
        for tensor in keras.tree.flatten(operation.input):
            last_use.setdefault(id(tensor), position)
    sizes = [
        math.prod(side or 1 for tensor in keras.tree.flatten(operation.output) for side in tensor.shape)
        for operation in operations
    ]
    sizes[0] = 0  # the input, which is there in any case
    wanted = sum(sizes) / math.sqrt(len(operations))
    parts, start, size, open_until = [], network.inputs[0], 0, -1
    for position, operation in enumerate(operations[:-1]):
        size += sizes[position]
        is_cut = open_until <= position  # all before is used
        outputs = keras.tree.flatten(operation.output)
        open_until = max(open_until, *(last_use.get(id(output), position) for output in outputs))
        if is_cut and len(outputs) == 1 and size >= wanted:
            parts.append(keras.Model(start, outputs[0]))
            start, size = outputs[0], 0
    return [*parts, keras.Model(start, network.outputs[0])]
