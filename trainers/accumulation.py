"""Batches whose gradients are accumulated: together they weigh their tokens as one big batch does.

Axes: B images, G texts per image, T text positions.
"""

from collections.abc import Callable

import tensorflow as tf


def accumulated_batches(
    training: Callable,
    num_accumulated: int,
    steps_per_epoch: int,
    first_epoch: int,
    first_step: int,
    optimizer_epoch: int = 0,
) -> tf.data.Dataset:
    """The batches from a step on, with weights that add up to the number of batches over those of each update.

    Keras averages the gradients of these batches. Means over the tokens of each batch would give the tokens of a batch
    of few tokens more say than those of a batch of many; sums with these weights do not. (A step that float16's loss
    scaling skips is no batch to Keras: updates after it reach over two of these groups, and are equal to about that.)

    Args:
        training: function `(first_epoch, first_step) -> tf.data.Dataset` of `(x, y, sample_weight)`.
        num_accumulated: int. Batches of an update; updates run on over the ends of epochs.
        steps_per_epoch: int.
        first_epoch: int. Counted from 0.
        first_step: int. May lie within an update, whose earlier batches are then read again for their tokens.
        optimizer_epoch: int. The epoch that the optimizer began with, and with it the first update.

    Returns:
        A dataset of `(x, y, sample_weight)`. It reads the batches of an update before it gives the first of them.
    """
    step = first_epoch * steps_per_epoch + first_step
    num_skipped = (step - optimizer_epoch * steps_per_epoch) % num_accumulated
    batches = training(*divmod(step - num_skipped, steps_per_epoch))

    def weighted(x, targets, sample_weight):
        # The last batches of a run may be fewer; they make no update, and their loss is shown.
        count, total = sample_weight.reduce(
            (0.0, 0.0), lambda sums, weight: (sums[0] + 1.0, sums[1] + tf.reduce_sum(weight))
        )
        update = tf.data.Dataset.zip((x, targets, sample_weight))
        return update.map(lambda x, targets, weight: (x, targets, weight * (count / tf.maximum(total, 1.0))))

    return batches.window(num_accumulated).flat_map(weighted).skip(num_skipped).prefetch(num_accumulated)
