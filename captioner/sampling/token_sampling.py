"""Greedy and nucleus sampling. Axes: B images, N captions per image, R = B*N rows, L text positions, V
vocabulary."""

import numpy as np
from keras import ops

from captioner.sampling import logit_processors
from captioner.sampling.decoded import Decoded
from captioner.sampling.logit_processors import IMPOSSIBLE
from captioner.sampling.settings import DecodingSettings
from captioner.sampling.task import Task, take_rows, write


class TokenSampling:
    """Extends each row by one token a step, drawn or the likeliest, until all have ended.

    Captions are sorted by the mean log-probability of their tokens. Log-probabilities are the model's own, before
    controls, temperature and truncation.
    """

    def __init__(self, task: Task):
        self.task = task

    def start(self, next, cache):
        """The state before the first step."""
        task = self.task
        token_ids = ops.repeat(task.blank(), task.num_captions, axis=0)
        state = {
            "token_ids": token_ids,
            "token_log_probs": ops.zeros_like(token_ids, dtype="float32"),
            "ended": ops.zeros_like(token_ids[:, 0], dtype="bool"),
            "possible": ops.ones_like(token_ids[:, 0], dtype="bool"),
            "lengths": ops.zeros_like(token_ids[:, 0]),
        }
        if task.words is not None:
            state["word_states"] = ops.zeros_like(token_ids[:, 0], dtype="int32")
        return state

    def rows(self, state):
        """int `(R, L)`: the tokens that the next step reads."""
        return state["token_ids"]

    def settled(self, index, state):
        """bool `(B,)`: the images whose rows have all ended."""
        return ops.all(ops.reshape(state["ended"], (self.task.num_images, self.task.num_captions)), axis=1)

    def advance(self, index, logits, hidden, state):
        """One position more: the new state, and None, as rows stay where they are."""
        task, ended = self.task, state["ended"]
        scores = task.control(logits, state["token_ids"], index, state.get("word_states"))
        if task.settings.sampler == "greedy":
            tokens = ops.cast(ops.argmax(scores, axis=-1), "int32")
        else:
            tokens = draw_token(scores, self._uniforms(index), task.settings)
        given = ops.zeros_like(ended)
        if task.may_be_given:
            given_tokens, given = (ops.repeat(x, task.num_captions, axis=0) for x in task.given(index))
            tokens = ops.where(given, given_tokens, tokens)
        tokens = ops.where(ended, task.pad_token_id, tokens)
        chosen, score = (
            ops.take_along_axis(x, tokens[:, None], axis=1)[:, 0]
            for x in (ops.log_softmax(logits, axis=-1), scores)
        )
        scored = ops.repeat(index >= task.num_unscored(), task.num_captions, axis=0)
        scored = ops.logical_and(scored, ops.logical_not(ended))
        free = ops.logical_or(given, ended)
        state = state | {
            "token_ids": write(state["token_ids"], index, tokens),
            "token_log_probs": write(state["token_log_probs"], index, ops.where(scored, chosen, 0.0)),
            "possible": ops.logical_and(state["possible"], ops.logical_or(free, score > IMPOSSIBLE / 2)),
            "lengths": state["lengths"] + ops.cast(scored, state["lengths"].dtype),
            "ended": ops.logical_or(ended, ops.logical_and(task.is_end(tokens), ops.logical_not(given))),
        }
        if task.words is not None:
            state["word_states"] = task.words.advance(state["word_states"], tokens, free)
        return state, None

    def result(self, state) -> Decoded:
        """The captions, best first."""
        log_probs = ops.sum(state["token_log_probs"], axis=1)
        scores = log_probs / ops.cast(ops.maximum(state["lengths"], 1), "float32")
        by_image = Decoded(
            token_ids=state["token_ids"],
            token_log_probs=state["token_log_probs"],
            log_probs=log_probs,
            scores=ops.where(state["possible"], scores, IMPOSSIBLE),
            lengths=state["lengths"],
        )
        shape = (self.task.num_images, self.task.num_captions)
        by_image = Decoded(*(ops.reshape(x, (*shape, *x.shape[1:])) for x in by_image))
        order = ops.argsort(-by_image.scores, axis=1)
        return Decoded(*(take_rows(x, order) for x in by_image))

    def _uniforms(self, index):
        shape = (self.task.num_images, self.task.num_captions, self.task.length)
        return ops.take(
            ops.reshape(ops.broadcast_to(self.task.uniforms, shape), (-1, shape[2])), index, axis=1
        )


def uniform_draws(seed: int, num_captions: int, max_length: int) -> np.ndarray:
    """The random numbers of one image, float32 `(N, L)` in [0, 1): the same for each image and on each
    backend."""
    # Below 1 also after rounding to float32.
    draws = np.random.default_rng(seed).random((num_captions, max_length), dtype="float32")
    return np.minimum(draws, np.float32(1.0 - 2.0**-24))


def draw_token(logits, uniforms, settings: DecodingSettings):
    """Draws one token per row by inverting the cumulative distribution of the truncated, sharpened softmax.

    The distribution is summed in the order of the vocabulary, not of the probabilities: rounding swaps tokens that are
    all but equally likely, and would draw another one on another backend. Tokens that tie with the last one kept are kept.

    Args:
        logits: float32 tensor `(R, V)`.
        uniforms: float32 tensor `(R,)` in [0, 1).
        settings: `DecodingSettings`: `temperature`, `top_k`, `top_p`, `min_p`, applied in this order.

    Returns:
        int32 tensor `(R,)`.
    """
    if settings.temperature != 1.0:
        logits = logit_processors.scale_by_temperature(logits, settings.temperature)
    if settings.top_k is not None and settings.top_p == 1.0:
        logits = logit_processors.keep_top_k(logits, settings.top_k)
    elif settings.top_p < 1.0:
        logits = logit_processors.keep_top_p(logits, settings.top_p, settings.top_k)
    if settings.min_p > 0.0:
        logits = logit_processors.keep_min_p(logits, settings.min_p)
    weights = ops.exp(logits - ops.max(logits, axis=-1, keepdims=True))
    cumulative = ops.cumsum(weights, axis=-1)
    # The first token whose cumulative weight exceeds the threshold; the last possible one at the latest.
    threshold = uniforms[:, None] * cumulative[:, -1:]
    position = ops.sum(ops.cast(cumulative <= threshold, "int32"), axis=-1)
    last_possible = ops.max(ops.where(weights > 0, ops.arange(logits.shape[-1]), 0), axis=-1)
    return ops.minimum(position, ops.cast(last_possible, "int32"))
