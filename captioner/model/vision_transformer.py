"""Vision transformers as image encoders. Axes: B images, S = 1 or 2 + patches, C channels."""

from collections.abc import Sequence

import keras
from keras import ops

from captioner.model.transformer_block import TransformerBlock

_TOKENS_OF_ITS_OWN = {"vit": ("class_token",), "deit": ("class_token", "distillation_token")}
KINDS = tuple(_TOKENS_OF_ITS_OWN)


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
    pixel_scale: float = 1 / 255,
    pixel_mean: Sequence[float] = (0.5, 0.5, 0.5),
    pixel_std: Sequence[float] = (0.5, 0.5, 0.5),
    dtype: str | keras.DTypePolicy | None = None,
) -> keras.Model:
    """Builds a ViT or DeiT with random weights and its pixel scaling inside.

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
        dropout: float. Rate on attention weights and on each residual branch.
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
    if kind not in KINDS:
        raise ValueError(f"`kind` must be one of {', '.join(KINDS)}; received {kind!r}.")
    if any(side % patch for side, patch in zip(image_size, patch_size, strict=True)):
        raise ValueError(
            f"`image_size` must be a multiple of `patch_size`; received {tuple(image_size)} and {tuple(patch_size)}."
        )
    images = keras.Input((*image_size, 3), name="images")
    scaled = keras.layers.Rescaling(
        [pixel_scale / std for std in pixel_std],
        offset=[-mean / std for mean, std in zip(pixel_mean, pixel_std, strict=True)],
        dtype="float32",
        name="rescaling",
    )(images)
    x = PatchTokens(hidden_dim, patch_size, _TOKENS_OF_ITS_OWN[kind], dtype=dtype, name="patch_tokens")(
        scaled
    )
    for index in range(num_layers):
        x = ImageBlock(
            num_heads,
            intermediate_dim,
            dropout=dropout,
            layer_norm_epsilon=layer_norm_epsilon,
            approximate_gelu=False,
            dtype=dtype,
            name=f"block_{index}",
        )(x)
    x = keras.layers.LayerNormalization(epsilon=layer_norm_epsilon, dtype=dtype, name="final_norm")(x)
    return keras.Model(images, x, name="image_encoder")


@keras.saving.register_keras_serializable("captioner")
class PatchTokens(keras.layers.Layer):
    """Projects the patches of an image, row by row, behind learned tokens; learned positions are added.

    Args:
        hidden_dim: int. Width C.
        patch_size: `(height, width)` of a patch in px.
        token_names: names of the learned tokens, in their order.

    Call arguments:
        images: float tensor `(B, H, W, 3)`. H and W must be static.

    Returns:
        Float tensor `(B, S, C)`.
    """

    def __init__(self, hidden_dim: int, patch_size: tuple[int, int], token_names: Sequence[str], **kwargs):
        super().__init__(**kwargs)
        self.hidden_dim = hidden_dim
        self.patch_size = tuple(patch_size)
        self.token_names = tuple(token_names)

    def build(self, images_shape):
        self.projection = keras.layers.Conv2D(
            self.hidden_dim,
            self.patch_size,
            strides=self.patch_size,
            data_format="channels_last",
            dtype=self.dtype_policy,
            name="projection",
        )
        self.projection.build(images_shape)
        self.tokens = [self._learned((1, 1, self.hidden_dim), name) for name in self.token_names]
        _, num_tokens, _ = self.compute_output_shape(images_shape)
        self.positions = self._learned((1, num_tokens, self.hidden_dim), "positions")
        self.built = True

    def _learned(self, shape: tuple[int, ...], name: str) -> keras.Variable:
        return self.add_weight(
            shape=shape, initializer=keras.initializers.RandomNormal(stddev=0.02), name=name
        )

    def call(self, images):
        patches = self.projection(images)
        num_images, _, _, width = ops.shape(patches)
        patches = ops.reshape(patches, (num_images, -1, width))
        tokens = [ops.tile(ops.cast(token, patches.dtype), (num_images, 1, 1)) for token in self.tokens]
        return ops.concatenate([*tokens, patches], axis=1) + ops.cast(self.positions, patches.dtype)

    def compute_output_shape(self, images_shape):
        batch, height, width, _ = images_shape
        num_patches = (height // self.patch_size[0]) * (width // self.patch_size[1])
        return batch, len(self.token_names) + num_patches, self.hidden_dim

    def get_config(self):
        return super().get_config() | {
            "hidden_dim": self.hidden_dim,
            "patch_size": list(self.patch_size),
            "token_names": list(self.token_names),
        }


@keras.saving.register_keras_serializable("captioner")
class ImageBlock(TransformerBlock):
    """A bidirectional `TransformerBlock` that gives `(B, S, C)` alone."""

    def call(self, x, training=None):
        return super().call(x, training=training)[0]
