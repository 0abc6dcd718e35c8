"""Gradient checkpointing: what a layer computes is computed again in the backward pass, its dropout included."""

from collections.abc import Callable, Sequence

import keras


class DrawnSeed(keras.random.SeedGenerator):
    """A seed that has been drawn, in the form that Keras's random functions take.

    Args:
        seed: int tensor `(2,)`, from `SeedGenerator.next`.
    """

    _initial_seed = None  # for PyTorch, which then drops by a state of its own and restores that by itself

    def __init__(self, seed):
        self.seed = seed  # instead of the variable that a generator has

    def next(self, ordered=True):
        return self.seed


def drawn_dropout(layers: Sequence[keras.layers.Dropout], training: bool | None) -> Callable[[], Callable]:
    """Draws now what dropout layers will drop.

    A second pass through the layers would drop other values, because their generators move on with each; and JAX lets
    no new state out of a function that is computed again.

    Args:
        layers: a layer for each use, in order.
        training: bool. False drops nothing.

    Returns:
        A function that begins a pass: each gives `drop(layer, x)`, to be called once for each use, in order.
    """
    seeds = [DrawnSeed(layer.seed_generator.next()) if training and layer.rate else None for layer in layers]

    def begin_pass() -> Callable:
        remaining = iter(seeds)

        def drop(layer, x):
            seed = next(remaining)
            return x if seed is None else keras.random.dropout(x, layer.rate, seed=seed)

        return drop

    return begin_pass


def recomputed(function: Callable, *inputs):
    """`function(*inputs)`, of which nothing but the inputs is kept for the gradient.

    Args:
        function: from float tensors to a float tensor, the same each time. What else it reads is variables, and tensors
            that need no gradient.
        *inputs: float tensors.

    References:
        - [Chen et al., 2016](https://arxiv.org/abs/1604.06174)
    """
    return keras.remat(function)(*inputs)
