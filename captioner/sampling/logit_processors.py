"""Controls of the next token, as pure functions on scores. Axes: R rows, V vocabulary, L text positions, C token
classes.

Scores are logits or log-probabilities, float32 `(R, V)`. A token that is ruled out gets the score `IMPOSSIBLE`; the
others keep theirs, and are not normalised anew. So the functions compose in any order but that of their meaning: a
truncation sees what was ruled out before it.
"""

import math

from keras import ops

from captioner.sampling.top_k import top_k as few_largest

IMPOSSIBLE = -1e9
"""Score of what cannot be: finite, so that sums of it stay comparable."""


def scale_by_temperature(logits, temperature: float):
    """Sharpens the distribution below 1, flattens it above."""
    return logits / temperature


def keep_top_k(logits, top_k: int):
    """Rules out all but the `top_k` likeliest tokens, and what ties with the last of them."""
    likeliest, _ = few_largest(logits, min(top_k, logits.shape[-1]))
    return _keep(logits, logits >= likeliest[:, -1:])


def keep_top_p(logits, top_p: float, top_k: int | None = None):
    """Rules out all but the smallest set of likely tokens whose probabilities sum to `top_p`.

    Args:
        logits: float tensor `(R, V)`.
        top_p: float. The token that crosses it belongs to the set, and so does what ties with that one.
        top_k: optional int. Tokens that are left; sorting more is most of the work.
    """
    likeliest, _ = few_largest(logits, min(top_k or logits.shape[-1], logits.shape[-1]))
    weights = ops.exp(likeliest - likeliest[:, :1])
    before = ops.cumsum(weights, axis=-1) - weights
    num_kept = ops.sum(ops.cast(before < top_p * ops.sum(weights, axis=-1, keepdims=True), "int32"), axis=-1)
    return _keep(logits, logits >= ops.take_along_axis(likeliest, num_kept[:, None] - 1, axis=1))


def keep_min_p(logits, min_p: float):
    """Rules out tokens less likely than `min_p` times the likeliest one."""
    return _keep(logits, logits >= ops.max(logits, axis=-1, keepdims=True) + math.log(min_p))


def penalise_repetition(scores, token_ids, index, penalty: float, end_token_ids: tuple[int, ...] = ()):
    """Divides a positive score by `penalty`, and multiplies a negative one, where the row already has the token.

    Args:
        scores: float tensor `(R, V)`.
        token_ids: int tensor `(R, L)`; positions before `index` count.
        index: int. The position that the scores are for.
        penalty: float.
        end_token_ids: tokens that keep their score: GPT-2 starts with its end token, and would never end.
    """
    seen = ops.broadcast_to(ops.arange(token_ids.shape[1]) < index, ops.shape(token_ids))
    seen = _mark(token_ids, seen, scores.shape[-1])
    seen = ops.logical_and(seen, ops.logical_not(_among(end_token_ids, scores.shape[-1])))
    return ops.where(seen, ops.where(scores < 0, scores * penalty, scores / penalty), scores)


def ban_repeated_ngrams(scores, token_ids, index, size: int, end_token_ids: tuple[int, ...] = ()):
    """Rules out each token that would complete a sequence of `size` tokens that the row already has.

    Args:
        scores: float tensor `(R, V)`.
        token_ids: int tensor `(R, L)`; positions before `index` count.
        index: int. The position that the scores are for.
        size: int.
        end_token_ids: tokens that are never ruled out.
    """
    length, vocabulary_size = token_ids.shape[1], scores.shape[-1]
    if size > length:
        return scores
    num_windows = length - size + 1
    # Each window of size - 1 tokens that equals the last ones rules out the token behind it.
    repeats = ops.broadcast_to(
        ops.arange(num_windows) + size - 1 < index, (ops.shape(token_ids)[0], num_windows)
    )
    for offset in range(size - 1):
        position = ops.maximum(index - (size - 1) + offset, 0)
        last = ops.take(token_ids, position, axis=1)[:, None]
        repeats = ops.logical_and(repeats, token_ids[:, offset : offset + num_windows] == last)
    banned = _mark(token_ids[:, size - 1 :], repeats, vocabulary_size)
    banned = ops.logical_and(banned, ops.logical_not(_among(end_token_ids, vocabulary_size)))
    return _keep(scores, ops.logical_not(banned))


def ban_until(scores, index, min_length: int, token_ids: tuple[int, ...]):
    """Rules out `token_ids` at positions before `min_length`."""
    banned = ops.logical_and(_among(token_ids, scores.shape[-1]), index < min_length)
    return _keep(scores, ops.logical_not(banned))


def keep_classes(scores, allowed, token_classes):
    """Rules out tokens by their class: bool `(R, C)`, True = allowed, and int `(V,)`."""
    return _keep(scores, ops.take(allowed, token_classes, axis=1))


def _keep(scores, kept):
    return ops.where(kept, scores, IMPOSSIBLE)


def _among(token_ids: tuple[int, ...], vocabulary_size: int):
    """bool `(V,)`."""
    tokens = ops.arange(vocabulary_size)
    found = tokens < 0
    for token_id in token_ids:
        found = ops.logical_or(found, tokens == token_id)
    return found


def _mark(tokens, counted, vocabulary_size: int):
    """Whether a row has a token where `counted`: `(R, M)`, bool `(R, M)` -> bool `(R, V)`."""
    return count_tokens(tokens, counted, vocabulary_size) > 0


def count_tokens(tokens, counted, vocabulary_size: int):
    """How often a row has a token where `counted`: int `(R, M)`, bool `(R, M)` -> float32 `(R, V)`."""
    num_rows, num_tokens = ops.shape(tokens)[0], tokens.shape[1]
    rows = ops.repeat(ops.arange(num_rows)[:, None], num_tokens, axis=1)
    indices = ops.stack([ops.reshape(rows, (-1,)), ops.reshape(ops.cast(tokens, rows.dtype), (-1,))], axis=1)
    values = ops.reshape(ops.cast(counted, "float32"), (-1,))
    return ops.scatter(indices, values, (num_rows, vocabulary_size))
