"""AdamW whose rate and weight decay differ from part to part."""

from collections.abc import Callable

import keras


class PartAdamW(keras.optimizers.AdamW):
    """AdamW that multiplies the rate of each variable, and decays each by its own share.

    A variable of rate scale `s` and decay `d` loses `d * s * rate` of itself, and then takes Adam's step at the rate `s * rate`:
    a scale acts on both, as a smaller rate would (Loshchilov and Hutter, 2019, algorithm 2).

    Args:
        learning_rate: float or schedule.
        rate_scale: function from a Keras variable to a float.
        weight_decay_of: function from a Keras variable to a float.
        **kwargs: of `keras.optimizers.AdamW`, without `amsgrad`.
    """

    def __init__(
        self, learning_rate, rate_scale: Callable[..., float], weight_decay_of: Callable[..., float], **kwargs
    ):
        super().__init__(learning_rate, weight_decay=0.0, **kwargs)
        self._rate_scale, self._weight_decay_of = rate_scale, weight_decay_of

    def build(self, variables):
        if not self.built:
            super().build(variables)
            self._scales = [float(self._rate_scale(variable)) for variable in variables]
            self._decays = [float(self._weight_decay_of(variable)) for variable in variables]

    def _apply_weight_decay(self, variables):
        """Nothing: Keras knows one decay for all, so that it takes place in `update_step`."""

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        rate = keras.ops.cast(learning_rate, variable.dtype)
        if self._scales[index] != 1.0:
            rate = rate * keras.ops.cast(self._scales[index], variable.dtype)
        if self._decays[index]:
            decay = keras.ops.cast(self._decays[index], variable.dtype)
            self.assign(variable, variable * (1 - decay * rate))
        if keras.config.backend() == "tensorflow":
            self._adam_in_one_pass(gradient, variable, rate)
        else:  # XLA makes one pass of it
            super().update_step(gradient, variable, rate)

    def _adam_in_one_pass(self, gradient, variable, rate):
        """As Keras's ten operations, whose results would go through memory."""
        import tensorflow as tf

        index = self._get_variable_index(variable)
        beta_1, beta_2 = (tf.cast(beta, rate.dtype) for beta in (self.beta_1, self.beta_2))
        step = tf.cast(self.iterations + 1, rate.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].handle,
            v=self._velocities[index].handle,
            beta1_power=beta_1**step,
            beta2_power=beta_2**step,
            lr=rate,
            beta1=beta_1,
            beta2=beta_2,
            epsilon=tf.cast(self.epsilon, rate.dtype),
            grad=tf.cast(tf.convert_to_tensor(gradient), rate.dtype),
        )
