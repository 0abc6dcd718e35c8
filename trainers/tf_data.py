"""How our datasets of tf.data run."""

import tensorflow as tf

as_it_stands = tf.autograph.experimental.do_not_convert
"""For functions that are graph code already: converting them would take over a second of each start."""


def steady(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The dataset in its order, with as many parallel calls as it names itself.

    tf.data's own choice of parallel calls is off: its thread sleeps for 10 ms, 20 ms and so on up to a minute, and
    every now and then an iterator that ends, as at the end of an epoch, waits until it wakes up.
    """
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False
    return dataset.with_options(options)
