"""Greedy and nucleus sampling. Axes: B images, N captions per image, R = B*N rows, L text positions, V
vocabulary."""

import numpy as np
from keras import ops

from captioner.sampling.decoded import Decoded
from captioner.sampling.settings import Greedy, NucleusSampling


def sample_tokens(
    next,
    prompt,
    cache,
    index,
    prompt_mask,
    end_token_ids,
    pad_token_id,
    settings: NucleusSampling | Greedy,
    num_captions,
    uniforms=None,
):
    """Extends each row by one token a step, until all have ended.

    Args:
        next: function `(token_ids (R, L), cache, index) -> (logits (R, V), hidden, cache)`. The rows of an
            image are neighbours.
        prompt: int32 tensor `(B, L)`.
        cache: nest of float tensors `(R, ...)`.
        index: int. The first position to fill in at least one image.
        prompt_mask: bool tensor `(B, L)`; True = given.
        end_token_ids: tuple of int.
        pad_token_id: int.
        settings: `NucleusSampling` or `Greedy`.
        num_captions: int. Captions drawn for each image (N).
        uniforms: float32 tensor `(N, L)` in [0, 1), see `uniform_draws`, or `(B, N, L)` with draws for each image. Needed
            by `NucleusSampling`.

    Returns:
        `Decoded`, sorted by the log-probability divided by the length. Log-probabilities are the model's own,
        before temperature and truncation.
    """
    max_length = prompt.shape[1]
    num_images = ops.shape(prompt)[0]
    rows_prompt = ops.repeat(prompt, num_captions, axis=0)
    rows_mask = ops.repeat(prompt_mask, num_captions, axis=0)
    if uniforms is not None:
        uniforms = ops.broadcast_to(uniforms, (num_images, num_captions, max_length))
        uniforms = ops.reshape(uniforms, (-1, max_length))

    def keep_going(index, cache, token_ids, token_log_probs, ended):
        return ops.logical_not(ops.all(ended))

    def step(index, cache, token_ids, token_log_probs, ended):
        logits, _, cache = next(token_ids, cache, index)
        logits = ops.cast(logits, "float32")
        log_probs = ops.log_softmax(logits, axis=-1)
        if isinstance(settings, Greedy):
            tokens = ops.cast(ops.argmax(logits, axis=-1), "int32")
        else:
            tokens = draw_token(logits, uniforms[:, index], settings)
        given = rows_mask[:, index]
        tokens = ops.where(given, rows_prompt[:, index], ops.where(ended, pad_token_id, tokens))
        chosen = ops.take_along_axis(log_probs, tokens[:, None], axis=1)[:, 0]
        chosen = ops.where(ops.logical_or(given, ended), 0.0, chosen)
        here = ops.arange(max_length) == index
        token_ids = ops.where(here, tokens[:, None], token_ids)
        token_log_probs = ops.where(here, chosen[:, None], token_log_probs)
        for end_token_id in end_token_ids:
            ends_now = ops.logical_and(tokens == end_token_id, ops.logical_not(given))
            ended = ops.logical_or(ended, ends_now)
        return index + 1, cache, token_ids, token_log_probs, ended

    index = ops.cast(index, "int32")
    token_ids = ops.where(rows_mask, rows_prompt, ops.cast(pad_token_id, prompt.dtype))
    none_ended = ops.zeros_like(token_ids[:, 0], dtype="bool")
    _, _, token_ids, token_log_probs, _ = ops.while_loop(
        keep_going,
        step,
        (index, cache, token_ids, ops.zeros_like(token_ids, dtype="float32"), none_ended),
        maximum_iterations=max_length - index,
    )
    lengths = _generated_lengths(token_ids, rows_mask, end_token_ids)
    log_probs = ops.sum(token_log_probs, axis=1)
    scores = log_probs / ops.cast(ops.maximum(lengths, 1), "float32")
    shape = (num_images, num_captions)
    order = ops.argsort(-ops.reshape(scores, shape), axis=1)
    long_order = ops.broadcast_to(order[:, :, None], (num_images, num_captions, max_length))
    return Decoded(
        token_ids=ops.take_along_axis(ops.reshape(token_ids, (*shape, max_length)), long_order, axis=1),
        token_log_probs=ops.take_along_axis(
            ops.reshape(token_log_probs, (*shape, max_length)), long_order, axis=1
        ),
        log_probs=ops.take_along_axis(ops.reshape(log_probs, shape), order, axis=1),
        scores=ops.take_along_axis(ops.reshape(scores, shape), order, axis=1),
        lengths=ops.take_along_axis(ops.reshape(lengths, shape), order, axis=1),
    )


