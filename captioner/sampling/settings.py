"""How captions are decoded: beam search, nucleus sampling or greedy, as frozen settings."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Greedy:
    """Takes the most likely token at each step."""

    max_length: int = 30
    """Most tokens of a caption, the end token included."""

    def __post_init__(self) -> None:
        _require_max_length(self.max_length)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BeamSearch:
    """Keeps the `num_beams` most likely unfinished captions at each step, and the best finished ones beside
    them."""

    num_beams: int = 5
    """Beams kept for each image (K)."""
    length_penalty: float = 0.7
    """Exponent of the length that divides the log-probability (Wu et al., 2016, section 7); 0 ranks by
    log-probability, larger values prefer longer captions."""
    max_length: int = 30
    """Most tokens of a caption, the end token included."""

    def __post_init__(self) -> None:
        _require_max_length(self.max_length)
        if self.num_beams < 1:
            raise ValueError(f"`num_beams` must be at least 1; received num_beams={self.num_beams}.")
        if not 0 <= self.length_penalty < float("inf"):
            raise ValueError(
                f"`length_penalty` must be 0 or more; received length_penalty={self.length_penalty}."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class NucleusSampling:
    """Draws each token from the smallest set of likely tokens whose probabilities sum to `top_p` (Holtzman et
    al., 2020).

    The draws of an image depend on the seed and on the image alone, not on the batch that it is in.
    """

    top_p: float = 0.9
    """Probability mass of the tokens to draw from; 1 draws from all."""
    top_k: int = 0
    """Most tokens to draw from; 0 sets no limit."""
    temperature: float = 1.0
    """Divides the logits: below 1 sharpens the distribution, above 1 flattens it."""
    seed: int = 0
    """Seed of the draws: the same seed gives the same captions."""
    max_length: int = 30
    """Most tokens of a caption, the end token included."""

    def __post_init__(self) -> None:
        _require_max_length(self.max_length)
        if not 0 < self.top_p <= 1:
            raise ValueError(f"`top_p` must be above 0 and at most 1; received top_p={self.top_p}.")
        if self.top_k < 0:
            raise ValueError(f"`top_k` must be 0 (no limit) or more; received top_k={self.top_k}.")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"`temperature` must be above 0; received temperature={self.temperature}.")
        if self.seed < 0:
            raise ValueError(f"`seed` must be 0 or more; received seed={self.seed}.")


DecodingSettings = BeamSearch | NucleusSampling | Greedy


def _require_max_length(max_length: int) -> None:
    if max_length < 1:
        raise ValueError(f"`max_length` must be at least 1; received max_length={max_length}.")
