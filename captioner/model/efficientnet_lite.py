"""EfficientNet-Lite without its classifier. Axes: B images, H rows, W columns, C channels."""

import math

import keras

# Width and depth multipliers of each variant.
LITE_VARIANTS = {
    "efficientnet_lite0": (1.0, 1.0),
    "efficientnet_lite1": (1.0, 1.1),
    "efficientnet_lite2": (1.1, 1.2),
}

# Each stage: repeats, kernel size, stride, expansion, channels.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM_CHANNELS, _TOP_CHANNELS = 32, 1280
_BATCH_NORM = {"momentum": 0.99, "epsilon": 1e-3}


def efficientnet_lite(variant: str, image_size: tuple[int, int]) -> keras.Model:
    """Builds a headless EfficientNet-Lite with random weights.

    The variants are EfficientNet without squeeze-and-excitation and with ReLU6; stem and top keep their
    width, and the first and the last stage their depth, whatever the multipliers. Pixels are scaled inside:
    `(x - 127) / 128`.

    Args:
        variant: str. A key of `LITE_VARIANTS`.
        image_size: `(height, width)` in pixels.

    Returns:
        A model from float `(B, height, width, 3)` in 0..255 to float `(B, H, W, 1280)`, where H and W are the
        sizes divided by 32, rounded up.

    References:
        - [Tan and Le, 2019](https://arxiv.org/abs/1905.11946), section 4
        - https://github.com/tensorflow/tpu, models/official/efficientnet/lite
    """
    images = keras.Input((*image_size, 3), name="images")
    x = keras.layers.Rescaling(1 / 128, offset=-127 / 128, name="rescaling")(images)
    x = _conv_norm(x, "stem", _STEM_CHANNELS, kernel_size=3, strides=2)
    for name, kernel_size, strides, expansion, channels in lite_blocks(variant):
        x = _inverted_residual(x, name, kernel_size, strides, expansion, channels)
    x = _conv_norm(x, "top", _TOP_CHANNELS)
    return keras.Model(images, x, name=variant)


def lite_blocks(variant: str) -> list[tuple[str, int, int, int, int]]:
    """Lists the residual blocks as `(name, kernel_size, strides, expansion, channels)`, in order."""
    width, depth = LITE_VARIANTS[variant]
    blocks = []
    for stage, (repeats, kernel_size, strides, expansion, channels) in enumerate(_STAGES):
        if 0 < stage < len(_STAGES) - 1:
            repeats = math.ceil(repeats * depth)
        channels = _round_to_8(channels * width)
        for repeat in range(repeats):
            name = f"block{stage + 1}{chr(ord('a') + repeat)}"
            blocks.append((name, kernel_size, strides if repeat == 0 else 1, expansion, channels))
    return blocks


def _inverted_residual(inputs, name, kernel_size, strides, expansion, channels):
    x = inputs
    if expansion > 1:
        x = _conv_norm(x, f"{name}_expand", inputs.shape[-1] * expansion)
    x = keras.layers.DepthwiseConv2D(
        kernel_size, strides, padding="same", use_bias=False, name=f"{name}_depthwise_conv"
    )(x)
    x = keras.layers.BatchNormalization(**_BATCH_NORM, name=f"{name}_depthwise_bn")(x)
    x = keras.layers.Activation("relu6", name=f"{name}_depthwise_activation")(x)
    x = _conv_norm(x, f"{name}_project", channels, activation=None)
    if strides == 1 and channels == inputs.shape[-1]:
        x = keras.layers.Add(name=f"{name}_add")([x, inputs])
    return x


def _conv_norm(x, name, channels, kernel_size=1, strides=1, activation="relu6"):
    x = keras.layers.Conv2D(
        channels,
        kernel_size,
        strides,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_conv",
    )(x)
    x = keras.layers.BatchNormalization(**_BATCH_NORM, name=f"{name}_bn")(x)
    return keras.layers.Activation(activation, name=f"{name}_activation")(x) if activation else x


def _round_to_8(channels: float) -> int:
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
