"""The GPT-2 decoder with cross-attention to image tokens.

Axes: B images, G texts per image, R = B*G rows, T text positions, L cached positions, S image tokens, N heads,
H head width, D width, V vocabulary (the special tokens included).
"""

import keras
from keras import ops

from captioner.model.transformer_block import TransformerBlock


@keras.saving.register_keras_serializable("captioner")
class TokenEmbedding(keras.layers.Layer):
    """Token embedding, tied to the output projection, with special tokens of their own.

    The special tokens are rows of a second variable, with the ids after the vocabulary's: they can be trained
    while the embedding of a pretrained GPT-2 is frozen.

    Args:
        vocabulary_size: int. Tokens of the vocabulary, without the special ones.
        num_special_tokens: int. Tokens added behind the vocabulary.
        hidden_dim: int. Width D.

    Call arguments:
        inputs: int tensor `(R, T)` of token ids; with `reverse`, float tensor `(..., D)` of hidden states.
        reverse: bool. Whether to project hidden states to logits.

    Returns:
        Float tensor `(R, T, D)`; with `reverse`, float32 logits `(..., V)`.

    References:
        - [Press & Wolf, 2017](https://arxiv.org/abs/1608.05859)
    """

    def __init__(self, vocabulary_size: int, num_special_tokens: int, hidden_dim: int, **kwargs):
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.num_special_tokens = num_special_tokens
        self.hidden_dim = hidden_dim

    def build(self, token_ids_shape=None):
        initializer = keras.initializers.RandomNormal(stddev=0.02)
        self.embeddings = self.add_weight(
            shape=(self.vocabulary_size, self.hidden_dim), initializer=initializer, name="embeddings"
        )
        self.special_embeddings = None
        if self.num_special_tokens:
            self.special_embeddings = self.add_weight(
                shape=(self.num_special_tokens, self.hidden_dim),
                initializer=initializer,
                name="special_embeddings",
            )
        self.built = True

    def call(self, inputs, reverse=False):
        return self._logits(inputs) if reverse else self._embed(inputs)

    def _embed(self, token_ids):
        x = ops.take(self.embeddings, ops.minimum(token_ids, self.vocabulary_size - 1), axis=0)
        if self.special_embeddings is not None:
            special = ops.take(
                self.special_embeddings, ops.maximum(token_ids - self.vocabulary_size, 0), axis=0
            )
            x = ops.where((token_ids < self.vocabulary_size)[..., None], x, special)
        return ops.cast(x, self.compute_dtype)

    def _logits(self, x):
        parts = (
            [self.embeddings]
            if self.special_embeddings is None
            else [self.embeddings, self.special_embeddings]
        )
        x = ops.cast(x, self.compute_dtype)
        products = [ops.matmul(x, ops.transpose(ops.cast(part, self.compute_dtype))) for part in parts]
        return ops.cast(products[0] if len(products) == 1 else ops.concatenate(products, axis=-1), "float32")

    def compute_output_spec(self, inputs, reverse=False):
        if reverse:
            num_tokens = self.vocabulary_size + self.num_special_tokens
            return keras.KerasTensor((*inputs.shape[:-1], num_tokens), dtype="float32")
        return keras.KerasTensor((*inputs.shape, self.hidden_dim), dtype=self.compute_dtype)

    def get_config(self):
        return super().get_config() | {
            "vocabulary_size": self.vocabulary_size,
            "num_special_tokens": self.num_special_tokens,
            "hidden_dim": self.hidden_dim,
        }


