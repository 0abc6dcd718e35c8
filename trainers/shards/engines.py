"""The engines that decode batches, by name."""

from collections.abc import Callable

import tensorflow as tf

from trainers.shards import batches


def find_engine(name: str) -> tuple[str, Callable]:
    """An engine and its `decode_batches`; auto is DALI where it can be used and there is a GPU.

    Args:
        name: string. "auto", "dali" or "tf".

    Raises:
        ImportError: If DALI is asked for and cannot be used.
    """
    if name == "tf":
        return "tf", batches.decode_batches
    from trainers.shards import dali_decode

    # On a processor TensorFlow is the faster one: decision 010.
    if name == "auto" and not (tf.config.list_physical_devices("GPU") and dali_decode.is_available()):
        return "tf", batches.decode_batches
    return "dali", dali_decode.decode_batches
