"""Beam search with frozen finished beams. Axes: B images, K beams, M = 2K candidates, L text positions, V
vocabulary."""

import keras
from keras import ops

from captioner.sampling.decoded import Decoded
from captioner.sampling.settings import BeamSearch

IMPOSSIBLE = -1e9
"""Log-probability of what cannot be: finite, so that sums of it stay comparable."""


def beam_search(
    next,
    prompt,
    cache,
    index,
    prompt_mask,
    end_token_ids,
    pad_token_id,
    settings: BeamSearch,
    num_captions,
    move_rows=None,
):
    """Finds the captions of the highest length-normalised log-probability.

    Unfinished ("live") and finished beams are kept apart. A finished beam keeps its score for good; it leaves
    only for a better finished one. A caption is finished by an end token, or by the last position. The search
    of an image is over when no live beam can still beat its worst finished one: log-probabilities only fall,
    so this loses nothing.

    Args:
        next: function `(token_ids (B*K, L), cache, index) -> (logits (B*K, V), hidden, cache)`: the logits at
            position `index`. The beams of an image are neighbours.
        prompt: int32 tensor `(B, L)`. Positions where `prompt_mask` holds are given, the others are to be
            filled.
        cache: nest of float tensors `(B*K, ...)`; moved with the beams.
        index: int. The first position to fill in at least one image.
        prompt_mask: bool tensor `(B, L)`; True = given.
        end_token_ids: tuple of int. Tokens that finish a caption; may be empty.
        pad_token_id: int. Fills what follows the end.
        settings: `BeamSearch`.
        num_captions: int. Finished captions kept for each image; K at most.
        move_rows: function `(cache, rows (B*K,)) -> cache` for a cache that moves its rows itself; by default each
            tensor is moved.

    Returns:
        `Decoded`, best caption first. Given tokens have log-probability 0 and do not count in the length.

    References:
        - [Wu et al., 2016](https://arxiv.org/abs/1609.08144), section 7
    """
    move_rows = move_rows or _move_tensors
    num_beams, max_length = settings.num_beams, prompt.shape[1]
    num_images = ops.shape(prompt)[0]
    prompt_lengths = ops.sum(ops.cast(prompt_mask, "int32"), axis=1)

    def normalised(log_probs, lengths):
        lengths = ops.cast(ops.maximum(lengths, 1), "float32")
        return log_probs / lengths**settings.length_penalty

    def keep_going(index, cache, live, finished):
        # The largest divisor is the kindest to a negative number.
        attainable = normalised(live["log_probs"][:, 0], max_length - prompt_lengths)
        return ops.any(attainable > finished["scores"][:, -1])

    def step(index, cache, live, finished):
        logits, _, cache = next(_merge_rows(live["token_ids"]), cache, index)
        vocabulary_size = logits.shape[-1]
        log_probs = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
        log_probs = ops.reshape(log_probs, (num_images, num_beams, vocabulary_size))
        given, given_token = prompt_mask[:, index], prompt[:, index]
        is_given_token = ops.arange(vocabulary_size)[None, :] == given_token[:, None]
        forced = ops.where(is_given_token, 0.0, IMPOSSIBLE)[:, None, :]
        log_probs = ops.where(given[:, None, None], forced, log_probs)

        totals = live["log_probs"][:, :, None] + log_probs
        totals = ops.reshape(totals, (num_images, num_beams * vocabulary_size))
        # 2K candidates hold at least K that do not end, as each beam has one end token; several need as many
        # more.
        num_candidates = min(num_beams * (1 + max(len(end_token_ids), 1)), num_beams * vocabulary_size)
        totals, choices = ops.top_k(totals, num_candidates)
        beams, tokens = choices // vocabulary_size, choices % vocabulary_size
        step_log_probs = totals - ops.take_along_axis(live["log_probs"], beams, axis=1)
        candidates = {
            "token_ids": _write(_take_beams(live["token_ids"], beams), index, tokens),
            "token_log_probs": _write(_take_beams(live["token_log_probs"], beams), index, step_log_probs),
            "log_probs": totals,
        }
        is_end = ops.zeros_like(tokens, dtype="bool")
        for end_token_id in end_token_ids:
            is_end = ops.logical_or(is_end, tokens == end_token_id)
        is_end = ops.logical_and(is_end, ops.logical_not(given)[:, None])
        # At the last position every candidate is a caption.
        is_finished = ops.logical_or(is_end, index == max_length - 1)

        lengths = index + 1 - prompt_lengths[:, None]
        possible = ops.logical_and(is_finished, totals > IMPOSSIBLE / 2)
        scores = ops.where(possible, normalised(totals, lengths), IMPOSSIBLE)
        lengths = ops.broadcast_to(lengths, ops.shape(scores))
        finished = _best(finished, candidates | {"scores": scores, "lengths": lengths}, num_captions)

        live_totals, kept = ops.top_k(ops.where(is_end, IMPOSSIBLE, totals), num_beams)
        live = {
            "token_ids": _take_beams(candidates["token_ids"], kept),
            "token_log_probs": _take_beams(candidates["token_log_probs"], kept),
            "log_probs": live_totals,
        }
        rows = ops.take_along_axis(beams, kept, axis=1) + ops.arange(num_images)[:, None] * num_beams
        cache = move_rows(cache, ops.reshape(rows, (-1,)))
        return index + 1, cache, live, finished

    first = ops.cast(ops.arange(num_beams) == 0, "float32")
    # All beams start alike: only the first may be extended, or the search would hold copies.
    live = {
        "token_ids": _repeat(_blank(prompt, prompt_mask, pad_token_id), num_beams),
        "token_log_probs": _repeat(ops.zeros_like(prompt, dtype="float32"), num_beams),
        "log_probs": ops.broadcast_to((1.0 - first) * IMPOSSIBLE, (num_images, num_beams)),
    }
    finished = {
        "token_ids": live["token_ids"][:, :num_captions],
        "token_log_probs": live["token_log_probs"][:, :num_captions],
        "log_probs": ops.full((num_images, num_captions), IMPOSSIBLE, dtype="float32"),
        "scores": ops.full((num_images, num_captions), IMPOSSIBLE, dtype="float32"),
        "lengths": ops.zeros((num_images, num_captions), dtype="int32"),
    }
    index = ops.cast(index, "int32")
    _, _, _, finished = ops.while_loop(
        keep_going, step, (index, cache, live, finished), maximum_iterations=max_length - index
    )
    return Decoded(**finished)