def uniform_draws(seed: int, num_captions: int, max_length: int) -> np.ndarray:
    """The random numbers of one image, float32 `(N, L)` in [0, 1): the same for each image and on each
    backend."""
    # Below 1 also after rounding to float32.
    draws = np.random.default_rng(seed).random((num_captions, max_length), dtype="float32")
    return np.minimum(draws, np.float32(1.0 - 2.0**-24))


def draw_token(logits, uniforms, settings: NucleusSampling):
    """Draws one token per row by inverting the cumulative distribution of the truncated, sharpened softmax.

    The distribution is summed in the order of the vocabulary, not of the probabilities: rounding swaps tokens that are
    all but equally likely, and would draw another one on another backend. Tokens that tie with the last one kept are kept.

    Args:
        logits: float32 tensor `(R, V)`.
        uniforms: float32 tensor `(R,)` in [0, 1).
        settings: `NucleusSampling`.

    Returns:
        int32 tensor `(R,)`.
    """
    vocabulary_size = logits.shape[-1]
    logits = logits / settings.temperature
    kept = _kept(logits, settings)
    weights = ops.exp(logits - ops.max(logits, axis=-1, keepdims=True))
    cumulative = ops.cumsum(ops.where(kept, weights, 0.0), axis=-1)
    # The first token whose cumulative weight exceeds the threshold; the last one kept at the latest.
    threshold = uniforms[:, None] * cumulative[:, -1:]
    position = ops.sum(ops.cast(cumulative <= threshold, "int32"), axis=-1)
    last_kept = ops.max(ops.where(kept, ops.arange(vocabulary_size), 0), axis=-1)
    return ops.minimum(position, ops.cast(last_kept, "int32"))


def _kept(logits, settings: NucleusSampling):
    """The tokens to draw from: bool `(R, V)`."""
    if settings.top_p == 1.0 and not settings.top_k:  # sorting the vocabulary is most of the work
        return ops.ones_like(logits, dtype="bool")
    vocabulary_size = logits.shape[-1]
    likeliest, _ = ops.top_k(logits, min(settings.top_k or vocabulary_size, vocabulary_size))
    probs = ops.softmax(likeliest, axis=-1)
    # The token that crosses top_p belongs to the nucleus, so the first one always does.
    num_kept = ops.sum(ops.cast(ops.cumsum(probs, axis=-1) - probs < settings.top_p, "int32"), axis=-1)
    return logits >= ops.take_along_axis(likeliest, num_kept[:, None] - 1, axis=1)


def _generated_lengths(token_ids, prompt_mask, end_token_ids):
    """Generated tokens of each row, the end token included: int32 `(R,)`."""
    generated = ops.logical_not(prompt_mask)
    is_end = ops.zeros_like(generated)
    for end_token_id in end_token_ids:
        is_end = ops.logical_or(is_end, ops.logical_and(token_ids == end_token_id, generated))
    is_end = ops.cast(is_end, "int32")
    ended_before = ops.cumsum(is_end, axis=1) - is_end
    counted = ops.logical_and(generated, ended_before == 0)
    return ops.sum(ops.cast(counted, "int32"), axis=1)
