"""How captions are decoded: the one settings dataclass of all samplers."""

import dataclasses
import math
from typing import Literal

MOST_REQUIRED_WORDS = 8
"""Each required word doubles what the search keeps track of."""
CONTRASTIVE_CANDIDATES = 4
"""Candidates of contrastive search where `top_k` is not given."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodingSettings:
    """How captions are decoded; a field that the chosen sampler does not read must be left at its default.

    The log-probabilities of a caption are always the model's own. What ranks the captions of an image is their score: with
    beam search the log-probability after `repetition_penalty`, normalised by `length_penalty`; otherwise the mean
    log-probability of a token. No control applies to the tokens of a prompt, and none keeps a caption from ending
    but `min_length` and `required_words`.

    References:
        - `repetition_penalty`: [Keskar et al., 2019](https://arxiv.org/abs/1909.05858), section 4.1
        - `no_repeat_ngram_size`: [Paulus et al., 2018](https://arxiv.org/abs/1705.04304), section 2.5
        - `length_penalty`: [Wu et al., 2016](https://arxiv.org/abs/1609.08144), section 7
        - `num_beam_groups`: [Vijayakumar et al., 2018](https://arxiv.org/abs/1610.02424), Hamming diversity
        - `required_words`: [Post & Vilar, 2018](https://arxiv.org/abs/1804.06609), section 3
        - `top_p`: [Holtzman et al., 2020](https://arxiv.org/abs/1904.09751), section 3.1
        - `penalty_alpha`: [Su et al., 2022](https://arxiv.org/abs/2202.06417), section 3.2
    """

    # The help of a flag is the string below its field, on one line.
    sampler: Literal["beam", "nucleus", "greedy", "contrastive"] = "beam"
    """Search the likeliest captions, draw captions, take the likeliest token, or the likeliest that is new."""
    prompt: str = ""
    """Text that each caption starts with; it is part of the caption."""
    score_prompt: bool = False
    """Whether the prompt's tokens count in log-probability, length and score."""
    max_length: int = 30
    """Most tokens of a caption, the prompt and the end token included."""
    min_length: int = 0
    """Fewest tokens of a caption, the prompt and the end token included."""
    no_repeat_ngram_size: int = 0
    """No sequence of so many tokens comes twice in a caption; 0 allows all."""
    repetition_penalty: float = 1.0
    """Above 1 makes tokens less likely that the caption already has."""
    forbidden_words: tuple[str, ...] = ()
    """Words or phrases that no caption contains, in lower or upper case, in the tokens that the tokenizer writes them with."""
    required_words: tuple[str, ...] = ()
    """Words or phrases that each caption contains, in any order, in lower or upper case."""
    num_beams: int = 5
    """Beam search: unfinished captions kept at each step (K)."""
    length_penalty: float = 0.7
    """Beam search: exponent of the length that divides the log-probability; larger prefers longer captions."""
    early_stopping: Literal["exact", "likely", "first"] = "exact"
    """Beam search: stop when no better caption can come, when none seems likely, or with the first `num_beams`."""
    num_beam_groups: int = 1
    """Beam search: groups that the beams are divided into; later groups avoid what earlier ones say."""
    diversity_penalty: float = 0.0
    """Beam search in groups: log-probability that a token loses for each beam of an earlier group that chose it."""
    top_p: float = 0.9
    """Nucleus sampling: probability mass of the tokens to draw from; 1 draws from all."""
    top_k: int | None = None
    """Nucleus sampling: most tokens to draw from; all if not given. Contrastive search: candidates; 4 if not given."""
    min_p: float = 0.0
    """Nucleus sampling: least probability of a token, as a share of the likeliest one's."""
    temperature: float = 1.0
    """Nucleus sampling: below 1 is safer, above 1 more surprising."""
    seed: int = 0
    """Nucleus sampling: the same seed gives the same captions."""
    penalty_alpha: float = 0.6
    """Contrastive search: weight of being unlike what the caption already says; 0 is greedy."""

    def __post_init__(self) -> None:
        _require(self.sampler in SAMPLERS, self, "sampler", f"one of {', '.join(SAMPLERS)}")
        rules = ("exact", "likely", "first")
        _require(self.early_stopping in rules, self, "early_stopping", "exact, likely or first")
        _require(self.max_length >= 1, self, "max_length", "at least 1")
        _require(
            0 <= self.min_length <= self.max_length,
            self, "min_length", f"from 0 to max_length={self.max_length}",
        )  # fmt: skip
        _require(self.no_repeat_ngram_size >= 0, self, "no_repeat_ngram_size", "0 (allow all) or more")
        _require(0 < self.repetition_penalty < math.inf, self, "repetition_penalty", "above 0")
        _require(self.num_beams >= 1, self, "num_beams", "at least 1")
        _require(0 <= self.length_penalty < math.inf, self, "length_penalty", "0 or more")
        _require(
            self.num_beam_groups >= 1 and self.num_beams % self.num_beam_groups == 0,
            self, "num_beam_groups", f"a divisor of num_beams={self.num_beams}",
        )  # fmt: skip
        _require(0 <= self.diversity_penalty < math.inf, self, "diversity_penalty", "0 or more")
        _require(
            (self.diversity_penalty > 0) == (self.num_beam_groups > 1),
            self, "diversity_penalty", f"above 0 with several beam groups, and 0 with one; there are {self.num_beam_groups}",
        )  # fmt: skip
        _require(0 < self.top_p <= 1, self, "top_p", "above 0 and at most 1")
        _require(self.top_k is None or self.top_k >= 1, self, "top_k", "at least 1, or None")
        _require(0 <= self.min_p < 1, self, "min_p", "0 or more and below 1")
        _require(0 < self.temperature < math.inf, self, "temperature", "above 0")
        _require(self.seed >= 0, self, "seed", "0 or more")
        _require(0 <= self.penalty_alpha <= 1, self, "penalty_alpha", "from 0 to 1")
        self._require_words()
        self._require_own_fields()

    def to_dict(self) -> dict:
        """The fields that the sampler reads."""
        values = dataclasses.asdict(self)
        return {name: v for name, v in values.items() if self.sampler in FIELD_SAMPLERS.get(name, SAMPLERS)}

    def _require_words(self) -> None:
        for name in ("forbidden_words", "required_words"):
            words = getattr(self, name)
            if isinstance(words, str):
                raise ValueError(
                    f"`{name}` must be a tuple of words; received {name}={words!r}. Write ({words!r},)."
                )
            object.__setattr__(self, name, tuple(words))  # a list could not be the key of a compiled function
            _require(all(word.strip() for word in words), self, name, "words, not empty")
        number = len(self.required_words)
        _require(number <= MOST_REQUIRED_WORDS, self, "required_words", f"at most {MOST_REQUIRED_WORDS}")
        _require(
            self.num_beam_groups == 1 or not number,
            self, "required_words", f"left out with num_beam_groups={self.num_beam_groups}",
        )  # fmt: skip

    def _require_own_fields(self) -> None:
        for field in dataclasses.fields(self):
            owners = FIELD_SAMPLERS.get(field.name, SAMPLERS)
            if self.sampler not in owners and getattr(self, field.name) != field.default:
                raise ValueError(
                    f"`{field.name}` belongs to sampler={' or '.join(map(repr, owners))}; received "
                    f"{field.name}={getattr(self, field.name)!r} with sampler={self.sampler!r}. Leave one of them out."
                )


SAMPLERS = ("beam", "nucleus", "greedy", "contrastive")
FIELD_SAMPLERS = {
    **dict.fromkeys(("num_beams", "length_penalty", "early_stopping"), ("beam",)),
    **dict.fromkeys(("num_beam_groups", "diversity_penalty"), ("beam",)),
    **dict.fromkeys(("top_p", "min_p", "temperature", "seed"), ("nucleus",)),
    "top_k": ("nucleus", "contrastive"),
    "penalty_alpha": ("contrastive",),
}
"""The samplers that read a field; what is not here, all read."""


def _require(holds: bool, settings: DecodingSettings, name: str, rule: str) -> None:
    if not holds:
        raise ValueError(f"`{name}` must be {rule}; received {name}={getattr(settings, name)!r}.")
