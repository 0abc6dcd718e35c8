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

    TensorFlow traces one graph for all numbers of rows of the first argument, so that the last, short batch of a folder
    is not a second trace; and another for a single row, as one photo shall not wait for a graph that serves many, which takes
    a third longer to trace. JAX compiles once for each shape, with the variables as arguments, so that a
    later `load_weights` is seen. PyTorch runs without gradients.

    Args:
        model: the model whose variables the function reads.
        function: takes tensors or arrays and returns a nest of tensors.
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

    traced, compiled, num_calls = {}, {}, collections.Counter()
    if tf.config.list_physical_devices("GPU"):
        xla_after = None

    def trace(arguments):
        num_rows = 1 if arguments[0].shape[0] == 1 else None
        specs = [tf.TensorSpec(argument.shape, argument.dtype) for argument in arguments]
        specs[0] = tf.TensorSpec((num_rows, *arguments[0].shape[1:]), arguments[0].dtype)
        key = tuple((spec.dtype, tuple(spec.shape)) for spec in specs)
        if key not in traced:
            traced[key] = tf.function(function, input_signature=specs, autograph=False)
        return traced[key]

    def call(*arguments):
        arguments = [tf.convert_to_tensor(argument) for argument in arguments]
        key = tuple((argument.dtype, tuple(argument.shape)) for argument in arguments)
        if key not in compiled and num_calls[key] == xla_after:
            graph = trace(arguments).get_concrete_function()
            compiled[key] = tf.function(lambda *inputs: graph(*inputs), autograph=False, jit_compile=True)
        num_calls[key] += 1
        return compiled[key](*arguments) if key in compiled else trace(arguments)(*arguments)

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
