"""Self-critical sequence training: the captioner learns from the CIDEr of the captions it draws itself.

Axes: B images, G given captions, N drawn captions, T text positions, L = T + 1 positions with the start token.
"""

from collections.abc import Callable, Iterable, Sequence

import keras
import numpy as np
import tensorflow as tf

from captioner.evaluation.ngram_scores import CiderD
from captioner.evaluation.tokenization import tokenize_pure_python
from captioner.model import ImageCaptioner
from captioner.sampling import DecodingSettings
from captioner.text import CaptionTokenizer
from trainers.optimization import CaptionLoss
from trainers.settings import TrainSettings

END_WORD = "<end>"
"""Counts as a word of a finished caption, so that a caption that stops in the middle of a sentence is worth less."""


class CaptionReward:
    """CIDEr-D of drawn captions, against the given captions of the same batch.

    Args:
        tokenizer: `CaptionTokenizer`.
        corpus: for each training image its captions: the document frequencies.

    Call arguments:
        drawn: int array `(B, N, T)`. Captions, with their end token if they have one.
        given: int array `(B, G, T')`.
        given_mask: bool array `(B, G, T')`; True = a real token.

    Returns:
        float32 array `(B, N)`; 0 where an image has no given caption.
    """

    def __init__(self, tokenizer: CaptionTokenizer, corpus: Iterable[Sequence[str]]):
        self.tokenizer = tokenizer
        self.cider = CiderD(
            [f"{words} {END_WORD}" for words in tokenize_pure_python(texts)] for texts in corpus
        )

    def __call__(self, drawn: np.ndarray, given: np.ndarray, given_mask: np.ndarray) -> np.ndarray:
        rewards = np.zeros(drawn.shape[:2], "float32")
        for row, (captions, texts, masks) in enumerate(zip(drawn, given, given_mask, strict=True)):
            references = [
                self._words(text[mask]) for text, mask in zip(texts, masks, strict=True) if mask.any()
            ]
            if references:
                rewards[row] = [self.cider(self._words(caption), references) for caption in captions]
        return rewards

    def _words(self, token_ids: np.ndarray) -> str:
        ends = np.flatnonzero(token_ids == self.tokenizer.end_token_id)
        text = self.tokenizer.decode(token_ids[: ends[0]] if len(ends) else token_ids)
        words = tokenize_pure_python([text])[0]
        return f"{words} {END_WORD}" if len(ends) else words


