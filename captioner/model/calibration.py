"""How sure a caption may be: its log-probability and length as the probability that it is a good one."""

import dataclasses
import json
import math
import os
from pathlib import Path

from captioner.files import atomic_path
from captioner.model.presets import resolve_preset

TASK_FILE = "task.json"  # KerasHub's name for the configuration of a task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
    """A logistic curve, fitted where captions can be compared with people's; see `captioner.evaluation.calibration`.

    The confidence of a caption is the estimated probability that its CIDEr against five people's captions, say, is at least
    `min_cider`. It holds for images and decoding like those that it was fitted on.

    Call arguments:
        log_prob: float. The log-probability of a caption.
        num_tokens: int. The tokens that it is the sum of, the end token included.

    Returns:
        float from 0 to 1.

    References:
        - Platt, 1999, Probabilistic outputs for support vector machines, section 2
    """

    min_cider: float
    """A caption counts as good from this CIDEr on."""
    bias: float
    """Where the curve lies."""
    mean_log_prob_weight: float
    """Weight of the log-probability of a token, on average."""
    num_tokens_weight: float
    """Weight of the number of tokens."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if not math.isfinite(getattr(self, field.name)):
                raise ValueError(f"`{field.name}` must be finite; received {getattr(self, field.name)}.")

    def __call__(self, log_prob: float, num_tokens: int) -> float:
        mean_log_prob = log_prob / max(num_tokens, 1)
        logit = self.bias + self.mean_log_prob_weight * mean_log_prob + self.num_tokens_weight * num_tokens
        return 1.0 / (1.0 + math.exp(min(-logit, 700.0)))


def save_calibration(preset: str | os.PathLike, calibration: Calibration) -> Path:
    """Writes a calibration into a preset's folder in one step; its weights stay as they are.

    Args:
        preset: as for `ImageCaptioner.from_preset`, but a folder: a bundled preset, a folder or a training run.
        calibration: `Calibration`.

    Returns:
        The file that was changed.

    Raises:
        FileNotFoundError: If there is no such preset, or it was saved without its task.
        ValueError: If the preset is no folder.
    """
    folder = resolve_preset(preset)
    if "://" in folder:
        raise ValueError(
            f"`preset` must be a folder to be written to; received {folder!r}. Download it first."
        )
    path = Path(folder) / TASK_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no {TASK_FILE}: save the whole captioner with `save_to_preset`."
        )
    content = json.loads(path.read_text(encoding="utf-8"))
    content["config"]["calibration"] = dataclasses.asdict(calibration)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=4), encoding="utf-8")
    return path
