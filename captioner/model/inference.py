"""Compiles a function of tensors that reads a model's variables, on each backend."""

from collections.abc import Callable

import keras


def compile_inference(model: keras.Model, function: Callable) -> Callable:
    """Returns `function` compiled for repeated calls; it may read the variables of `model`, and must not
    write them.

    TensorFlow traces a graph, JAX compiles with the variables as arguments (so that a later `load_weights` is
    seen), PyTorch runs without gradients.

    Args:
        model: the model whose variables the function reads.
        function: takes tensors or arrays and returns a nest of tensors.

    Returns:
        A function of the same arguments.
    """
    backend = keras.config.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.function(function, autograph=False, reduce_retracing=True)
    if backend == "jax":
        return _compile_jax(model, function)
    if backend == "torch":
        import torch

        return torch.no_grad()(function)
    return function


def _compile_jax(model, function):
    import jax

    @jax.jit
    def stateless(values, *arguments):
        with keras.StatelessScope(state_mapping=zip(model.variables, values, strict=True)):
            return function(*arguments)

    def compiled(*arguments):
        return stateless([variable.value for variable in model.variables], *arguments)

    return compiled
