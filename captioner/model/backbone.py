"""Image encoder, image tokens and decoder in one KerasHub backbone.

Axes: B images, G texts per image, T text positions, S image tokens, D width.
"""

from collections.abc import Iterable

import keras
import keras_hub

from captioner.model.encoder_split import EncoderSplit, split_image_encoder
from captioner.model.feature_map import FeatureMap
from captioner.model.gpt2_decoder import GPT2Decoder
from captioner.model.image_encoders import HUB_PREFIX, build_image_encoder
from captioner.model.image_tokens import ImageTokens, PlainImageTokens
from captioner.model.lora import freeze_under_lora
from captioner.model.transformer_block import TransformerBlock

PARTS = ("image_encoder", "image_blocks", "cross_attention", "decoder", "embeddings")
"""The parts of a captioner that can be frozen one by one."""


@keras.saving.register_keras_serializable("captioner")
class CaptionerBackbone(keras_hub.models.Backbone):
    """An image encoder whose feature map, read as a sequence, is cross-attended by a GPT-2.

    Args:
        image_encoder: str, a name that `build_image_encoder` knows, or a `keras.Model` from float `(B,
            height, width, 3)` in 0..255 to `(B, h, w, C)` or `(B, S, C)`. A name gives random weights;
            `captioner.weights` loads others.
        image_size: `(height, width)` in px.
        vocabulary_size: int. Tokens of the vocabulary, without the special ones.
        num_special_tokens: int. Trainable tokens behind the vocabulary.
        hidden_dim: int. Width D of image tokens and decoder.
        num_heads: int.
        num_image_layers: int. Bidirectional blocks over the image tokens; may be 0.
        num_layers: int. Decoder blocks.
        intermediate_dim: optional int. Defaults to four times `hidden_dim`.
        max_sequence_length: int. Text positions.
        dropout: float. For image tokens and decoder.
        layer_norm_epsilon: float.
        train_batch_norm: bool. Whether the image encoder's batch statistics are learned. False suits
            pretrained encoders: their statistics stay as they are, also when their weights are trained.
        plain_image_tokens: bool. Whether the decoder attends to the image encoder's own sequence, projected only where
            its width is not D: no positions, norms or blocks of ours. `num_image_layers` must then be 0.
        dtype: optional dtype policy. "bfloat16" is for captioning: image tokens and decoder hold and use their
            weights in it, and an image encoder given by name stays in float32, as convolutions gain nothing on a CPU.

    Call arguments:
        inputs: dict of `images` float `(B, height, width, 3)` in 0..255, `token_ids` int `(B, G, T)` and
            `padding_mask` bool `(B, G, T)`, True = a real token. `(B, T)` is taken as G = 1.

    Returns:
        Float tensor `(B, G, T, D)`, or `(B, T, D)` as the inputs were: the final hidden states of the
        decoder.
    """

    def __init__(
        self,
        image_encoder,
        image_size: tuple[int, int],
        vocabulary_size: int,
        num_special_tokens: int,
        hidden_dim: int,
        num_heads: int,
        num_image_layers: int,
        num_layers: int,
        intermediate_dim: int | None = None,
        max_sequence_length: int = 1024,
        dropout: float = 0.0,
        layer_norm_epsilon: float = 1e-5,
        train_batch_norm: bool = False,
        plain_image_tokens: bool = False,
        dtype=None,
        **kwargs,
    ):
        if plain_image_tokens and num_image_layers:
            raise ValueError(
                "`num_image_layers` must be 0 with plain_image_tokens=True, which adds nothing to the image encoder; "
                f"received num_image_layers={num_image_layers}."
            )
        image_size = tuple(image_size)
        intermediate_dim = intermediate_dim or 4 * hidden_dim
        network = (
            build_image_encoder(image_encoder, image_size, dtype=_image_encoder_dtype(dtype))
            if isinstance(image_encoder, str)
            else image_encoder
        )
        self.feature_map = FeatureMap(network, train_batch_norm, dtype=dtype, name="feature_map")
        if plain_image_tokens:
            self.image_tokens = PlainImageTokens(hidden_dim, dtype=dtype, name="image_tokens")
        else:
            self.image_tokens = ImageTokens(
                hidden_dim=hidden_dim,
                num_layers=num_image_layers,
                num_heads=num_heads,
                intermediate_dim=intermediate_dim,
                dropout=dropout,
                layer_norm_epsilon=layer_norm_epsilon,
                dtype=dtype,
                name="image_tokens",
            )
        self.decoder = GPT2Decoder(
            vocabulary_size=vocabulary_size,
            num_special_tokens=num_special_tokens,
            num_layers=num_layers,
            num_heads=num_heads,
            hidden_dim=hidden_dim,
            intermediate_dim=intermediate_dim,
            max_sequence_length=max_sequence_length,
            dropout=dropout,
            layer_norm_epsilon=layer_norm_epsilon,
            dtype=dtype,
            name="decoder",
        )
        self.token_embedding = self.decoder.token_embedding

        images = keras.Input((*image_size, 3), name="images")
        features = self.feature_map(images)
        inputs, outputs = self._text_graph(features)
        super().__init__(inputs={"images": images, **inputs}, outputs=outputs, dtype=dtype, **kwargs)

        # A KerasHub backbone is kept whole: its own preset need not be there when this one is loaded.
        is_own = isinstance(image_encoder, str) and not image_encoder.startswith(HUB_PREFIX)
        self.image_encoder_name = image_encoder if is_own else None
        self.image_size = image_size
        self.features_shape = tuple(features.shape)
        self.vocabulary_size = vocabulary_size
        self.num_special_tokens = num_special_tokens
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.num_image_layers = num_image_layers
        self.num_layers = num_layers
        self.intermediate_dim = intermediate_dim
        self.max_sequence_length = max_sequence_length
        self.dropout = dropout
        self.layer_norm_epsilon = layer_norm_epsilon
        self.train_batch_norm = train_batch_norm
        self.plain_image_tokens = plain_image_tokens

    def _text_graph(self, features):
        """The symbolic way from a feature map to hidden states: `(text inputs, hidden states)`."""
        inputs = {
            "token_ids": keras.Input((None, None), dtype="int32", name="token_ids"),
            "padding_mask": keras.Input((None, None), dtype="bool", name="padding_mask"),
        }
        hidden = self.decoder(inputs["token_ids"], inputs["padding_mask"], self.image_tokens(features))
        return inputs, hidden

    def encode_images(self, images):
        """Float `(B, height, width, 3)` in 0..255 -> image tokens `(B, S, D)`."""
        return self.image_tokens(self.feature_map(images, training=False), training=False)

    def feature_model(self, split: EncoderSplit) -> keras.Model:
        """A model that goes on from the frozen part of the image encoder, with variables shared: for cached features.

        Args:
            split: from `split_image_encoder`.

        Returns:
            `keras.Model` from `images`, float `(B, h, w, C)` as `split.frozen` gives, `token_ids` and `padding_mask` to
            logits `(B, G, T, V)`.
        """
        cached = keras.Input(split.frozen.output_shape[1:], name="images")
        features = cached
        if split.trained is not None:
            feature_map = FeatureMap(split.trained)
            feature_map.recompute = self.feature_map.recompute
            features = feature_map(cached)
        inputs, hidden = self._text_graph(features)
        outputs = self.token_embedding(hidden, reverse=True)
        return keras.Model({"images": cached, **inputs}, outputs, name="feature_model")

    @property
    def image_encoder(self) -> keras.Model:
        """The image network."""
        return self.feature_map.network

    @property
    def input_spec(self):
        # `(B, T)` texts are welcome, so the rank is not checked here but in `call`.
        return None

    def call(self, inputs, training=None, mask=None):
        squeeze = len(inputs["token_ids"].shape) == 2
        if squeeze:
            inputs = dict(inputs)
            for key in ("token_ids", "padding_mask"):
                inputs[key] = keras.ops.expand_dims(inputs[key], 1)
        outputs = super().call(inputs, training=training)
        return keras.ops.squeeze(outputs, 1) if squeeze else outputs

    def set_trainable_parts(self, parts: Iterable[str], frozen_until: str | None = None) -> None:
        """Trains the named parts and freezes the others. Special tokens are always trained, but with LoRA: of a part
        that has it, only the updates are trained (`add_lora`).

        Args:
            parts: names of `PARTS`. `image_encoder`; `image_blocks`: projection, positions and bidirectional
                blocks; `cross_attention`: of all decoder blocks; `decoder`: the rest of the decoder's blocks
                and its final norm; `embeddings`: tokens and positions.
            frozen_until: layer of the image encoder; it and what comes before it stay frozen.

        Raises:
            ValueError: If a name is unknown.
        """
        parts = set(parts)
        if unknown := parts - set(PARTS):
            raise ValueError(f"`parts` must be of {', '.join(PARTS)}; received {sorted(unknown)}.")
        self.trainable = True
        self.image_encoder.trainable = "image_encoder" in parts
        if "image_encoder" in parts and frozen_until is not None:
            for layer in split_image_encoder(self.image_encoder, frozen_until).frozen.layers:
                layer.trainable = False
        self.image_tokens.trainable = "image_blocks" in parts
        decoder = self.decoder
        for block in decoder.blocks:
            block.trainable = "decoder" in parts
            for layer in block.cross_attention_layers:
                layer.trainable = "cross_attention" in parts
        decoder.final_norm.trainable = "decoder" in parts
        decoder.position_embedding.trainable = "embeddings" in parts
        self.token_embedding.embeddings.trainable = "embeddings" in parts
        freeze_under_lora(decoder)

    def recompute_blocks(self) -> None:
        """Computes transformer blocks, and an image encoder without any, again in the backward pass, so that training needs
        less memory and more time.

        An image encoder whose batch statistics are learned is left as it is: they would move twice.
        """
        of_encoder = [layer for layer in self.image_encoder.layers if isinstance(layer, TransformerBlock)]
        self.feature_map.recompute = not of_encoder and not self.train_batch_norm
        for block in (*of_encoder, *getattr(self.image_tokens, "blocks", ()), *self.decoder.blocks):
            block.recompute = True

    def default_lora_layer_names(self):
        attention = ("query_key_value", "self_attention_output")
        return [*attention, *(f"cross_attention_{name}" for name in ("query", "key_value", "output"))]

    def get_config(self):
        encoder = self.image_encoder_name or keras.saving.serialize_keras_object(self.image_encoder)
        return super().get_config() | {
            "image_encoder": encoder,
            "image_size": list(self.image_size),
            "vocabulary_size": self.vocabulary_size,
            "num_special_tokens": self.num_special_tokens,
            "hidden_dim": self.hidden_dim,
            "num_heads": self.num_heads,
            "num_image_layers": self.num_image_layers,
            "num_layers": self.num_layers,
            "intermediate_dim": self.intermediate_dim,
            "max_sequence_length": self.max_sequence_length,
            "dropout": self.dropout,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "train_batch_norm": self.train_batch_norm,
            "plain_image_tokens": self.plain_image_tokens,
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        if isinstance(config["image_encoder"], dict):
            config["image_encoder"] = keras.saving.deserialize_keras_object(config["image_encoder"])
        return super().from_config(config)


def _image_encoder_dtype(dtype):
    is_bfloat16 = dtype is not None and keras.dtype_policies.get(dtype).name == "bfloat16"
    return "float32" if is_bfloat16 else dtype