def _move_tensors(cache, rows):
    return keras.tree.map_structure(lambda x: ops.take(x, rows, axis=0), cache)


def _best(finished, candidates, num_captions):
    # Finished beams come first, so that a tie keeps them.
    both = {key: ops.concatenate([finished[key], candidates[key]], axis=1) for key in finished}
    _, kept = ops.top_k(both["scores"], num_captions)
    return {key: _take_beams(value, kept) for key, value in both.items()}


def _take_beams(x, beams):
    """`(B, K, ...)` and `(B, M)` -> `(B, M, ...)`."""
    if len(x.shape) == 3:
        beams = ops.broadcast_to(beams[:, :, None], (*ops.shape(beams), x.shape[2]))
    return ops.take_along_axis(x, beams, axis=1)


def _write(x, index, values):
    """Sets position `index` of `(B, M, L)` to `(B, M)`."""
    here = ops.arange(x.shape[2]) == index
    return ops.where(here, ops.cast(values, x.dtype)[:, :, None], x)


def _blank(prompt, prompt_mask, pad_token_id):
    return ops.where(prompt_mask, prompt, ops.cast(pad_token_id, prompt.dtype))


def _repeat(x, count):
    """`(B, L)` -> `(B, count, L)`."""
    return ops.repeat(x[:, None, :], count, axis=1)


def _merge_rows(x):
    return ops.reshape(x, (-1, x.shape[2]))