@keras.saving.register_keras_serializable("captioner")
class GPT2Decoder(keras.layers.Layer):
    """GPT-2 whose blocks cross-attend to image tokens; the G texts of an image share its keys and values.

    Args:
        vocabulary_size: int. Tokens of the vocabulary, without the special ones.
        num_special_tokens: int. Trainable tokens behind the vocabulary.
        num_layers: int.
        num_heads: int.
        hidden_dim: int. Width D.
        intermediate_dim: int.
        max_sequence_length: int. Learned positions.
        dropout: float.
        layer_norm_epsilon: float.

    Call arguments:
        token_ids: int tensor `(B, G, T)`.
        padding_mask: bool tensor `(B, G, T)`; True = a real token. Texts are padded behind their end.
        image_tokens: float tensor `(B, S, D)`.

    Returns:
        Float tensor `(B, G, T, D)`: the final hidden states. `logits` turns them into logits.

    Raises:
        ValueError: If T exceeds `max_sequence_length`.

    References:
        - https://github.com/openai/gpt-2/blob/master/src/model.py
        - Cross-attention as in Hugging Face's `GPT2Config(add_cross_attention=True)`.
    """

    def __init__(
        self,
        vocabulary_size: int,
        num_special_tokens: int,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        max_sequence_length: int = 1024,
        dropout: float = 0.0,
        layer_norm_epsilon: float = 1e-5,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.num_special_tokens = num_special_tokens
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.hidden_dim = hidden_dim
        self.intermediate_dim = intermediate_dim
        self.max_sequence_length = max_sequence_length
        self.dropout = dropout
        self.layer_norm_epsilon = layer_norm_epsilon
        self.token_embedding = TokenEmbedding(
            vocabulary_size, num_special_tokens, hidden_dim, dtype=self.dtype_policy, name="token_embedding"
        )
        self.embedding_dropout = keras.layers.Dropout(dropout, dtype=self.dtype_policy)
        self.blocks = [
            TransformerBlock(
                num_heads=num_heads,
                intermediate_dim=intermediate_dim,
                cross_attention=True,
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

    def build(self, token_ids_shape=None, padding_mask_shape=None, image_tokens_shape=None):
        self.token_embedding.build()
        self.position_embedding = self.add_weight(
            shape=(self.max_sequence_length, self.hidden_dim),
            initializer=keras.initializers.RandomNormal(stddev=0.01),
            name="position_embedding",
        )
        for block in self.blocks:
            block.build((None, None, self.hidden_dim))
        self.final_norm.build((None, None, self.hidden_dim))
        self.built = True

    def call(self, token_ids, padding_mask, image_tokens, training=None):
        if (token_ids.shape[-1] or 0) > self.max_sequence_length:
            raise ValueError(
                f"`token_ids` must have at most {self.max_sequence_length} positions, the `max_sequence_length` of this "
                f"decoder; received shape {tuple(token_ids.shape)}. Shorten the texts."
            )
        num_images, num_texts, length = ops.shape(token_ids)
        rows = ops.reshape(token_ids, (-1, length))
        positions = ops.arange(length)
        # Each position sees itself, so that no row of the softmax is empty.
        causal = positions[:, None] >= positions[None, :]
        real = ops.reshape(ops.cast(padding_mask, "bool"), (-1, 1, 1, length))
        mask = ops.logical_and(causal, ops.logical_or(real, ops.eye(length, dtype="bool")))
        x = self._embed(rows, self.position_embedding[:length], training)
        for block in self.blocks:
            image_keys, image_values = block.project_image(image_tokens)
            x, _, _ = block(x, mask, image_keys, image_values, training=training)
        x = self.final_norm(x)
        return ops.reshape(x, (num_images, num_texts, length, self.hidden_dim))

    def logits(self, x):
        """Float `(..., D)` -> float32 `(..., V)`."""
        return self.token_embedding(x, reverse=True)

    def image_keys_values(self, image_tokens) -> list[tuple]:
        """What decoding needs of the images: for each block, keys and values `(B, N, S, H)`."""

        def laid_out(x):
            # PyTorch's transposed tensors keep their memory as it was, and would be copied at each step.
            shape = ops.shape(x)
            return ops.reshape(ops.reshape(x, (-1, *shape[2:])), shape)

        return [tuple(map(laid_out, block.project_image(image_tokens))) for block in self.blocks]

    def empty_cache(self, num_images, num_texts: int, length: int) -> dict:
        """The cache of L positions of the G texts of each image.

        Returns:
            Dict of `blocks`, for each block zero keys and values `(B, N, L*G, H)`, and of `origins`, int32 `(R, L)`:
            which of its image's G texts wrote what a row reads at each position. Beams branch and die: their rows of
            `origins` move, and keys and values stay where they are; see `move_rows`.
        """
        shape = (num_images, self.num_heads, length * num_texts, self.hidden_dim // self.num_heads)
        blocks = [
            (ops.zeros(shape, self.compute_dtype), ops.zeros(shape, self.compute_dtype)) for _ in self.blocks
        ]
        return {"blocks": blocks, "origins": ops.zeros((num_images * num_texts, length), "int32")}

    def move_rows(self, cache: dict, rows) -> dict:
        """The cache of texts that go on from others of their image.

        Args:
            cache: from `empty_cache` or `decode`.
            rows: int tensor `(R,)`. Row r goes on from what row `rows[r]` has read, which belongs to the same image.
        """
        return {"blocks": cache["blocks"], "origins": ops.take(cache["origins"], rows, axis=0)}

    def decode(self, token_ids, cache, cache_index, image_keys_values):
        """Runs `T` further positions of each row, reading and extending the cache.

        Args:
            token_ids: int tensor `(R, T)`: the tokens at positions `cache_index` to `cache_index + T - 1`.
            cache: from `empty_cache`, `move_rows` or the last call.
            cache_index: int or int tensor.
            image_keys_values: from `image_keys_values`; R = B*G, the rows of an image are neighbours.

        Returns:
            `(hidden (R, T, D), cache, weights)`, the weights being one `(B, N, G*T, S)` for each block.
        """
        num_images, _, num_cached, _ = ops.shape(cache["blocks"][0][0])
        length = ops.shape(cache["origins"])[1]
        num_texts = num_cached // length
        num_new = ops.shape(token_ids)[1]
        positions = cache_index + ops.arange(num_new)
        texts = ops.arange(num_texts, dtype="int32")
        is_new = ops.arange(length) >= cache_index
        origins = ops.reshape(cache["origins"], (num_images, num_texts, length))
        origins = ops.where(is_new, texts[:, None], origins)
        is_past = ops.arange(length) <= positions[:, None]
        mask = ops.logical_and(is_past[:, :, None], origins[:, :, None, :, None] == texts)  # (B, G, T, L, G)
        mask = ops.reshape(mask, (num_images, 1, num_texts * num_new, length * num_texts))
        x = self._embed(token_ids, ops.take(self.position_embedding, positions, axis=0), False)
        blocks, weights = [], []
        for block, block_cache, (image_keys, image_values) in zip(
            self.blocks, cache["blocks"], image_keys_values, strict=True
        ):
            x, block_cache, block_weights = block(
                x, mask, image_keys, image_values, cache=block_cache, cache_index=cache_index, training=False
            )
            blocks.append(block_cache)
            weights.append(block_weights)
        cache = {"blocks": blocks, "origins": ops.reshape(origins, (-1, length))}
        return self.final_norm(x), cache, weights

    def _embed(self, token_ids, positions, training):
        x = self.token_embedding(token_ids)
        return self.embedding_dropout(x + ops.cast(positions, x.dtype), training=training)

    def compute_output_shape(self, token_ids_shape, padding_mask_shape=None, image_tokens_shape=None):
        return (*token_ids_shape, self.hidden_dim)

    def get_config(self):
        return super().get_config() | {
            "vocabulary_size": self.vocabulary_size,
            "num_special_tokens": self.num_special_tokens,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "hidden_dim": self.hidden_dim,
            "intermediate_dim": self.intermediate_dim,
            "max_sequence_length": self.max_sequence_length,
            "dropout": self.dropout,
            "layer_norm_epsilon": self.layer_norm_epsilon,
        }
