"""The one decoding loop, whole or in pieces. Axes: B images, K rows of an image, N captions per image, L text positions, V
vocabulary."""

from collections.abc import Callable

import keras
from keras import ops

from captioner.sampling.beam_search import BeamSearch
from captioner.sampling.contrastive_search import ContrastiveSearch, num_candidates
from captioner.sampling.decoded import Decoded
from captioner.sampling.settings import DecodingSettings
from captioner.sampling.task import Task
from captioner.sampling.token_sampling import TokenSampling

_SEARCHES = {
    "beam": BeamSearch,
    "nucleus": TokenSampling,
    "greedy": TokenSampling,
    "contrastive": ContrastiveSearch,
}


def rows_per_image(settings: DecodingSettings, num_captions: int) -> int:
    """Texts of an image that are decoded side by side (K): the rows of `next` are B times this."""
    if settings.sampler == "beam":
        return settings.num_beams
    return num_candidates(settings) if settings.sampler == "contrastive" else num_captions


def positions_read(settings: DecodingSettings, length: int) -> int:
    """Positions that the model needs for texts of L positions."""
    # Contrastive search reads the last token too, to see how new it is.
    return length if settings.sampler == "contrastive" else length - 1


def require_captions(settings: DecodingSettings, num_captions: int) -> None:
    """Refuses a number of captions that the settings cannot give."""
    most = {"beam": settings.num_beams, "nucleus": None}.get(settings.sampler, 1)
    if num_captions < 1 or (most is not None and num_captions > most):
        limit = "" if most is None else f" and at most {most} with {_said(settings)}"
        raise ValueError(
            f"`num_captions` must be at least 1{limit}; received num_captions={num_captions}. "
            "Raise `num_beams`, or use sampler='nucleus'."
        )


def move_tensors(cache, rows):
    """The cache of rows that go on from others: each tensor `(B*K, ...)` is moved, int `(B*K,)` says from where."""
    return keras.tree.map_structure(lambda x: ops.take(x, rows, axis=0), cache)


def decode(next, cache, task: Task, move_rows: Callable = move_tensors) -> Decoded:
    """Decodes captions, one position of all rows at a time, until no caption can change.

    Each sampler is a class with `start`, `rows`, `settled`, `advance` and `result`, which see the whole batch but no
    image from another. Tokens of a prompt are given; the others are chosen by scores that `Task.control` has seen.

    Args:
        next: function `(token_ids (B*K, L), cache, index) -> (logits (B*K, V), hidden (B*K, D), cache)`: the logits
            at position `index`, and the hidden state before it, which contrastive search reads. The rows of an image are
            neighbours.
        cache: what `next` reads and extends.
        task: `Task`.
        move_rows: function `(cache, rows (B*K,)) -> cache`: row r of the new cache goes on from row `rows[r]`, of the same
            image. By default each tensor of the cache is moved.

    Returns:
        `Decoded`, best caption first. A score of `IMPOSSIBLE` marks a caption that the controls do not allow: there are fewer
        than `num_captions`.

    Raises:
        ValueError: If more captions are asked for than the settings can give.
    """
    state, _ = advance(next, begin(next, cache, task), task, move_rows)
    return finish(state, task)


def begin(next, cache, task: Task) -> dict:
    """The state before the first step: `index` and tensors whose first axis is B, or B times something."""
    require_captions(task.settings, task.num_captions)
    search = _SEARCHES[task.settings.sampler](task)
    return {
        "index": ops.cast(task.first_index, "int32"),
        "cache": cache,
        "search": search.start(next, cache),
    }


def advance(next, state: dict, task: Task, move_rows: Callable = move_tensors, num_unsettled=0) -> tuple:
    """Decodes until the captions of so few images may still change.

    Args:
        next: as for `decode`.
        state: from `begin` or the last call.
        task: `Task`.
        move_rows: as for `decode`.
        num_unsettled: int or int tensor. Images that may be left.

    Returns:
        The state, and bool `(B,)`: which images are done. All are when the positions are used up.
    """
    search = _SEARCHES[task.settings.sampler](task)
    num_rows = rows_per_image(task.settings, task.num_captions)
    last_index = positions_read(task.settings, task.length)

    def keep_going(index, cache, state):
        unsettled = ops.cast(ops.logical_not(search.settled(index, state)), "int32")
        return ops.logical_and(index <= last_index, ops.sum(unsettled) > num_unsettled)

    def step(index, cache, state):
        logits, hidden, cache = next(search.rows(state), cache, index)
        state, rows = search.advance(index, ops.cast(logits, "float32"), hidden, state)
        if rows is not None:
            rows = ops.cast(rows, "int32") + ops.arange(task.num_images, dtype="int32")[:, None] * num_rows
            cache = move_rows(cache, ops.reshape(rows, (-1,)))
        return index + 1, cache, state

    parts = state["index"], state["cache"], state["search"]
    index, cache, found = ops.while_loop(keep_going, step, parts)
    settled = ops.logical_or(search.settled(index, found), index > last_index)
    return {"index": index, "cache": cache, "search": found}, settled


def finish(state: dict, task: Task) -> Decoded:
    """The captions of a state, best first; those of an image that is not done may still change."""
    return _SEARCHES[task.settings.sampler](task).result(state["search"])


def take_images(nest, images, num_images: int):
    """Of tensors whose first axis is B, or B times something, what belongs to the chosen images; numbers stay.

    Args:
        nest: of tensors.
        images: int tensor. Positions in the batch.
        num_images: int or int tensor. B.
    """

    def take(x):
        if len(x.shape) == 0:
            return x
        by_image = ops.reshape(x, (num_images, -1, *x.shape[1:]))
        return ops.reshape(ops.take(by_image, images, axis=0), (-1, *x.shape[1:]))

    return keras.tree.map_structure(take, nest)


def _said(settings: DecodingSettings) -> str:
    beams = f", num_beams={settings.num_beams}" if settings.sampler == "beam" else ""
    return f"sampler={settings.sampler!r}{beams}"
