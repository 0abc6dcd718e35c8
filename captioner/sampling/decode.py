"""The one decoding loop. Axes: B images, K rows of an image, N captions per image, L text positions, V vocabulary."""

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

    Each sampler is a class with `start`, `rows`, `keep_going`, `advance` and `result`, which see the whole batch but no
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
    require_captions(task.settings, task.num_captions)
    search = _SEARCHES[task.settings.sampler](task)
    num_rows = rows_per_image(task.settings, task.num_captions)

    def keep_going(index, cache, state):
        return search.keep_going(index, state)

    def step(index, cache, state):
        logits, hidden, cache = next(search.rows(state), cache, index)
        state, rows = search.advance(index, ops.cast(logits, "float32"), hidden, state)
        if rows is not None:
            rows = ops.cast(rows, "int32") + ops.arange(task.num_images, dtype="int32")[:, None] * num_rows
            cache = move_rows(cache, ops.reshape(rows, (-1,)))
        return index + 1, cache, state

    index = ops.cast(task.first_index, "int32")
    num_steps = positions_read(task.settings, task.length) + 1 - index
    _, _, state = ops.while_loop(
        keep_going, step, (index, cache, search.start(next, cache)), maximum_iterations=num_steps
    )
    return search.result(state)


def _said(settings: DecodingSettings) -> str:
    beams = f", num_beams={settings.num_beams}" if settings.sampler == "beam" else ""
    return f"sampler={settings.sampler!r}{beams}"
