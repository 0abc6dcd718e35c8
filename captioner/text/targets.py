"""What the decoder reads and what it must say, from token lists. Axes: N captions, T text positions."""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingTargets:
    """Teacher-forcing arrays: position `t` reads `token_ids[:, t]` and must say `targets[:, t]`.

    The mask is made here, with the tokens, and never guessed from an id: the pad token may be the end token.
    """

    token_ids: np.ndarray
    """int32 `(N, T)`: the start token, then the caption, then padding."""
    targets: np.ndarray
    """int32 `(N, T)`: the caption, then the end token, then padding."""
    padding_mask: np.ndarray
    """bool `(N, T)`: True = a real token."""
    sample_weight: np.ndarray
    """float32 `(N, T)`: 1.0 exactly where the target is real, the end token included."""


def training_targets(
    token_ids: Sequence[Sequence[int]],
    *,
    start_token_id: int,
    end_token_id: int,
    pad_token_id: int,
    max_length: int,
    pad_to_max_length: bool = False,
) -> TrainingTargets:
    """Shifts each caption by one position between what is read and what must be said.

    A caption of `n` tokens takes `n + 1` positions. One that is too long loses its last words and keeps its
    end token.

    Args:
        token_ids: N lists of int, without special tokens.
        start_token_id: int. The first token that the decoder reads.
        end_token_id: int. The last token that it must say.
        pad_token_id: int. Fills the rest; may equal `end_token_id`.
        max_length: int. The most positions T, at least 2.
        pad_to_max_length: bool. If False, T is what the longest caption needs.

    Returns:
        A `TrainingTargets`.

    Raises:
        ValueError: If `max_length` is below 2.
    """
    if max_length < 2:
        raise ValueError(
            f"`max_length` must be at least 2 (a token and the end token); received max_length={max_length}."
        )
    kept = [list(ids[: max_length - 1]) for ids in token_ids]
    lengths = np.array([len(ids) + 1 for ids in kept], dtype="int32")
    num_positions = max_length if pad_to_max_length or not kept else int(lengths.max())
    inputs = np.full((len(kept), num_positions), pad_token_id, dtype="int32")
    targets = np.full((len(kept), num_positions), pad_token_id, dtype="int32")
    for row, ids in enumerate(kept):
        inputs[row, : len(ids) + 1] = [start_token_id, *ids]
        targets[row, : len(ids) + 1] = [*ids, end_token_id]
    mask = np.arange(num_positions)[None, :] < lengths[:, None]
    return TrainingTargets(
        token_ids=inputs, targets=targets, padding_mask=mask, sample_weight=mask.astype("float32")
    )
