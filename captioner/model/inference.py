"""Runs a model fast: compiled on each backend, and in bfloat16 where that is fast."""

import collections
from collections.abc import Callable
from pathlib import Path

import keras

CALLS_BEFORE_XLA = 8
"""Captions are decoded so often with TensorFlow's own operations before XLA compiles the loop for good: about what its second
or two are worth."""


def compile_inference(model: keras.Model, function: Callable, *, xla_after: int | None = None) -> Callable:
    """Returns `function` compiled for repeated calls; it may read the variables of `model`, and must not
    write them.

    TensorFlow traces one graph for all numbers of rows of the first argument, which may be a nest of tensors, so that the last,
    short batch of a folder is not a second trace; and another for a single row, as one photo shall not wait for a graph that
    serves many, which takes a third longer to trace. JAX compiles once for each shape, with the variables as arguments, so
    that a later `load_weights` is seen. PyTorch runs without gradients.

    Args:
        model: the model whose variables the function reads.
        function: takes nests of tensors or arrays and returns a nest of tensors.
        xla_after: optional int. On a processor, TensorFlow has XLA compile the function for a shape that has come so often. For
            decoding, many small operations again and again, that takes a second or two, and is up to five times faster then;
            convolutions would be ten times slower. None: never.

    Returns:
        A function of the same arguments.
    """
    backend = keras.config.backend()
    if backend == "tensorflow":
        return _compile_tensorflow(function, xla_after)
    if backend == "jax":
        return _compile_jax(model, function)
    if backend == "torch":
        import torch

        return torch.no_grad()(function)
    return function


def has_fast_bfloat16(cpu_info: str | None = None) -> bool:
    """Whether matrix products in bfloat16 are faster than in float32 here: on a GPU, or by the processor's instructions.

    Args:
        cpu_info: the text of `/proc/cpuinfo`; read if not given. Where there is no such file the answer is no.
    """
    if cpu_info is None:
        if keras.distribution.list_devices("gpu"):
            return True
        path = Path("/proc/cpuinfo")
        cpu_info = path.read_text() if path.is_file() else ""
    # x86: AVX-512 BF16 or AMX; ARM: BF16. Elsewhere bfloat16 is emulated, and slower than float32.
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(cpu_info.split()))


def _compile_tensorflow(function, xla_after: int | None):
    import tensorflow as tf

    traced, num_calls = {}, collections.Counter()
    if tf.config.list_physical_devices("GPU"):
        xla_after = None

    def of_any_length(tensor):
        return tf.TensorSpec((None, *tensor.shape[1:]) if tensor.shape.rank else (), tensor.dtype)

    def shapes(nest):
        return tuple((leaf.dtype, tuple(leaf.shape)) for leaf in tf.nest.flatten(nest))

    def trace(arguments):
        specs = tf.nest.map_structure(lambda tensor: tf.TensorSpec(tensor.shape, tensor.dtype), arguments)
        if tf.nest.flatten(arguments)[0].shape[0] != 1:
            specs[0] = tf.nest.map_structure(of_any_length, arguments[0])
        key = shapes(specs)
        if key not in traced:
            traced[key] = tf.function(function, input_signature=specs, autograph=False)
        return traced[key]

    @tf.function(autograph=False, jit_compile=True)
    def by_xla(*arguments):
        return trace(list(arguments))(*arguments)

    def call(*arguments):
        arguments = tf.nest.map_structure(tf.convert_to_tensor, list(arguments))
        key = shapes(arguments)
        num_calls[key] += 1
        has_come_often = xla_after is not None and num_calls[key] > xla_after
        return by_xla(*arguments) if has_come_often else trace(arguments)(*arguments)

    return call


def _compile_jax(model, function):
    import jax

    @jax.jit
    def stateless(values, *arguments):
        with keras.StatelessScope(state_mapping=zip(model.variables, values, strict=True)):
            return function(*arguments)

    def compiled(*arguments):
        return stateless([variable.value for variable in model.variables], *arguments)

    return compiled
