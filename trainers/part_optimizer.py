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
        self._last_update = None
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
        decay = keras.ops.cast(self._decays[index], variable.dtype) * rate if self._decays[index] else None
        if keras.config.backend() == "tensorflow":
            self._update_in_place(gradient, variable, rate, decay)
            return
        if decay is not None:
            self.assign(variable, variable * (1 - decay))
        super().update_step(gradient, variable, rate)  # XLA makes one pass of it

    def apply(self, grads, trainable_variables=None):
        self._last_update = None
        return super().apply(grads, trainable_variables)

    def _update_in_place(self, gradient, variable, rate, decay):
        """As Keras's operations, whose results would go through memory.

        Each variable waits for the one before it: decays need neither gradients nor each other, and TensorFlow would hold
        those of all variables, as large as the model, from the start of the step.
        """
        import tensorflow as tf

        index = self._get_variable_index(variable)
        before = [gradient] if self._last_update is None else [gradient, self._last_update]
        with tf.control_dependencies(before):
            if decay is not None:
                decayed = decay * tf.convert_to_tensor(variable)
                tf.raw_ops.AssignSubVariableOp(resource=variable.handle, value=decayed)
            beta_1, beta_2 = (tf.cast(beta, rate.dtype) for beta in (self.beta_1, self.beta_2))
            step = tf.cast(self.iterations + 1, rate.dtype)
            # None when it is run at once.
            self._last_update = tf.raw_ops.ResourceApplyAdam(
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
