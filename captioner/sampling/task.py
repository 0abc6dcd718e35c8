"""One decoding task, as all samplers see it. Axes: B images, K rows of an image, R = B*K rows, L text positions, V
vocabulary."""

import dataclasses
from typing import Any

from keras import ops

from captioner.sampling import logit_processors
from captioner.sampling.settings import DecodingSettings
from captioner.sampling.word_automaton import WordAutomaton


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What is given, what is wanted, and by which rules."""

    prompt: Any
    """int32 tensor `(B, L)`; what `prompt_mask` does not cover is to be filled."""
    prompt_mask: Any
    """bool tensor `(B, L)`; True = given."""
    first_index: Any
    """int. The first position to fill in at least one image."""
    end_token_ids: tuple[int, ...]
    """Tokens that finish a caption; may be empty."""
    pad_token_id: int
    """Fills what follows the end."""
    settings: DecodingSettings
    num_captions: int
    """Captions wanted for each image (N)."""
    num_given: int | None = None
    """No position from here on is given, in any image; None if that is not known."""
    words: WordAutomaton | None = None
    """The forbidden and required words of the settings, as tokens; looked for from `first_index` on."""
    uniforms: Any = None
    """float32 tensor `(N, L)` or `(B, N, L)` in [0, 1): what nucleus sampling draws with."""

    @property
    def length(self) -> int:
        """Text positions L."""
        return self.prompt.shape[1]

    @property
    def num_images(self):
        """B, which may be a tensor."""
        return ops.shape(self.prompt)[0]

    @property
    def may_be_given(self) -> bool:
        """Whether a position from `first_index` on may be given."""
        return self.num_given is None or self.num_given > self.first_index

    def given(self, index):
        """The tokens of a position, and whether they are given: int32 `(B,)` and bool `(B,)`."""
        index = ops.minimum(index, self.length - 1)
        return ops.take(self.prompt, index, axis=1), ops.take(self.prompt_mask, index, axis=1)

    def num_unscored(self):
        """Positions of each image that count neither as length nor in the score: int32 `(B,)`."""
        num_given = ops.sum(ops.cast(self.prompt_mask, "int32"), axis=1)
        if self.settings.score_prompt:
            return ops.zeros_like(num_given) + ops.cast(self.first_index, "int32")
        return num_given

    def blank(self):
        """The prompts, padded: int32 `(B, L)`."""
        return ops.where(self.prompt_mask, self.prompt, ops.cast(self.pad_token_id, self.prompt.dtype))

    def is_end(self, tokens):
        """Whether tokens of any shape finish a caption."""
        found = ops.zeros_like(tokens, dtype="bool")
        for end_token_id in self.end_token_ids:
            found = ops.logical_or(found, tokens == end_token_id)
        return found

    def control(self, scores, token_ids, index, word_states=None):
        """Applies what all samplers share to the scores of the next token.

        Args:
            scores: float32 tensor `(R, V)`, logits or log-probabilities.
            token_ids: int tensor `(R, L)`.
            index: int. The position to fill.
            word_states: int tensor `(R,)`, where the task has `words`.

        Returns:
            float32 `(R, V)`; what is ruled out has `IMPOSSIBLE`.
        """
        settings, ends = self.settings, self.end_token_ids
        if settings.repetition_penalty != 1.0:
            scores = logit_processors.penalise_repetition(
                scores, token_ids, index, settings.repetition_penalty, ends
            )
        if settings.no_repeat_ngram_size:
            fresh = logit_processors.ban_repeated_ngrams(
                scores, token_ids, index, settings.no_repeat_ngram_size, ends
            )
            if self.words is not None and self.words.has_required:
                # Where positions run out, a required word may repeat tokens.
                urgent = self.words.needed(word_states) >= self.length - index
                fresh = ops.where(urgent[:, None], scores, fresh)
            scores = fresh
        if settings.min_length:
            scores = logit_processors.ban_until(scores, index, settings.min_length, ends)
        if self.words is not None:
            allowed = self.words.allowed(word_states, self.length - 1 - index)
            scores = logit_processors.keep_classes(scores, allowed, self.words.token_classes)
        return scores


def write(x, index, values):
    """Sets position `index` of `(..., L)` to values `(...)`; none, if `index` is L."""
    here = ops.arange(x.shape[-1]) == index
    return ops.where(here, ops.cast(values, x.dtype)[..., None], x)


def take_rows(x, rows):
    """Of each image the chosen rows: `(B, K, ...)` and int `(B, M)` -> `(B, M, ...)`."""
    if len(x.shape) == 3:
        rows = ops.broadcast_to(rows[:, :, None], (*ops.shape(rows), x.shape[2]))
    return ops.take_along_axis(x, rows, axis=1)


def repeat_rows(x, count: int):
    """`(B, ...)` -> `(B, count, ...)`."""
    return ops.repeat(x[:, None], count, axis=1)


def merge_rows(x):
    """`(B, K, ...)` -> `(B*K, ...)`."""
    return ops.reshape(x, (-1, *x.shape[2:]))
