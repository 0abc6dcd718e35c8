"""Vision transformers as image encoders. Axes: B images, S = 1 or 2 + patches, C channels."""

from collections.abc import Sequence

import keras

KINDS = ("vit", "deit")


def vision_transformer(
    kind: str,
    image_size: tuple[int, int],
    *,
    patch_size: tuple[int, int],
    hidden_dim: int,
    num_layers: int,
    num_heads: int,
    intermediate_dim: int,
    layer_norm_epsilon: float = 1e-12,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    pixel_scale: float = 1 / 255,
    pixel_mean: Sequence[float] = (0.5, 0.5, 0.5),
    pixel_std: Sequence[float] = (0.5, 0.5, 0.5),
    dtype: str | keras.DTypePolicy | None = None,
) -> keras.Model:
    """Builds KerasHub's ViT or DeiT with random weights and its pixel scaling inside.

    The whole sequence is the output, normalised: the class token, DeiT's distillation token behind it, then the patches
    row by row.

    Args:
        kind: str. "vit", or "deit" with a distillation token.
        image_size: `(height, width)` in px, multiples of the patch's.
        patch_size: `(height, width)` of a patch in px.
        hidden_dim: int. Width C.
        num_layers: int.
        num_heads: int.
        intermediate_dim: int.
        layer_norm_epsilon: float.
        dropout: float.
        attention_dropout: float.
        pixel_scale: float. Factor of the pixels, before mean and standard deviation.
        pixel_mean: mean of each channel of the scaled pixels.
        pixel_std: standard deviation of each channel.
        dtype: dtype policy; None for Keras's current one.

    Returns:
        A model from float `(B, height, width, 3)` in 0..255 to float `(B, S, C)`.

    Raises:
        ValueError: If the kind is unknown, or patches do not cover the image exactly.

    References:
        - [Dosovitskiy et al., 2021](https://arxiv.org/abs/2010.11929)
        - [Touvron et al., 2021](https://arxiv.org/abs/2012.12877), section 4
    """
    import keras_hub  # here, because it takes seconds to import and the other encoders do without

    if kind not in KINDS:
        raise ValueError(f"`kind` must be one of {', '.join(KINDS)}; received {kind!r}.")
    if any(side % patch for side, patch in zip(image_size, patch_size, strict=True)):
        raise ValueError(
            f"`image_size` must be a multiple of `patch_size`; received {tuple(image_size)} and {tuple(patch_size)}."
        )
    sizes = {
        "image_shape": (*image_size, 3),
        "patch_size": tuple(patch_size),
        "num_layers": num_layers,
        "num_heads": num_heads,
        "hidden_dim": hidden_dim,
        "dropout_rate": dropout,
        "attention_dropout": attention_dropout,
        "layer_norm_epsilon": layer_norm_epsilon,
        "dtype": dtype,
        "name": "backbone",
    }
    if kind == "vit":
        backbone = keras_hub.models.ViTBackbone(mlp_dim=intermediate_dim, **sizes)
    else:
        backbone = keras_hub.models.DeiTBackbone(intermediate_dim=intermediate_dim, **sizes)
    images = keras.Input((*image_size, 3), name="images")
    scaled = keras.layers.Rescaling(
        [pixel_scale / std for std in pixel_std],
        offset=[-mean / std for mean, std in zip(pixel_mean, pixel_std, strict=True)],
        dtype="float32",
        name="rescaling",
    )(images)
    return keras.Model(images, backbone(scaled), name="image_encoder")
