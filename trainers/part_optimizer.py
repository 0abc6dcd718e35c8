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
        self._last_update, self._numbers = None, {}
        self._rate_scale, self._weight_decay_of = rate_scale, weight_decay_of

    def build(self, variables):
        if not self.built:
            super().build(variables)
            self._scales = [float(self._rate_scale(variable)) for variable in variables]
            self._decays = [float(self._weight_decay_of(variable)) for variable in variables]

    def _apply_weight_decay(self, variables):
        """Nothing: Keras knows one decay for all, so that it takes place in `update_step`."""

    def _clip_gradients(self, grads):
        if keras.config.backend() != "tensorflow" or not self.global_clipnorm:
            return super()._clip_gradients(grads)
        import tensorflow as tf

        # The same norm, in one pass over each gradient where Keras's operations take two.
        return tf.clip_by_global_norm(grads, self.global_clipnorm)[0]

    def _all_reduce_sum_gradients(self, grads_and_vars):
        """Nothing: devices share a batch in `TowerModel`, and Keras's operation would wait for all gradients."""
        return grads_and_vars

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        self._last_update, self._numbers = None, {}
        # Last first, as gradients come: one that is used while the next is computed is held no longer.
        super()._backend_update_step(grads[::-1], trainable_variables[::-1], learning_rate)

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        scale, decay = self._scales[index], self._decays[index]
        if keras.config.backend() == "tensorflow":
            self._update_in_place(gradient, variable, learning_rate, scale, decay)
            return
        rate = keras.ops.cast(learning_rate, variable.dtype) * scale
        if decay:
            self.assign(variable, variable * (1 - decay * rate))
        super().update_step(gradient, variable, rate)  # XLA makes one pass of it

    def _update_in_place(self, gradient, variable, learning_rate, scale, decay):
        """As Keras's operations, whose results would go through memory.

        Each variable waits for its gradient and for the variable before: decays need neither gradients nor each other, and
        TensorFlow would hold those of all variables, as large as the model, from the start of the step.
        """
        import tensorflow as tf

        dtype, index = variable.dtype, self._get_variable_index(variable)

        def once(name, make):
            # Numbers that updates share are made once: a step's graph would be a quarter larger, and trace as much longer.
            if (name, dtype) not in self._numbers:
                self._numbers[name, dtype] = make()
            return self._numbers[name, dtype]

        def power(beta):
            return once(f"{beta} to the step", lambda: number(beta) ** tf.cast(self.iterations + 1, dtype))

        def number(value):
            return once(value, lambda: tf.constant(value, dtype))

        rate = once(("rate", scale), lambda: tf.cast(learning_rate, dtype) * scale)
        share = once(("decay", scale, decay), lambda: rate * decay)
        numbers = {
            "beta1_power": power(self.beta_1),
            "beta2_power": power(self.beta_2),
            "lr": rate,
            "beta1": number(self.beta_1),
            "beta2": number(self.beta_2),
            "epsilon": number(self.epsilon),
        }
        before = [gradient] if self._last_update is None else [gradient, self._last_update]
        with tf.control_dependencies(before):
            if decay:
                tf.raw_ops.AssignSubVariableOp(
                    resource=variable.handle, value=share * tf.convert_to_tensor(variable)
                )
            # None when it is run at once.
            self._last_update = tf.raw_ops.ResourceApplyAdam(
                var=variable.handle,
                m=self._momentums[index].handle,
                v=self._velocities[index].handle,
                grad=tf.cast(tf.convert_to_tensor(gradient), dtype),
                **numbers,
            )
