"""Image encoders by name.

Axes: B images, H rows and W columns of pixels, h rows and w columns of features, S = h*w, C channels.
"""

import contextlib
import difflib
import math
import warnings
from collections.abc import Callable, Iterator

import keras
from keras import ops

from captioner.model.efficientnet_lite import LITE_VARIANTS, efficientnet_lite

# Keras names each constructor; ours are the field's words with underscores.
_APPLICATIONS: dict[str, Callable[..., keras.Model]] = {
    **{
        f"efficientnet_v2_{v}": getattr(keras.applications, f"EfficientNetV2{v.upper()}")
        for v in ("b0", "b1", "b2", "b3", "s", "m", "l")
    },
    **{f"efficientnet_b{v}": getattr(keras.applications, f"EfficientNetB{v}") for v in range(8)},
    **{f"resnet{v}": getattr(keras.applications, f"ResNet{v}") for v in (50, 101, 152)},
}
HUB_PREFIX = "hub:"
_MIN_IMAGE_SIZE = 32
_MANY_IMAGE_TOKENS = 1024

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


@keras.saving.register_keras_serializable("captioner")
class CaffePixels(keras.layers.Layer):
    """Turns RGB pixels into what the original ResNet saw: BGR with the ImageNet means subtracted.

    Call arguments:
        images: float tensor `(B, H, W, 3)`, RGB in 0..255.

    Returns:
        Float tensor `(B, H, W, 3)`, BGR around 0.
    """

    def call(self, images):
        red, green, blue = (images[..., channel : channel + 1] for channel in range(3))
        return ops.concatenate([blue - 103.939, green - 116.779, red - 123.68], axis=-1)

    def compute_output_shape(self, input_shape):
        return input_shape


def list_image_encoders() -> list[str]:
    """Lists the names that `build_image_encoder` takes; `hub:PRESET` comes on top of them."""
    return [*_APPLICATIONS, *LITE_VARIANTS]


def build_image_encoder(
    name: str,
    image_size: tuple[int, int],
    *,
    dtype: str | keras.DTypePolicy | None = None,
    load_hub_weights: bool = False,
) -> keras.Model:
    """Builds an image network without its classifier, with random weights and its pixel scaling inside.

    The same name and size always give the same variables in the same order, so weights saved from one build
    load into the next. `captioner.weights.load_image_encoder` builds one with pretrained weights.

    Args:
        name: str. One of `list_image_encoders()`, or `hub:PRESET` for a KerasHub image backbone, where PRESET
            is whatever `keras_hub.models.Backbone.from_preset` takes, a local folder too.
        image_size: `(height, width)` in pixels, each at least 32.
        dtype: dtype policy such as `"mixed_bfloat16"`; None for Keras's current one.
        load_hub_weights: whether `hub:PRESET` comes with the preset's own weights. The others have none.

    Returns:
        A model from float `(B, H, W, 3)` in 0..255 to float `(B, h, w, C)`, or to `(B, S, C)` if the KerasHub
        backbone gives a sequence.

    Raises:
        ValueError: If the name is unknown, the size too small, or the preset has no image network.
    """
    height, width = image_size
    if min(height, width) < _MIN_IMAGE_SIZE:
        raise ValueError(
            f"`image_size` must be at least {_MIN_IMAGE_SIZE} px each way; "
            f"received image_size={tuple(image_size)}."
        )
    if name.startswith(HUB_PREFIX):
        encoder = _hub_encoder(name, image_size, dtype, load_hub_weights)
    elif name in LITE_VARIANTS:
        with _dtype_policy(dtype):
            encoder = efficientnet_lite(name, (height, width))
    elif name in _APPLICATIONS:
        with _dtype_policy(dtype):
            encoder = _application(name, (height, width, 3))
    else:
        raise ValueError(
            f"Unknown image encoder {name!r}. Nearest names: {', '.join(_nearest(name))}. "
            "list_image_encoders() has all; hub:PRESET takes any KerasHub image backbone."
        )
    _check_features(encoder, name, image_size)
    return encoder