class SelfCriticalModel(keras.Model):
    """A training model that replaces the captions of each batch by drawn ones, weighted by what they gain.

    The gradient is that of the expected reward (REINFORCE): a drawn caption counts as a target whose weight is its reward
    minus a baseline. Captions are drawn without dropout; what is drawn depends only on the seed and the step.

    Args:
        model: the training model, from images or features, token_ids and padding_mask to logits.
        captioner: `ImageCaptioner` with the same variables.
        encode: function from the images of a batch to image tokens.
        corpus: for each training image its captions.
        settings: `TrainSettings`: `num_samples`, `baseline`, `cross_entropy_weight`, `max_length`, `seed`.

    Raises:
        ValueError: If Keras runs on another backend than TensorFlow.

    References:
        - [Rennie et al., 2017](https://arxiv.org/abs/1612.00563), section 4; the greedy baseline
        - [Luo, 2020](https://arxiv.org/abs/2003.09971); the mean of the other samples
    """

    def __init__(
        self,
        model: keras.Model,
        captioner: ImageCaptioner,
        encode: Callable,
        corpus: Iterable[Sequence[str]],
        settings: TrainSettings,
    ):
        super().__init__(name="self_critical")
        require_tensorflow()
        self.model = model
        self.settings = settings
        self.reward_tracker = keras.metrics.Mean(name="reward")
        # Weights hold the averages already.
        self.caption_loss = CaptionLoss(reduction="sum")
        reward = CaptionReward(captioner.preprocessor.tokenizer, corpus)
        length = min(settings.max_length, captioner.backbone.max_sequence_length)
        # All of the softmax: no token is left out, so none has to be sorted.
        nucleus = DecodingSettings(sampler="nucleus", top_p=1.0, max_length=length)
        likeliest = DecodingSettings(sampler="greedy", max_length=length)

        def search(image_tokens, sampler, num_captions, uniforms=None):
            decoded = captioner.search(image_tokens, sampler, num_captions, uniforms)
            return decoded.token_ids, decoded.lengths

        def draw(images, step):
            image_tokens = encode(images)
            shape = (tf.shape(images)[0], settings.num_samples, length + 1)
            seed = tf.stack([tf.constant(settings.seed, "int64"), tf.cast(step, "int64")])
            uniforms = tf.random.stateless_uniform(shape, seed)
            drawn = search(image_tokens, nucleus, settings.num_samples, uniforms)
            greedy = search(image_tokens, likeliest, 1) if settings.baseline == "greedy" else None
            return drawn, greedy

        def rewards(token_ids, given, given_mask):
            values = tf.numpy_function(reward, (token_ids[:, :, 1:], given, given_mask), tf.float32)
            return tf.ensure_shape(values, token_ids.shape[:2])

        # Functions, not attributes that are layers: the variables of the captioner are those of `model`.
        self._draw, self._rewards = draw, rewards

    def call(self, inputs, training=None):
        return self.model(inputs, training=training)

    def train_step(self, data):
        x, targets, sample_weight = data
        # Not `iterations`, which counts updates: batches whose gradients are accumulated draw with numbers of their own.
        step = getattr(self.optimizer, "inner_optimizer", self.optimizer)._iterations
        (token_ids, lengths), greedy = self._draw(x["images"], step)
        given = (targets, sample_weight > 0)
        rewards = self._rewards(token_ids, *given)
        if greedy is not None:
            advantages = rewards - self._rewards(greedy[0], *given)
        else:
            others = tf.reduce_sum(rewards, axis=1, keepdims=True) - rewards
            advantages = rewards - others / (self.settings.num_samples - 1)
        # A sample of a shard that became unusable is a blank image without captions.
        is_image = tf.reduce_any(given[1], axis=(1, 2))
        self.reward_tracker.update_state(rewards, sample_weight=tf.cast(is_image, "float32")[:, None])
        drawn_mask = tf.range(token_ids.shape[2] - 1) < lengths[:, :, None]
        drawn = (token_ids[:, :, :-1], drawn_mask, token_ids[:, :, 1:])
        weights = _mean_weights(drawn_mask & is_image[:, None, None]) * advantages[:, :, None]
        if share := self.settings.cross_entropy_weight:
            texts = (x["token_ids"], x["padding_mask"], targets)
            drawn = tuple(_side_by_side(*pair) for pair in zip(drawn, texts, strict=True))
            weights = _side_by_side((1.0 - share) * weights, share * _mean_weights(sample_weight > 0))
        token_ids, padding_mask, targets = drawn
        x = {"images": x["images"], "token_ids": token_ids, "padding_mask": padding_mask}
        return super().train_step((x, targets, weights))


def require_tensorflow() -> None:
    """Refuses other backends: rewards are computed in Python, in the middle of a step."""
    if keras.config.backend() != "tensorflow":
        raise ValueError(
            f"`objective`=self_critical needs KERAS_BACKEND=tensorflow; it is {keras.config.backend()}."
        )


def _mean_weights(mask):
    """Weights `(B, N, T)` that add up to 1 over the tokens of a batch."""
    mask = tf.cast(mask, "float32")
    return mask / tf.maximum(tf.reduce_sum(mask), 1.0)


def _side_by_side(first, second):
    """`(B, N, T)` and `(B, G, T')` -> `(B, N + G, max(T, T'))`; what is padded is masked."""
    length = tf.maximum(tf.shape(first)[2], tf.shape(second)[2])
    padded = [tf.pad(x, ((0, 0), (0, 0), (0, length - tf.shape(x)[2]))) for x in (first, second)]
    return tf.concat(padded, axis=1)
