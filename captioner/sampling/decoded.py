"""What decoding returns. Axes: B images, N captions per image, L text positions."""

from typing import Any, NamedTuple


class Decoded(NamedTuple):
    """The captions of a batch of images, best first."""

    token_ids: Any
    """int32 `(B, N, L)`: the prompt, the caption with its end token, padding."""
    token_log_probs: Any
    """float32 `(B, N, L)`: the model's own log-probability of each token that is scored; 0 elsewhere."""
    log_probs: Any
    """float32 `(B, N)`: their sum."""
    scores: Any
    """float32 `(B, N)`: what the captions are ranked by; see `DecodingSettings`."""
    lengths: Any
    """int32 `(B, N)`: tokens that are scored: generated ones, the end token included, and with `score_prompt` the prompt's."""
