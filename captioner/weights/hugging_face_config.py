"""What Hugging Face's configuration files say of an image captioner, read strictly, in our words."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from captioner.weights.assign import WeightsError

_MOST = 2**31
_INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageEncoderConfig:
    """Sizes of a ViT or DeiT."""

    kind: str
    """"vit" or "deit"."""
    image_size: tuple[int, int]
    """Height and width in px."""
    patch_size: tuple[int, int]
    """Height and width of a patch in px."""
    hidden_dim: int
    """Width C."""
    num_layers: int
    """Blocks."""
    num_heads: int
    """Attention heads; divides C."""
    intermediate_dim: int
    """Width of the MLP."""
    layer_norm_epsilon: float
    """Added to the variance."""
    query_key_value_bias: bool
    """Whether those projections have biases."""

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of `vision_transformer`."""
        values = dataclasses.asdict(self)
        del values["query_key_value_bias"]
        return values


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageProcessorConfig:
    """How a photo becomes the encoder's pixels."""

    transform: dict[str, Any]
    """Arguments of `ImageTransform` beside the size."""
    scaling: dict[str, Any]
    """The pixel scaling, as arguments of `vision_transformer`."""


def parse_image_encoder(config: Mapping[str, Any]) -> ImageEncoderConfig:
    """Reads the `encoder` part of config.json.

    Raises:
        WeightsError: If it is another network, a size is absurd, or an option is set that ours does not compute.
    """
    kind = config.get("model_type")
    if kind not in ("vit", "deit"):
        raise WeightsError(f"`model_type` of the image encoder must be vit or deit; received {kind!r}.")
    for name, allowed in (("hidden_act", "gelu"), ("num_channels", 3)):
        if config.get(name, allowed) != allowed:
            raise WeightsError(
                f"`{name}` of the image encoder must be {allowed!r}; received {config[name]!r}."
            )
    epsilon = config.get("layer_norm_eps", 1e-12)
    if not is_number(epsilon) or not 0 < epsilon < 1:
        raise WeightsError(f"`layer_norm_eps` must be above 0 and below 1; received {epsilon!r}.")
    sizes = ImageEncoderConfig(
        kind=kind,
        image_size=_pair(config, "image_size", 224),
        patch_size=_pair(config, "patch_size", 16),
        hidden_dim=_count(config, "hidden_size", 768),
        num_layers=_count(config, "num_hidden_layers", 12),
        num_heads=_count(config, "num_attention_heads", 12),
        intermediate_dim=_count(config, "intermediate_size", 3072),
        layer_norm_epsilon=epsilon,
        query_key_value_bias=config.get("qkv_bias", True) is True,
    )
    if sizes.hidden_dim % sizes.num_heads:
        raise WeightsError(
            f"`num_attention_heads` must divide `hidden_size`; received {sizes.num_heads} and {sizes.hidden_dim}."
        )
    if any(side % patch for side, patch in zip(sizes.image_size, sizes.patch_size, strict=True)):
        raise WeightsError(
            f"`patch_size` must divide `image_size`; received {sizes.patch_size}, {sizes.image_size}."
        )
    return sizes


def parse_image_processor(config: Mapping[str, Any], encoder: ImageEncoderConfig) -> ImageProcessorConfig:
    """Reads preprocessor_config.json; what it leaves out is as the encoder's own processor has it.

    Raises:
        WeightsError: If the photo is brought to another size than the encoder's, or in a way that ours does not know.
    """
    is_deit = encoder.kind == "deit"
    if config.get("do_resize", True) is not True:
        raise WeightsError("`do_resize` must be true; photos have all sizes.")
    resample = config.get("resample", 3 if is_deit else 2)
    if resample not in _INTERPOLATIONS:
        raise WeightsError(f"`resample` must be 2 (bilinear) or 3 (bicubic); received {resample!r}.")
    resized = _size(config, "size", 256 if is_deit else 224)
    crops = config.get("do_center_crop", is_deit) is True
    final = _size(config, "crop_size", 224) if crops else resized
    if final != encoder.image_size or any(a < b for a, b in zip(resized, final, strict=True)):
        raise WeightsError(
            f"`size` {resized} with the crop must end at the encoder's `image_size` {encoder.image_size}; it ends at {final}."
        )
    rescales, normalizes = (config.get(name, True) is True for name in ("do_rescale", "do_normalize"))
    scale = config.get("rescale_factor", 1 / 255)
    if not is_number(scale) or scale <= 0:
        raise WeightsError(f"`rescale_factor` must be above 0; received {scale!r}.")
    return ImageProcessorConfig(
        transform={
            "interpolation": _INTERPOLATIONS[resample],
            "crop_from": resized if crops else None,
        },
        scaling={
            "pixel_scale": scale if rescales else 1.0,
            "pixel_mean": _channels(config, "image_mean") if normalizes else (0.0, 0.0, 0.0),
            "pixel_std": _channels(config, "image_std") if normalizes else (1.0, 1.0, 1.0),
        },
    )


def is_number(value: Any) -> bool:
    """Whether a value of a JSON file is a finite number."""
    return type(value) in (int, float) and math.isfinite(value)


def _count(config: Mapping[str, Any], name: str, default: int) -> int:
    value = config.get(name, default)
    if type(value) is not int or not 0 < value < _MOST:
        raise WeightsError(f"`{name}` of the image encoder must be a count from 1; received {value!r}.")
    return value


def _pair(config: Mapping[str, Any], name: str, default: int) -> tuple[int, int]:
    value = config.get(name, default)
    pair = tuple(value) if isinstance(value, list) else (value, value)
    if len(pair) != 2 or any(type(side) is not int or not 0 < side < 2**15 for side in pair):
        raise WeightsError(f"`{name}` must be a side in px, or a height and a width; received {value!r}.")
    return pair


def _size(config: Mapping[str, Any], name: str, default: int) -> tuple[int, int]:
    value = config.get(name, default)
    if isinstance(value, dict):
        if value.keys() != {"height", "width"}:
            raise WeightsError(f"`{name}` must have `height` and `width`; received {value!r}.")
        value = [value["height"], value["width"]]
    return _pair({name: value}, name, default)


def _channels(config: Mapping[str, Any], name: str) -> tuple[float, ...]:
    value = config.get(name, [0.5, 0.5, 0.5])
    value = [value] * 3 if is_number(value) else value
    least = 0 if name == "image_std" else -math.inf
    if not isinstance(value, list) or len(value) != 3 or not all(is_number(x) and x > least for x in value):
        raise WeightsError(f"`{name}` must be three numbers, a deviation above 0; received {value!r}.")
    return tuple(value)
