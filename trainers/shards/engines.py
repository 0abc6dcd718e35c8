"""The engines that decode batches, by name."""

from collections.abc import Callable

from trainers.shards import batches


def find_engine(name: str) -> tuple[str, Callable]:
    """An engine and its `decode_batches`; auto is DALI where it can be used.

    Args:
        name: string. "auto", "dali" or "tf".

    Raises:
        ImportError: If DALI is asked for and cannot be used.
    """
    if name == "tf":
        return "tf", batches.decode_batches
    from trainers.shards import dali_decode

    if name == "auto" and not dali_decode.is_available():
        return "tf", batches.decode_batches
    return "dali", dali_decode.decode_batches
