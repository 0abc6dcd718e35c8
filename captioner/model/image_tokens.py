"""Image tokens: the feature map as a sequence. Axes: B images, H rows, W columns, C channels, S = H*W image
tokens, D width."""

import math

import keras
from keras import ops

from captioner.model.transformer_block import TransformerBlock


@keras.saving.register_keras_serializable("captioner")
class FeatureMapTokens(keras.layers.Layer):
    """Reads a feature map row by row as a sequence of normalised, projected tokens with learned positions.

    Args:
        hidden_dim: int. Width D of one image token.
        dropout: float. Rate on the tokens.
        layer_norm_epsilon: float.

    Call arguments:
        features: float tensor `(B, H, W, C)`, or `(B, S, C)` from an encoder that gives a sequence. H, W, S
            and C must be static.

    Returns:
        Float tensor `(B, S, D)`; token `h*W + w` comes from cell `(h, w)`.

    Raises:
        ValueError: If the size of the feature map is unknown when the layer is built.

    References:
        - [Carion et al., 2020](https://arxiv.org/abs/2005.12872), section 3.2
    """

    def __init__(self, hidden_dim: int, dropout: float = 0.0, layer_norm_epsilon: float = 1e-5, **kwargs):
        super().__init__(**kwargs)
        self.hidden_dim = hidden_dim
        self.dropout = dropout
        self.layer_norm_epsilon = layer_norm_epsilon

    def build(self, features_shape):
        sizes = tuple(features_shape[1:])
        if len(sizes) not in (2, 3) or None in sizes:
            raise ValueError(
                "`features` must be a feature map (B, H, W, C) or a sequence (B, S, C) of static size; received shape "
                f"{tuple(features_shape)}. Give the image encoder a fixed image size."
            )
        *grid, channels = sizes
        self.num_tokens = int(grid[0] * grid[-1]) if len(grid) == 2 else int(grid[0])
        self.norm = keras.layers.LayerNormalization(
            epsilon=self.layer_norm_epsilon, dtype=self.dtype_policy, name="norm"
        )
        self.norm.build((None, self.num_tokens, channels))
        self.projection = keras.layers.Dense(self.hidden_dim, dtype=self.dtype_policy, name="projection")
        self.projection.build((None, self.num_tokens, channels))
        self.positions = self.add_weight(
            shape=(self.num_tokens, self.hidden_dim),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
            name="positions",
        )
        self.token_dropout = keras.layers.Dropout(self.dropout, dtype=self.dtype_policy)
        self.built = True

    def call(self, features, training=None):
        features = ops.reshape(features, (-1, self.num_tokens, features.shape[-1]))
        tokens = self.projection(self.norm(features))
        tokens = tokens + ops.cast(self.positions, tokens.dtype)
        return self.token_dropout(tokens, training=training)

    def compute_output_shape(self, features_shape):
        return (features_shape[0], self.num_tokens, self.hidden_dim)

    def get_config(self):
        return super().get_config() | {
            "hidden_dim": self.hidden_dim,
            "dropout": self.dropout,
            "layer_norm_epsilon": self.layer_norm_epsilon,
        }


@keras.saving.register_keras_serializable("captioner")
class ImageTokens(keras.layers.Layer):
    """From a feature map to the image tokens that the decoder attends to: projection, positions,
    bidirectional blocks.

    Args:
        hidden_dim: int. Width D.
        num_layers: int. Bidirectional blocks; may be 0.
        num_heads: int.
        intermediate_dim: int.
        dropout: float.
        layer_norm_epsilon: float.

    Call arguments:
        features: float tensor `(B, H, W, C)` or `(B, S, C)`.

    Returns:
        Float tensor `(B, S, D)`, layer-normalised.
    """

    def __init__(
        self,
        hidden_dim: int,
        num_layers: int,
        num_heads: int,
        intermediate_dim: int,
        dropout: float = 0.0,
        layer_norm_epsilon: float = 1e-5,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.hidden_dim = hidden_dim
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.dropout = dropout
        self.layer_norm_epsilon = layer_norm_epsilon
        self.tokens = FeatureMapTokens(
            hidden_dim, dropout, layer_norm_epsilon, dtype=self.dtype_policy, name="tokens"
        )
        self.blocks = [
            TransformerBlock(
                num_heads=num_heads,
                intermediate_dim=intermediate_dim,
                dropout=dropout,
                layer_norm_epsilon=layer_norm_epsilon,
                dtype=self.dtype_policy,
                name=f"block_{i}",
            )
            for i in range(num_layers)
        ]
        self.final_norm = keras.layers.LayerNormalization(
            epsilon=layer_norm_epsilon, dtype=self.dtype_policy, name="final_norm"
        )

    def build(self, features_shape):
        self.tokens.build(features_shape)
        for block in self.blocks:
            block.build((None, self.tokens.num_tokens, self.hidden_dim))
        self.final_norm.build((None, self.tokens.num_tokens, self.hidden_dim))
        self.built = True

    def call(self, features, training=None):
        x = self.tokens(features, training=training)
        for block in self.blocks:
            x, _, _ = block(x, training=training)
        return self.final_norm(x)

    def compute_output_shape(self, features_shape):
        *grid, _ = features_shape[1:]
        num_tokens = grid[0] * grid[1] if len(grid) == 2 else grid[0]
        return (features_shape[0], num_tokens, self.hidden_dim)

    def get_config(self):
        return super().get_config() | {
            "hidden_dim": self.hidden_dim,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "intermediate_dim": self.intermediate_dim,
            "dropout": self.dropout,
            "layer_norm_epsilon": self.layer_norm_epsilon,
        }


@keras.saving.register_keras_serializable("captioner")
class PlainImageTokens(keras.layers.Layer):
    """The image encoder's own sequence as image tokens, as Hugging Face's encoder-decoders have it.

    A sequence of another width than D is projected; nothing else happens to it.

    Args:
        hidden_dim: int. Width D.

    Call arguments:
        features: float tensor `(B, H, W, C)` or `(B, S, C)`.

    Returns:
        Float tensor `(B, S, D)`.
    """

    def __init__(self, hidden_dim: int, **kwargs):
        super().__init__(**kwargs)
        self.hidden_dim = hidden_dim

    def build(self, features_shape):
        self.projection = None
        if features_shape[-1] != self.hidden_dim:
            self.projection = keras.layers.Dense(self.hidden_dim, dtype=self.dtype_policy, name="projection")
            self.projection.build((None, None, features_shape[-1]))
        self.built = True

    def call(self, features, training=None):
        _, num_tokens, width = self._sequence_shape(features.shape)
        sequence = ops.reshape(features, (-1, num_tokens, width))
        return sequence if self.projection is None else self.projection(sequence)

    def compute_output_shape(self, features_shape):
        return (*self._sequence_shape(features_shape)[:2], self.hidden_dim)

    def _sequence_shape(self, features_shape):
        return (features_shape[0], math.prod(features_shape[1:-1]), features_shape[-1])

    def get_config(self):
        return super().get_config() | {"hidden_dim": self.hidden_dim}
