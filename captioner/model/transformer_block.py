"""The one transformer block: bidirectional for image tokens, causal with cross-attention for text.

Axes: B images, G texts per image, R = B*G rows, T text positions, S image tokens, L cached positions, N
heads, H head width, D width.
"""

import keras
from keras import ops

from captioner.model.recomputation import drawn_dropout, recomputed


def split_heads(x, num_heads: int):
    """`(B, T, N*H)` -> `(B, N, T, H)`."""
    length, width = ops.shape(x)[1], x.shape[-1]
    x = ops.reshape(x, (-1, length, num_heads, width // num_heads))
    return ops.transpose(x, (0, 2, 1, 3))


def merge_heads(x):
    """`(B, N, T, H)` -> `(B, T, N*H)`."""
    length, width = ops.shape(x)[2], x.shape[1] * x.shape[3]
    return ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (-1, length, width))


def attend(queries, keys, values, mask=None, dropout=None):
    """Scaled dot-product attention, with the softmax in float32 whatever the dtype of the inputs.

    Args:
        queries: float tensor `(B, N, T, H)`.
        keys: float tensor `(B, N, S, H)`.
        values: float tensor `(B, N, S, H)`.
        mask: bool tensor broadcastable to `(B, N, T, S)`; True = attend. None attends everywhere.
        dropout: optional function applied to the weights.

    Returns:
        `(outputs (B, N, T, H), weights (B, N, T, S))`; the weights are those before dropout.

    References:
        - [Vaswani et al., 2017](https://arxiv.org/abs/1706.03762), section 3.2.1
    """
    queries = queries * ops.cast(queries.shape[-1] ** -0.5, queries.dtype)
    scores = ops.cast(ops.matmul(queries, ops.transpose(keys, (0, 1, 3, 2))), "float32")
    if mask is not None:
        scores = ops.where(mask, scores, -1e9)
    weights = ops.cast(ops.softmax(scores, axis=-1), values.dtype)
    dropped = weights if dropout is None else dropout(weights)
    return ops.matmul(dropped, values), weights


def _kernel_initializer():
    return keras.initializers.RandomNormal(stddev=0.02)


@keras.saving.register_keras_serializable("captioner")
class TransformerBlock(keras.layers.Layer):
    """Pre-norm block of GPT-2 and of vision transformers: self-attention, optional cross-attention to image tokens, MLP.

    Query, key and value of the self-attention are one fused projection, as are key and value of the
    cross-attention.

    Args:
        num_heads: int. Attention heads N; must divide D.
        intermediate_dim: int. Width of the MLP's hidden layer.
        cross_attention: bool. Whether the block attends to image tokens between self-attention and MLP.
        dropout: float. Rate on attention weights and on each residual branch.
        layer_norm_epsilon: float.
        approximate_gelu: bool. Whether the MLP's GELU is GPT-2's, by tanh, or that of vision transformers, by erf.

    Call arguments:
        x: float tensor `(R, T, D)`.
        self_attention_mask: bool tensor broadcastable to `(R, N, T, T)`, or with a cache to `(B, N, G*T, L*G)`;
            True = attend. None = bidirectional.
        image_keys: float tensor `(B, N, S, H)` from `project_image`, with R = B*G: the rows of an image are
            neighbours.
        image_values: float tensor `(B, N, S, H)`.
        cache: optional pair of float tensors `(B, N, L*G, H)`, the keys and values of L positions, at each those of the G
            texts of an image. The mask says which of them are a text's own.
        cache_index: int tensor. The first position that `x` takes in the cache.

    Returns:
        `(x, cache, weights)`: float `(R, T, D)`; the updated cache or None; the cross-attention weights
        `(B, N, G*T, S)` or None.

    References:
        - https://github.com/openai/gpt-2/blob/master/src/model.py, `block`
    """

    def __init__(
        self,
        num_heads: int,
        intermediate_dim: int,
        cross_attention: bool = False,
        dropout: float = 0.0,
        layer_norm_epsilon: float = 1e-5,
        approximate_gelu: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.cross_attention = cross_attention
        self.dropout = dropout
        self.layer_norm_epsilon = layer_norm_epsilon
        self.approximate_gelu = approximate_gelu
        self.recompute = False
        """Whether a pass without a cache keeps its inputs alone for the gradient; it then gives no attention weights."""

    def _dense(self, units: int, name: str):
        return keras.layers.Dense(
            units, kernel_initializer=_kernel_initializer(), dtype=self.dtype_policy, name=name
        )

    def _norm(self, name: str):
        return keras.layers.LayerNormalization(
            epsilon=self.layer_norm_epsilon, dtype=self.dtype_policy, name=name
        )

    def build(self, x_shape):
        width = x_shape[-1]
        if width % self.num_heads:
            raise ValueError(
                f"`num_heads` must divide the width of the block; received num_heads={self.num_heads}, width={width}."
            )
        rows = (None, None, width)
        self.self_attention_norm = self._norm("self_attention_norm")
        self.query_key_value = self._dense(3 * width, "query_key_value")
        self.self_attention_output = self._dense(width, "self_attention_output")
        self.mlp_norm = self._norm("mlp_norm")
        self.mlp_intermediate = self._dense(self.intermediate_dim, "mlp_intermediate")
        self.mlp_output = self._dense(width, "mlp_output")
        layers = [
            self.self_attention_norm,
            self.query_key_value,
            self.self_attention_output,
            self.mlp_norm,
            self.mlp_intermediate,
        ]
        if self.cross_attention:
            self.cross_attention_norm = self._norm("cross_attention_norm")
            self.cross_attention_query = self._dense(width, "cross_attention_query")
            self.cross_attention_key_value = self._dense(2 * width, "cross_attention_key_value")
            self.cross_attention_output = self._dense(width, "cross_attention_output")
            layers += self.cross_attention_layers
        for layer in layers:
            layer.build(rows)
        self.mlp_output.build((None, None, self.intermediate_dim))
        self.attention_dropout = keras.layers.Dropout(self.dropout, dtype=self.dtype_policy)
        self.residual_dropout = keras.layers.Dropout(self.dropout, dtype=self.dtype_policy)
        self.built = True

    @property
    def cross_attention_layers(self) -> list[keras.layers.Layer]:
        """The layers that read the image; empty without cross-attention."""
        if not self.cross_attention:
            return []
        return [
            self.cross_attention_norm,
            self.cross_attention_query,
            self.cross_attention_key_value,
            self.cross_attention_output,
        ]

    def project_image(self, image_tokens):
        """Keys and values of the image, once for all texts: `(B, S, D)` -> two of `(B, N, S, H)`."""
        keys, values = ops.split(self.cross_attention_key_value(image_tokens), 2, axis=-1)
        return split_heads(keys, self.num_heads), split_heads(values, self.num_heads)

    def call(
        self,
        x,
        self_attention_mask=None,
        image_keys=None,
        image_values=None,
        cache=None,
        cache_index=None,
        training=None,
    ):
        if self.recompute and cache is None:
            return self._recomputed(x, self_attention_mask, image_keys, image_values, training), None, None

        def drop(layer, x):
            return layer(x, training=training)

        return self._forward(x, self_attention_mask, image_keys, image_values, cache, cache_index, drop)

    def _recomputed(self, x, mask, image_keys, image_values, training):
        """In two parts: what ends a part is kept, or not needed, so that its product is not computed again."""
        branches = [self.attention_dropout, self.residual_dropout] * (2 if self.cross_attention else 1)
        begin_attention = drawn_dropout(branches, training)
        begin_mlp = drawn_dropout([self.residual_dropout], training)

        def attention(x, image_keys=None, image_values=None):
            drop = begin_attention()
            return self._attention_branches(x, mask, image_keys, image_values, None, None, drop)[0]

        image = (image_keys, image_values) if self.cross_attention else ()
        x = recomputed(attention, x, *image)
        return recomputed(lambda x: self._mlp_branch(x, begin_mlp()), x)

    def _forward(self, x, mask, image_keys, image_values, cache, cache_index, drop):
        """As `call`, with `drop(layer, x)` for each use of dropout."""
        x, cache, weights = self._attention_branches(
            x, mask, image_keys, image_values, cache, cache_index, drop
        )
        return self._mlp_branch(x, drop), cache, weights

    def _attention_branches(self, x, mask, image_keys, image_values, cache, cache_index, drop):
        branch, cache = self._self_attend(self.self_attention_norm(x), mask, cache, cache_index, drop)
        x = x + drop(self.residual_dropout, branch)
        weights = None
        if self.cross_attention:
            branch, weights = self._cross_attend(self.cross_attention_norm(x), image_keys, image_values, drop)
            x = x + drop(self.residual_dropout, branch)
        return x, cache, weights

    def _mlp_branch(self, x, drop):
        branch = ops.gelu(self.mlp_intermediate(self.mlp_norm(x)), approximate=self.approximate_gelu)
        return x + drop(self.residual_dropout, self.mlp_output(branch))

    def _self_attend(self, x, mask, cache, cache_index, drop):
        queries, keys, values = ops.split(self.query_key_value(x), 3, axis=-1)
        if cache is not None:
            cache = tuple(
                self._extend(part, new, cache_index) for part, new in zip(cache, (keys, values), strict=True)
            )
            num_images = ops.shape(cache[0])[0]
            keys, values = cache
        else:
            num_images = ops.shape(x)[0]
            keys, values = split_heads(keys, self.num_heads), split_heads(values, self.num_heads)
        outputs, _ = self._attend_folded(queries, keys, values, num_images, mask, drop)
        return self.self_attention_output(outputs), cache

    def _extend(self, cache, new, cache_index):
        """Writes `(R, T, D)` at positions `cache_index` and following of `(B, N, L*G, H)`."""
        num_images, num_heads, _, head_dim = ops.shape(cache)
        new = ops.reshape(new, (num_images, -1, ops.shape(new)[1], num_heads, head_dim))
        num_texts = ops.shape(new)[1]
        new = ops.reshape(ops.transpose(new, (0, 3, 2, 1, 4)), (num_images, num_heads, -1, head_dim))
        # The cache has the form that attention reads: XLA then writes into it, else into a copy of it.
        return ops.slice_update(cache, (0, 0, cache_index * num_texts, 0), ops.cast(new, cache.dtype))

    def _cross_attend(self, x, image_keys, image_values, drop):
        queries, num_images = self.cross_attention_query(x), ops.shape(image_keys)[0]
        outputs, weights = self._attend_folded(queries, image_keys, image_values, num_images, None, drop)
        return self.cross_attention_output(outputs), weights

    def _attend_folded(self, queries, keys, values, num_images, mask, drop):
        """Attention of `(R, T, D)`. The G texts of an image are folded into the time axis, so that what they share is
        never tiled."""
        length, width = ops.shape(queries)[1], queries.shape[-1]
        folded = split_heads(ops.reshape(queries, (num_images, -1, width)), self.num_heads)
        outputs, weights = attend(folded, keys, values, mask, lambda x: drop(self.attention_dropout, x))
        return ops.reshape(merge_heads(outputs), (-1, length, width)), weights

    def compute_output_shape(self, x_shape):
        return x_shape

    def get_config(self):
        return super().get_config() | {
            "num_heads": self.num_heads,
            "intermediate_dim": self.intermediate_dim,
            "cross_attention": self.cross_attention,
            "dropout": self.dropout,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "approximate_gelu": self.approximate_gelu,
        }
