"""Loss, optimizer and schedule. Axes: B images, G texts per image, T text positions, V vocabulary."""

from collections.abc import Callable

import keras
from keras import ops

from trainers.part_optimizer import PartAdamW
from trainers.settings import TrainSettings

WITHOUT_DECAY = ("bias", "gamma", "beta", "position")
"""Words in the names of variables that do not decay."""


@keras.saving.register_keras_serializable("captioner")
class CaptionLoss(keras.losses.Loss):
    """Cross-entropy of the next token with label smoothing, averaged over the real tokens of a batch.

    Args:
        label_smoothing: float. Share of the target probability that is spread evenly over the vocabulary.
        reduction: str. "sum" is for weights that hold the average already.

    Call arguments:
        y_true: int tensor `(B, G, T)`.
        y_pred: float tensor `(B, G, T, V)`, logits.
        sample_weight: float tensor `(B, G, T)`; 0 where there is no target.

    Returns:
        float32 scalar, in nats per token.

    References:
        - [Szegedy et al., 2016](https://arxiv.org/abs/1512.00567), section 7
    """

    def __init__(
        self,
        label_smoothing: float = 0.0,
        reduction: str = "mean_with_sample_weight",
        name: str = "caption_loss",
        **kwargs,
    ):
        super().__init__(name=name, reduction=reduction, **kwargs)
        self.label_smoothing = label_smoothing

    def call(self, y_true, y_pred):
        logits = ops.cast(y_pred, "float32")
        loss = ops.sparse_categorical_crossentropy(y_true, logits, from_logits=True)
        if self.label_smoothing:
            uniform = ops.logsumexp(logits, axis=-1) - ops.mean(logits, axis=-1)
            loss = (1.0 - self.label_smoothing) * loss + self.label_smoothing * uniform
        return loss

    def get_config(self):
        return {
            "label_smoothing": self.label_smoothing,
            "reduction": self.reduction,
            "name": self.name,
        }


def build_optimizer(
    settings: TrainSettings, num_steps: int, part_of: Callable[..., str | None] = lambda variable: None
) -> keras.optimizers.Optimizer:
    """AdamW with warm-up and cosine decay over `num_steps` batches; bare of decay are norms, biases, positions.

    Args:
        settings: TrainSettings.
        num_steps: int. Batches of the whole run, those included that only accumulate gradients: Keras looks
            up the schedule by batches, not by updates.
        part_of: function from a Keras variable to its part, for the rates and weight decays of parts; by default it has none.
    """
    warmup = round(num_steps * settings.warmup_fraction)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else settings.learning_rate,
        decay_steps=max(num_steps - warmup, 1),
        alpha=settings.final_learning_rate_fraction,
        warmup_target=settings.learning_rate if warmup else None,
        warmup_steps=warmup,
    )

    def weight_decay(variable) -> float:
        if any(word in variable.name for word in WITHOUT_DECAY):
            return 0.0
        return settings.weight_decays.get(part_of(variable), settings.weight_decay)

    optimizer = PartAdamW(
        schedule,
        rate_scale=lambda variable: settings.rate_scales.get(part_of(variable), 1.0),
        weight_decay_of=weight_decay,
        beta_2=0.98,
        global_clipnorm=settings.clip_norm or None,
        use_ema=settings.ema_momentum > 0,
        # Keras averages after each batch; over the batches of one update the momentum is the one asked for.
        ema_momentum=(settings.ema_momentum or 0.99) ** (1 / settings.gradient_accumulation_steps),
        ema_overwrite_frequency=None,
        gradient_accumulation_steps=(
            settings.gradient_accumulation_steps if settings.gradient_accumulation_steps > 1 else None
        ),
        name="adamw",
    )
    if settings.dtype == "mixed_float16":  # small gradients would be lost in float16
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer
