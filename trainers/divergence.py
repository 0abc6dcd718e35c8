"""A training whose loss or weights are no longer numbers."""

import keras

WAY_OUT = (
    "The last checkpoint is intact. Begin a new run with a lower --learning-rate or --clip-norm, or with "
    "--dtype float32."
)


class DivergenceError(ValueError):
    """The loss is no longer a number."""


def require_finite_weights(model: keras.Model, when: str) -> None:
    """Refuses weights that are no numbers: an update that spoils them shows in the loss of the next step alone.

    Args:
        model: its trainable variables are looked at.
        when: for people: after which step.
    """
    for variable in model.trainable_variables:
        if not keras.ops.convert_to_numpy(keras.ops.all(keras.ops.isfinite(variable.value))):
            raise DivergenceError(
                f"The weights of {variable.path} are no longer numbers after {when}. {WAY_OUT}"
            )
