"""What decoding settings say as text, in the tokens of one tokenizer."""

import dataclasses

import numpy as np

from captioner.sampling.logit_processors import IMPOSSIBLE
from captioner.sampling.settings import DecodingSettings
from captioner.sampling.word_automaton import NEVER, WordAutomaton, automaton_of_words


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextControls:
    """The prompt and the words of `DecodingSettings` as tokens."""

    prompt_ids: tuple[int, ...]
    """The prompt, without the start token. Spaces at its end are left out: they belong to the next word."""
    words: WordAutomaton | None
    """The forbidden and required words, or None if there are none."""
    num_unscored: int
    """Tokens of the prompt that do not count in scores."""

    @classmethod
    def of(cls, settings: DecodingSettings, tokenizer) -> "TextControls":
        """Tokenizes the texts of `settings`.

        Raises:
            ValueError: If prompt and words contradict each other, or do not fit into `max_length`.
        """
        prompt_ids = tuple(tokenizer.encode_batch([settings.prompt.rstrip()])[0]) if settings.prompt else ()
        if len(prompt_ids) >= settings.max_length:
            raise ValueError(
                f"`prompt` must leave room for the caption; {settings.prompt!r} has {len(prompt_ids)} tokens, and "
                f"max_length={settings.max_length}. Raise `max_length`, or shorten the prompt."
            )
        words = None
        if settings.forbidden_words or settings.required_words:
            words = automaton_of_words(settings.required_words, settings.forbidden_words, tokenizer)
            _require_room(settings, words, prompt_ids)
        return cls(
            prompt_ids=prompt_ids, words=words, num_unscored=0 if settings.score_prompt else len(prompt_ids)
        )


def _require_room(settings: DecodingSettings, words: WordAutomaton, prompt_ids: tuple[int, ...]) -> None:
    needed = words.needed_behind(prompt_ids)
    if needed >= NEVER:
        raise ValueError(
            f"`prompt` must not hold a forbidden word; received prompt={settings.prompt!r} and "
            f"forbidden_words={settings.forbidden_words!r}."
        )
    if len(prompt_ids) + needed > settings.max_length:
        behind = f" behind the {len(prompt_ids)} of the prompt" if prompt_ids else ""
        raise ValueError(
            f"`max_length` must leave room for the required words, which need {needed} tokens{behind}; received "
            f"max_length={settings.max_length}. Raise it, or ask for fewer words."
        )


def require_possible(scores: np.ndarray) -> None:
    """Refuses decoded captions that the controls do not allow: scores `(B, N)`."""
    possible = (scores > IMPOSSIBLE / 2).sum(axis=1)
    if possible.size and (fewest := int(possible.min())) < scores.shape[1]:
        raise ValueError(
            f"`num_captions` must be at most {fewest} here: the controls leave no more captions for an image; received "
            f"num_captions={scores.shape[1]}. Raise `max_length` or `num_beams`, or relax the controls."
        )
