"""Splits an image encoder into a frozen front, whose output can be cached, and a trained rest.

Axes: B images, H rows, W columns of pixels; h rows, w columns, C channels of features.
"""

import dataclasses

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
