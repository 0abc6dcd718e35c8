"""Stages of a run: which parts train one after the other, for how long, at which rate."""

import dataclasses
from typing import Any, Literal

Part = Literal["image_encoder", "image_blocks", "cross_attention", "decoder", "embeddings"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """What differs in a part of a run; what is left out is as in the run's own settings, which say what each means.

    A stage begins with the weights of the best epoch so far, a new optimizer and a new schedule.
    """

    epochs: int | None = None
    """Passes over the training images in this stage."""
    train_parts: tuple[Part, ...] | None = None
    """Parts that are trained."""
    frozen_until: str | None = None
    """Layer of the image encoder up to which it stays frozen."""
    learning_rate: float | None = None
    """Peak of this stage's schedule."""
    warmup_fraction: float | None = None
    """Share of this stage's steps in which the rate rises."""
    final_learning_rate_fraction: float | None = None
    """Rate at the end of this stage, as a share of its peak."""
    rate_scales: dict[Part, float] | None = None
    """Rates of single parts, as shares of the rate."""
    weight_decay: float | None = None
    """AdamW's."""
    weight_decays: dict[Part, float] | None = None
    """Weight decays of single parts."""
    clip_norm: float | None = None
    """Largest global norm of the gradient; 0 for any."""
    label_smoothing: float | None = None
    """Share of the target probability that is spread over the vocabulary."""
    ema_momentum: float | None = None
    """Momentum of the average of the weights."""
    gradient_accumulation_steps: int | None = None
    """Steps whose gradients are averaged."""
    captions_per_image: int | None = None
    """Captions of each image in a step."""
    patience: int | None = None
    """Ends this stage after so many epochs of it without a better CIDEr."""
    objective: Literal["cross_entropy", "self_critical"] | None = None
    """Such as self_critical in the last stage."""
    num_samples: int | None = None
    """self_critical: captions drawn for each image."""
    baseline: Literal["mean", "greedy"] | None = None
    """self_critical: what a drawn caption must beat."""
    cross_entropy_weight: float | None = None
    """self_critical: share of the loss that learns the given captions."""
    min_crop_area: float | None = None
    """Smallest share of a photo that a random crop keeps."""
    horizontal_flip: bool | None = None
    """Mirrors every second photo."""
    color_jitter: float | None = None
    """Largest relative change of brightness, contrast and saturation."""
    cache_features: bool | None = None
    """`train csv`: trains from stored features of what this stage freezes of the image encoder."""
    cache_views: int | None = None
    """`train csv`: views of each image among them."""

    @property
    def changes(self) -> dict[str, Any]:
        """What this stage says itself."""
        return {name: value for name, value in vars(self).items() if value is not None}


_TEXT: tuple[Part, ...] = ("image_blocks", "cross_attention", "decoder", "embeddings")
NAMED_STAGES: dict[str, tuple[Stage, ...]] = {
    # The order and the peak of VisionGPT2 (github.com/shreydan/VisionGPT2, trainer.py): what is fresh, then GPT-2, then all.
    "gpt2": (
        Stage(epochs=1, learning_rate=1e-4, train_parts=("image_blocks", "cross_attention")),
        Stage(epochs=1, learning_rate=1e-4, train_parts=_TEXT),
        Stage(
            epochs=3,
            learning_rate=1e-4,
            train_parts=("image_encoder", *_TEXT),
            rate_scales={"image_encoder": 0.1},
        ),
    )
}
"""Stages that `--stages` knows by name."""


def stages_of(settings) -> tuple[Stage, ...]:
    """The stages that a run has said, or if it has said nothing about them, those for a pretrained GPT-2 where it has one."""
    if settings.stages is not None:
        return settings.stages
    return () if settings.gpt2 is None else NAMED_STAGES["gpt2"]


def stage_settings(settings) -> tuple:
    """The settings of each stage of a run: those of the run with the changes of the stage.

    Args:
        settings: TrainSettings.

    Returns:
        TrainSettings of each stage, whose `epochs` say where it ends, counted through all stages; for a run without stages its
        settings alone.

    Raises:
        ValueError: If a stage cannot be followed; names its number.
    """
    stages = stages_of(settings)
    if not stages:
        return (settings,)
    _require_no_idle_settings(settings, stages)
    end, found = 0, []
    for number, stage in enumerate(stages, 1):
        try:
            in_stage = _in_stage(settings, stage, number)
        except ValueError as error:
            raise ValueError(f"stage {number} of {len(stages)}: {error}") from error
        end += in_stage.epochs
        found.append(dataclasses.replace(in_stage, epochs=end))
    return tuple(found)


def _in_stage(settings, stage: Stage, number: int):
    changes = stage.changes
    known = {field.name for field in dataclasses.fields(settings)}
    if unknown := sorted(changes.keys() - known):
        raise ValueError(f"`{unknown[0]}` is a setting of another trainer; received {changes[unknown[0]]}.")
    parts = changes.get("train_parts", settings.train_parts)
    for name in ("rate_scales", "weight_decays"):  # the run's, as far as they are about this stage
        of_run = {part: value for part, value in getattr(settings, name).items() if part in parts}
        changes.setdefault(name, of_run)
    changes.setdefault("frozen_until", settings.frozen_until if "image_encoder" in parts else None)
    if "image_encoder" in parts and changes["frozen_until"] is None and "cache_features" in known:
        changes.setdefault("cache_features", False)  # nothing of the image encoder keeps its features
    if changes.get("cache_features") is False:
        changes.setdefault("cache_views", 1)
    if number > 1:  # goes on from a captioner that the run has made, as from a preset
        changes |= {"preset": str(settings.run_dir), "gpt2": None}
    # Whether there is LoRA is decided once, when the captioner is built.
    no_lora = {"lora_rank": 0, "lora_alpha": type(settings).lora_alpha, "lora_mlp": False}
    return dataclasses.replace(settings, stages=(), **no_lora, **changes)


def _require_no_idle_settings(settings, stages: tuple[Stage, ...]) -> None:
    """Refuses a setting of the run that would change nothing: each stage overrides it, or trains no part that it is about."""
    trained = {part for stage in stages for part in stage.changes.get("train_parts", settings.train_parts)}
    of_parts = {name: getattr(settings, name) for name in ("rate_scales", "weight_decays")}
    of_parts["frozen_until"] = {"image_encoder": None} if settings.frozen_until else {}
    for name, parts in of_parts.items():
        if idle := sorted(set(parts) - trained):
            raise ValueError(
                f"`{name}` must be about parts that a stage trains ({', '.join(sorted(trained))}); received "
                f"{name}={getattr(settings, name)}, which is about {idle[0]}."
            )
    defaults = {
        field.name: field.default_factory() if field.default is dataclasses.MISSING else field.default
        for field in dataclasses.fields(settings)
        if field.name in Stage.__dataclass_fields__
    }
    for name, default in defaults.items():
        value = getattr(settings, name)
        if value != default and all(name in stage.changes for stage in stages):
            raise ValueError(
                f"`{name}` of the run is used by none of its {len(stages)} stages, as each has its own; received "
                f"{name}={value}. Leave it out, train without them by --stages none, or change them in the file of --config."
            )
