"""What the settings of a training run must keep to."""

import math
from collections.abc import Callable

from trainers.stages import stage_settings, stages_of

_LEAST = {
    "epochs": 1,
    "checkpoint_minutes": 0,
    "checkpoint_steps": 0,
    "keep_checkpoints": 1,
    "batch_size": 1,
    "captions_per_image": 1,
    "num_samples": 1,
    "gradient_accumulation_steps": 1,
    "validation_beams": 1,
    "max_length": 2,
    "train_tokenizer": 1,
    "image_size_px": 1,
    "hidden_dim": 1,
    "num_heads": 1,
    "num_image_layers": 0,
    "num_layers": 1,
    "num_validation_captions": 0,
    "patience": 0,
    "seed": 0,
    "num_processes": 1,
    "process_index": 0,
    "process_timeout_s": 1,
}
_SHARES = (
    "cross_entropy_weight",
    "dropout",
    "label_smoothing",
    "ema_momentum",
    "warmup_fraction",
)
_FIXED_BY_GPT2 = ("hidden_dim", "num_heads", "num_layers", "train_tokenizer", "tokenizer", "preset")
"""Settings that a pretrained decoder decides."""


def check_settings(settings) -> None:
    """Refuses settings that are out of range or contradict each other.

    Args:
        settings: TrainSettings.

    Raises:
        ValueError: With the setting, its rule and the value received.
    """
    if stages_of(settings):
        stage_settings(settings)  # each of them is checked like a run, but for LoRA, which is the run's
        _check_lora(settings)
        return
    for name, least in _LEAST.items():
        require(settings, name, lambda value, least=least: value >= least, f"at least {least}")
    for name in ("learning_rate", "lora_alpha"):
        require(settings, name, lambda value: 0 < value < math.inf, "above 0")
    for name in ("weight_decay", "clip_norm"):
        require(settings, name, lambda value: 0 <= value < math.inf, "at least 0")
    _check_parts(settings, "rate_scales", lambda value: 0 < value < math.inf, "above 0")
    _check_parts(settings, "weight_decays", lambda value: 0 <= value < math.inf, "at least 0")
    for name in _SHARES:
        require(settings, name, lambda value: 0 <= value < 1, "at least 0 and below 1")
    require(settings, "final_learning_rate_fraction", lambda value: 0 <= value <= 1, "from 0 to 1")
    if settings.frozen_until is not None and "image_encoder" not in settings.train_parts:
        raise ValueError(
            f"`frozen_until` needs image_encoder among the train_parts; received "
            f"frozen_until={settings.frozen_until!r} and train_parts={settings.train_parts}."
        )
    if not 0 <= settings.max_bad_fraction <= 1:
        raise ValueError(f"`max_bad_fraction` must be from 0 to 1; received {settings.max_bad_fraction}.")
    if settings.validation_images is not None and settings.validation_csv is None:
        raise ValueError(
            f"`validation_images` needs a `validation_csv`; received {settings.validation_images} without one."
        )
    _ = settings.augmentation  # refuses what is out of range
    if settings.objective == "self_critical":
        _check_self_critical(settings)
    _check_lora(settings)
    _check_processes(settings)
    for name in _FIXED_BY_GPT2 if settings.gpt2 is not None else ():
        if (value := getattr(settings, name)) != getattr(type(settings), name):
            raise ValueError(
                f"`{name}` is fixed by the pretrained GPT-2; received {name}={value} with gpt2={settings.gpt2}. "
                "Leave one of the two out."
            )
    if not settings.train_parts:
        raise ValueError("`train_parts` must name at least one part; received none.")


def _check_lora(settings) -> None:
    require(settings, "lora_rank", lambda value: value >= 0, "at least 0")
    if not settings.lora_rank:
        for name in ("lora_alpha", "lora_mlp"):
            if (value := getattr(settings, name)) != getattr(type(settings), name):
                raise ValueError(f"`{name}` belongs to `lora_rank`, which is 0; received {name}={value}.")
    if settings.lora_rank and not settings.lora_parts:
        raise ValueError(
            "`lora_rank` needs pretrained weights to stay as they are: a `preset`, or a `gpt2` with decoder among the "
            f"train_parts; received preset={settings.preset}, gpt2={settings.gpt2} and train_parts={settings.train_parts}."
        )


def _check_self_critical(settings) -> None:
    if settings.preset is None:
        raise ValueError(
            "`objective`=self_critical needs a captioner that writes sentences already: give its `preset`; received None."
        )
    if settings.baseline == "mean" and settings.num_samples < 2:
        raise ValueError(
            "`num_samples` must be at least 2 with baseline=mean, the mean of the other samples; received 1."
        )


def _check_parts(settings, name: str, holds: Callable[[float], bool], rule: str) -> None:
    """Refuses numbers of parts that are not trained, and numbers that break their rule."""
    for part, value in getattr(settings, name).items():
        if part not in settings.train_parts:
            raise ValueError(
                f"`{name}` must name parts that are trained ({', '.join(settings.train_parts)}); received {part}={value}."
            )
        if not holds(value):
            raise ValueError(f"`{name}` must be {rule}; received {part}={value}.")


def _check_processes(settings) -> None:
    if settings.process_index >= settings.num_processes:
        raise ValueError(
            f"`process_index` must be below num_processes={settings.num_processes}; received {settings.process_index}."
        )
    if settings.num_processes > 1 and settings.coordinator is None:
        raise ValueError(
            f"`coordinator` must be the address of the process 0, as node1:12345, with num_processes={settings.num_processes}; "
            "received None."
        )


def require(settings, name: str, holds: Callable[[float], bool], rule: str) -> None:
    """Refuses a number that breaks its rule; None stands for the architecture's own."""
    value = getattr(settings, name)
    if value is not None and not holds(value):
        raise ValueError(f"`{name}` must be {rule}; received {name}={value}.")
