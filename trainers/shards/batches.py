"""Training batches from shards: what a plan shows, read, decoded by an engine, with its tokens.

Axes: B images of a batch, G captions of an image, T text positions, H, W rows and columns, h, w those of the result.
"""

from collections.abc import Callable

import tensorflow as tf

from captioner.cores import num_cores
from captioner.images import Augmentation, ImageTransform, view_of_image, view_of_jpeg
from captioner.python_calls import python_call
from trainers.shards.plan import NOTHING, PlannedSamples, ShardPlan
from trainers.shards.ppm import BLANK, decode_ppm
from trainers.shards.reader import ShardReader
from trainers.tf_data import as_it_stands, steady

PARALLEL_READS = 4
"""Batches that are read at the same time: enough for a disk, since decoding takes longer."""

_ENCODED = {"data": tf.string, "seed": tf.int32, "allow_flip": tf.bool, "size": tf.int32}
_REST = {"token_ids": tf.int32, "padding_mask": tf.bool, "targets": tf.int32, "sample_weight": tf.float32}


def training_batches(
    plan: ShardPlan,
    reader: ShardReader,
    decode: Callable,
    *,
    batch_size: int,
    transform: ImageTransform,
    augmentation: Augmentation | None,
    num_epochs: int,
    first_epoch: int = 0,
    first_step: int = 0,
    fill_batches: bool = False,
) -> tf.data.Dataset:
    """Shuffled, augmented batches, epoch after epoch, `plan.num_steps(batch_size)` of them in each.

    A function of the plan alone: a dataset that starts at some step equals a longer one from there on.

    Args:
        plan: ShardPlan.
        reader: ShardReader of the same shards.
        decode: `decode_batches` of an engine.
        batch_size: int. Images in a batch (B); the last batch of an epoch may be shorter.
        transform: ImageTransform.
        augmentation: Augmentation, or None.
        num_epochs: int. Where the run ends, counted from the epoch 0.
        first_epoch: int. The epoch to start with.
        first_step: int. Batches of that epoch to leave out.
        fill_batches: bool. Fills the short last batch with blank images of no weight.

    Returns:
        A dataset of `(x, y, sample_weight)`: `x` holds `images` float32 `(B, h, w, 3)`, `token_ids` int32 and
        `padding_mask` bool (True = a real token) `(B, G, T)`; `y` int32 and `sample_weight` float32 `(B, G, T)`.

    Raises:
        ValueError: If an argument is out of range.
    """
    steps = plan.num_steps(batch_size)
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1; received batch_size={batch_size}.")
    if first_epoch < 0 or not 0 <= first_step < steps:
        raise ValueError(
            f"`first_epoch` must not be negative and `first_step` below the {steps} steps of an epoch; received {first_epoch} "
            f"and {first_step}."
        )

    steps_of_block = max(plan.shuffle_buffer // batch_size, 1)

    def planned(number: int) -> PlannedSamples:
        epoch, step = divmod(int(number), steps)
        if step % steps_of_block == 0 or int(number) == first_epoch * steps + first_step:
            ahead = plan.samples(epoch, step * batch_size, step * batch_size + 2 * plan.shuffle_buffer).shard
            reader.shards.want(shard for shard in dict.fromkeys(ahead.tolist()) if shard != NOTHING)
        samples = plan.samples(epoch, step * batch_size, (step + 1) * batch_size)
        return samples.filled(batch_size) if fill_batches else samples

    numbers = tf.data.Dataset.range(first_epoch * steps + first_step, num_epochs * steps)
    batches = read_batches(numbers, planned, reader)
    return attach_texts(
        decode(batches, batch_size=batch_size, transform=transform, augmentation=augmentation)
    )


def validation_batches(
    reader: ShardReader, rows: PlannedSamples, *, batch_size: int, transform: ImageTransform
) -> tf.data.Dataset:
    """One pass over samples in their order, wholly decoded, as batches like `training_batches`'."""

    def planned(number: int) -> PlannedSamples:
        part = slice(int(number) * batch_size, (int(number) + 1) * batch_size)
        return PlannedSamples(shard=rows.shard[part], row=rows.row[part], image_seed=rows.image_seed[part])

    numbers = tf.data.Dataset.range(-(-len(rows.shard) // batch_size))

    def load(data, size, seed, allow_flip):
        def by_tensorflow():
            return tf.io.decode_jpeg(data, channels=3, fancy_upscaling=True, dct_method="INTEGER_ACCURATE")

        return transform(tf.cond(_is_jpeg(data), by_tensorflow, lambda: decode_ppm(data, size)))

    return attach_texts(_decoded(read_batches(numbers, planned, reader), batch_size, load))


def decode_batches(
    dataset: tf.data.Dataset,
    *,
    batch_size: int,
    transform: ImageTransform,
    augmentation: Augmentation | None = None,
) -> tf.data.Dataset:
    """Engine `tf`: decodes batches on the processor, in parallel and in order.

    Args:
        dataset: dataset of `(encoded, rest)` as `ShardReader.read` gives them, of B samples or fewer.
        batch_size: int. B.
        transform: ImageTransform.
        augmentation: Augmentation, or None.

    Returns:
        A dataset of (float32 `(B, h, w, 3)`, rest), batch for batch.
    """

    def load(data, size, seed, allow_flip):
        given = (transform, augmentation, seed, allow_flip)
        return tf.cond(
            _is_jpeg(data),
            lambda: view_of_jpeg(data, size, *given),
            lambda: view_of_image(decode_ppm(data, size), *given),
        )

    return _decoded(dataset, batch_size, load)


def read_batches(numbers: tf.data.Dataset, planned: Callable, reader: ShardReader) -> tf.data.Dataset:
    """A dataset of `(encoded, rest)` of what `planned` tells for each number."""
    positions = (reader.tokens.captions_per_image, reader.tokens.max_length)

    def read(number):
        encoded, rest = reader.read(planned(number))
        return tuple(encoded[name] for name in _ENCODED) + tuple(rest[name] for name in _REST)

    @as_it_stands
    def load(number):
        arrays = tf.numpy_function(python_call(read), [number], [*_ENCODED.values(), *_REST.values()])
        shapes = [(None,), (None, 2), (None,), (None, 2)] + [(None, *positions)] * len(_REST)
        for array, shape in zip(arrays, shapes, strict=True):
            array.set_shape(shape)
        names = [*_ENCODED, *_REST]
        named = dict(zip(names, arrays, strict=True))
        return {name: named[name] for name in _ENCODED}, {name: named[name] for name in _REST}

    return numbers.map(load, num_parallel_calls=PARALLEL_READS, deterministic=True)


def attach_texts(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Turns `(images, rest)` into what the training loop takes."""

    @as_it_stands
    def arrange(images, rest):
        x = {"images": images, "token_ids": rest["token_ids"], "padding_mask": rest["padding_mask"]}
        return x, rest["targets"], rest["sample_weight"]

    return steady(batches.map(arrange, num_parallel_calls=1).prefetch(2))


def _is_jpeg(data):
    return tf.equal(tf.strings.substr(data, 0, 2), b"\xff\xd8")


def _decoded(dataset: tf.data.Dataset, batch_size: int, load: Callable) -> tf.data.Dataset:
    """Decodes sample by sample across the limits of batches, and restores the batches that came in."""

    @as_it_stands
    def fill(encoded, rest):
        """A short batch gets blank samples behind its own, so that batches of B are batches that came in."""
        num_samples = tf.shape(encoded["data"])[0]
        missing = batch_size - num_samples
        encoded = {name: _padded(array, missing) for name, array in encoded.items()}
        rest = tf.nest.map_structure(lambda array: _padded(array, missing), rest)
        return encoded, rest, tf.sequence_mask(num_samples, batch_size)

    @as_it_stands
    def decode(encoded, rest, is_sample):
        data = tf.where(is_sample, encoded["data"], BLANK)
        size = tf.where(is_sample, encoded["size"], 1)
        return load(data, size, encoded["seed"], encoded["allow_flip"]), rest, is_sample

    @as_it_stands
    def cut(images, rest, is_sample):
        num_samples = tf.math.count_nonzero(is_sample, dtype=tf.int32)
        return images[:num_samples], tf.nest.map_structure(lambda array: array[:num_samples], rest)

    samples = dataset.map(fill, num_parallel_calls=1).unbatch()
    decoded = samples.map(decode, num_parallel_calls=num_cores(), deterministic=True)
    return decoded.batch(batch_size, drop_remainder=True).map(cut, num_parallel_calls=1)


def _padded(array, missing):
    shape = tf.concat([[missing], tf.shape(array)[1:]], 0)
    return tf.concat([array, tf.zeros(shape, array.dtype)], 0)
