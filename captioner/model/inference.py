"""Runs a model fast: compiled on each backend, and in bfloat16 where that is fast."""

from collections.abc import Callable
from pathlib import Path

import keras


def compile_inference(model: keras.Model, function: Callable) -> Callable:
    """Returns `function` compiled for repeated calls; it may read the variables of `model`, and must not
    write them.

    TensorFlow traces one graph for all numbers of rows of the first argument, so that the last, short batch of a folder
    is not a second trace; and another for a single row, as one photo shall not wait for a graph that serves many, which takes
    a third longer to trace. JAX compiles once for each shape, with the variables as arguments, so that a
    later `load_weights` is seen. PyTorch runs without gradients.

    Args:
        model: the model whose variables the function reads.
        function: takes tensors or arrays and returns a nest of tensors.

    Returns:
        A function of the same arguments.
    """
    backend = keras.config.backend()
    if backend == "tensorflow":
        return _compile_tensorflow(function)
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


def _compile_tensorflow(function):
    import tensorflow as tf

    traced = {}

    def compiled(first, *others):
        first, *others = (tf.convert_to_tensor(argument) for argument in (first, *others))
        num_rows = 1 if first.shape[0] == 1 else None
        specs = [tf.TensorSpec((num_rows, *first.shape[1:]), first.dtype)]
        specs += [tf.TensorSpec(other.shape, other.dtype) for other in others]
        key = tuple((spec.dtype, tuple(spec.shape)) for spec in specs)
        if key not in traced:
            traced[key] = tf.function(function, input_signature=specs, autograph=False)
        return traced[key](first, *others)

    return compiled


def _compile_jax(model, function):
    import jax

    @jax.jit
    def stateless(values, *arguments):
        with keras.StatelessScope(state_mapping=zip(model.variables, values, strict=True)):
            return function(*arguments)

    def compiled(*arguments):
        return stateless([variable.value for variable in model.variables], *arguments)

    return compiled
