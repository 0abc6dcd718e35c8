"""Updates of two weights, `encoder` and `decoder`, of shape (2,), by our optimizer on the backend at hand.

As a program: reads `[changes of the settings by name, gradients]` as JSON from standard input, prints the values by name.
"""

import json
import sys
from pathlib import Path

import keras
import numpy as np

from trainers.optimization import build_optimizer
from trainers.settings import TrainSettings

PARTS = {"encoder": "image_encoder", "decoder": "decoder"}


def updates(changes: dict, gradients) -> tuple[list, list]:
    """Values of both weights, which begin as ones, after each step, and their moving averages if there are any.

    Args:
        changes: settings that differ from the defaults.
        gradients: float array `(steps, 2, 2)`.
    """
    settings = TrainSettings(run_dir=Path("run"), train_parts=tuple(PARTS.values()), **changes)
    weights = [keras.Variable(np.ones(2, "float32"), name=name) for name in PARTS]
    optimizer = build_optimizer(settings, len(gradients), lambda variable: PARTS[variable.name])
    optimizer.build(weights)
    scale = 1.0
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        scale = optimizer.initial_scale
    step = _jax_step(optimizer, weights) if keras.config.backend() == "jax" else _step(optimizer, weights)
    inner, values, averages = getattr(optimizer, "inner_optimizer", optimizer), [], []
    for gradient in np.asarray(gradients, "float32") * scale:
        step(list(gradient))
        values.append([np.array(weight.value).tolist() for weight in weights])
        if inner.use_ema:
            averages.append([np.array(a.value).tolist() for a in inner._model_variables_moving_average])
    return values, averages


def _step(optimizer, weights):
    import tensorflow as tf

    return tf.function(lambda gradients: optimizer.apply(gradients, weights))


def _jax_step(optimizer, weights):
    """As the trainer of Keras does it there: without state, compiled."""
    import jax

    apply = jax.jit(optimizer.stateless_apply)

    def step(gradients):
        results = apply([v.value for v in optimizer.variables], gradients, [v.value for v in weights])
        for variables, values in zip((weights, optimizer.variables), results, strict=True):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)

    return step


if __name__ == "__main__":
    cases, gradients = json.load(sys.stdin)
    print(json.dumps({name: updates(changes, gradients) for name, changes in cases.items()}))