def set_imagenet_normalization(encoder: keras.Model) -> None:
    """Sets the input normalisation of EfficientNet B0 to B7 to ImageNet's mean and standard deviation.

    Published files store the standard deviation where the layer expects the variance, and Keras corrects that
    with a further layer only when it downloads them itself. These constants need no file.
    """
    for layer in encoder.layers:
        if isinstance(layer, keras.layers.Normalization) and layer.input_mean is None:
            layer.adapt_mean.assign(_IMAGENET_MEAN)
            layer.adapt_variance.assign([std**2 for std in _IMAGENET_STD])
            layer.finalize_state()


def _hub_encoder(name, image_size, dtype, load_weights) -> keras.Model:
    import keras_hub  # here, because it takes seconds to import and the other encoders do without

    preset = name.removeprefix(HUB_PREFIX)
    kwargs = {} if dtype is None else {"dtype": dtype}
    backbone = keras_hub.models.Backbone.from_preset(preset, load_weights=load_weights, **kwargs)
    shape = getattr(backbone, "input_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 4:
        raise ValueError(
            f"{name}: {type(backbone).__name__} does not take images alone; received input {shape}."
        )
    images = keras.Input((*image_size, 3), name="images")
    scale, offset = _hub_scaling(preset)
    x = keras.layers.Rescaling(scale, offset=offset, name="rescaling")(images)
    return keras.Model(images, backbone(x), name="image_encoder")


def _application(name: str, input_shape: tuple[int, int, int]) -> keras.Model:
    # No name is passed on: EfficientNetV2 chooses its pixel scaling by it.
    arguments = {"include_top": False, "weights": None, "input_shape": input_shape}
    if name.startswith("resnet"):
        images = keras.Input(input_shape, name="images")
        network = _APPLICATIONS[name](input_tensor=CaffePixels(name="caffe_pixels")(images), **arguments)
        return keras.Model(images, network.output, name=name)
    encoder = _APPLICATIONS[name](**arguments)
    set_imagenet_normalization(encoder)
    return encoder


def _hub_scaling(preset: str):
    import keras_hub

    try:
        converter = keras_hub.layers.ImageConverter.from_preset(preset)
    except (ValueError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        warnings.warn(
            f"hub:{preset} has no image converter ({reason}), so its backbone is fed pixels in 0..255.",
            stacklevel=4,
        )
        return 1.0, 0.0
    scale = 1.0 if converter.scale is None else converter.scale
    return scale, 0.0 if converter.offset is None else converter.offset


def _check_features(encoder: keras.Model, name: str, image_size: tuple[int, int]) -> None:
    shape = encoder.output_shape
    if not isinstance(shape, tuple) or len(shape) not in (3, 4) or None in shape[1:]:
        raise ValueError(
            f"{name} must give features (B, h, w, C) or (B, S, C) of known size; it gives {shape}."
        )
    num_tokens = math.prod(shape[1:-1])
    if num_tokens > _MANY_IMAGE_TOKENS:
        warnings.warn(
            f"{name} at {image_size[0]} x {image_size[1]} px gives {num_tokens} image tokens; "
            f"above {_MANY_IMAGE_TOKENS} attention is slow. A smaller image_size gives fewer.",
            stacklevel=3,
        )


def _nearest(name: str) -> list[str]:
    names = list_image_encoders()
    plain = {n.replace("_", ""): n for n in names}
    close = difflib.get_close_matches(name.lower().replace("_", "").replace("-", ""), plain, n=3, cutoff=0.4)
    return [plain[n] for n in close] or names


@contextlib.contextmanager
def _dtype_policy(dtype: str | keras.DTypePolicy | None) -> Iterator[None]:
    """Keras's own networks take no dtype, so the global policy is set while they are built."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(before if dtype is None else dtype)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
