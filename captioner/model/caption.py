"""What a captioner returns for an image."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Caption:
    """One caption with its probabilities."""

    text: str
    """The caption, without special tokens."""
    token_ids: tuple[int, ...]
    """The prompt's tokens and the generated ones, the end token included."""
    token_log_probs: tuple[float, ...]
    """The model's natural log-probability of each of them; 0 for those of a prompt that is not scored."""
    log_prob: float
    """Their sum."""
    score: float
    """What captions of an image are ranked by: `log_prob` divided by a power of the length; higher is
    better."""
    confidence: float | None = None
    """Estimated probability that people would find it a good caption, by its scored tokens, see `Calibration`; None without a
    calibration."""
