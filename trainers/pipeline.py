"""Batches for training and validation, from image files or cached features.

Axes: B images of a batch, N images, G captions of an image, T text positions, H rows, W columns, C channels.
"""

import dataclasses
import math
from typing import Protocol

import numpy as np
import tensorflow as tf

from captioner.cores import num_cores
from captioner.images import Augmentation, ImageTransform, decode_in_graph, load_view
from captioner.python_calls import python_call
from trainers.caption_sets import CaptionSet, EpochPlan, epoch_plan, filled_plan, ordered_plan
from trainers.tf_data import as_it_stands, steady


class ImageSource(Protocol):
    """Where `x["images"]` comes from: one entry for each image of a caption set, in the same order."""

    num_images: int

    def batches(self, plan: tf.data.Dataset, batch_size: int, *, augment: bool) -> tf.data.Dataset:
        """Turns elements `(image_index (), image_seed (2,), caption_row (G,))` into batches
        `(float32 (B, H, W, C), caption_row (B, G))`, in the order of the elements."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageFiles:
    """Reads, decodes and resizes image files, in parallel and in order."""

    paths: tuple[str, ...]
    """N image files."""
    transform: ImageTransform
    """Brings each image to the model's size."""
    augmentation: Augmentation | None = None
    """Random changes of training images, or None."""
    allow_flip: np.ndarray | None = None
    """bool `(N,)`: False where an image must not be mirrored; None allows all."""

    @property
    def num_images(self) -> int:
        """N."""
        return len(self.paths)

    def batches(self, plan: tf.data.Dataset, batch_size: int, *, augment: bool) -> tf.data.Dataset:
        """See `ImageSource.batches`."""
        paths = tf.constant(self.paths)
        allowed = np.ones(self.num_images, bool) if self.allow_flip is None else self.allow_flip
        allow_flip = tf.constant(allowed)
        height, width = self.transform.image_size

        @as_it_stands
        def load(index, seed, rows):
            data = tf.io.read_file(paths[index])
            if augment:
                image = load_view(data, self.transform, self.augmentation, seed, allow_flip[index])
            else:  # validation sees exactly what captioning does
                image = self.transform(decode_in_graph(data))
            return tf.ensure_shape(image, (height, width, 3)), rows

        images = plan.map(load, num_parallel_calls=num_cores(), deterministic=True)
        return images.batch(batch_size)


def num_steps(num_images: int, batch_size: int) -> int:
    """Batches in one epoch."""
    return math.ceil(num_images / batch_size)


def training_dataset(
    captions: CaptionSet,
    source: ImageSource,
    *,
    batch_size: int,
    captions_per_image: int,
    seed: int,
    num_epochs: int,
    first_epoch: int = 0,
    first_step: int = 0,
    process_index: int = 0,
    num_processes: int = 1,
    fill_batches: bool = False,
) -> tf.data.Dataset:
    """Shuffled, augmented batches, epoch after epoch, `num_steps(...)` of them in each.

    Order, captions and augmentation are a pure function of `(seed, epoch)`: a dataset that starts at epoch
    `e` equals a long one from there on.

    Args:
        captions: the caption set, N images.
        source: an `ImageSource` of the same N images.
        batch_size: int. Images in a batch (B); the last batch of an epoch may be shorter.
        captions_per_image: int. Captions shown for each image (G). Missing ones have a `sample_weight` of 0.
        seed: int. Not negative.
        num_epochs: int. Epochs to run.
        first_epoch: int. The epoch to start with, counted from 0.
        first_step: int. Batches of the first epoch to leave out.
        process_index: int. Which part of each batch is read, of `num_processes` equal parts.
        num_processes: int. Divides `batch_size`; more than one need `fill_batches`.
        fill_batches: bool. Fills the short last batch with images of no weight.

    Returns:
        A dataset of `(x, y, sample_weight)`: `x` holds `images` float32 `(B, H, W, C)`, `token_ids` int32 and
        `padding_mask` bool (True = a real token) `(B, G, T)`; `y` int32 and `sample_weight`
        float32 `(B, G, T)`.

    Raises:
        ValueError: If an argument is out of range, or source and captions disagree.
    """
    _check(captions, source, batch_size, captions_per_image)
    steps = num_steps(len(captions.paths), batch_size)
    for name, value in {"seed": seed, "first_epoch": first_epoch, "first_step": first_step}.items():
        if value < 0:
            raise ValueError(f"`{name}` must not be negative; received {name}={value}.")
    if not 0 <= process_index < num_processes or batch_size % num_processes:
        raise ValueError(
            f"`num_processes` must be above process_index={process_index} and divide batch_size={batch_size}; received "
            f"{num_processes}."
        )
    if num_processes > 1 and not fill_batches:
        raise ValueError(
            "`num_processes` above 1 need `fill_batches`, so that all have the same number of batches."
        )
    share = batch_size // num_processes
    if first_step >= steps:
        raise ValueError(f"`first_step` must be below the {steps} steps of an epoch; received {first_step}.")

    def plan_of(epoch: int) -> tuple[np.ndarray, ...]:
        skipped = first_step * batch_size if epoch == first_epoch else 0
        plan = epoch_plan(captions, captions_per_image, seed, int(epoch))
        if fill_batches:
            plan = filled_plan(captions, plan, batch_size)
        part = np.arange(skipped, len(plan.image_index))
        part = part[part % batch_size // share == process_index]
        return tuple(array[part] for array in _arrays(plan))

    @as_it_stands
    def epoch_dataset(epoch):
        arrays = tf.numpy_function(python_call(plan_of), [epoch], (tf.int64, tf.int32, tf.int64))
        for array, shape in zip(arrays, ((None,), (None, 2), (None, captions_per_image)), strict=True):
            array.set_shape(shape)
        plan = tf.data.Dataset.from_tensor_slices(tuple(arrays))
        return source.batches(plan, share, augment=True)

    epochs = tf.data.Dataset.range(first_epoch, first_epoch + num_epochs)
    dataset = _with_texts(epochs.flat_map(epoch_dataset), captions)
    return dataset.apply(tf.data.experimental.assert_cardinality(num_epochs * steps - first_step))


def validation_dataset(captions: CaptionSet, source: ImageSource, *, batch_size: int) -> tf.data.Dataset:
    """One pass over the images as they are, in order, as batches like `training_dataset`'s, with all captions.

    Args:
        captions: the caption set, N images.
        source: an `ImageSource` of the same N images.
        batch_size: int. Images in a batch (B); the last may be shorter.

    Returns:
        A dataset of `(x, y, sample_weight)`.

    Raises:
        ValueError: If an argument is out of range, or source and captions disagree.
    """
    captions_per_image = captions.max_captions_per_image
    _check(captions, source, batch_size, captions_per_image)
    plan = tf.data.Dataset.from_tensor_slices(_arrays(ordered_plan(captions, captions_per_image)))
    return _with_texts(source.batches(plan, batch_size, augment=False), captions)


def _arrays(plan: EpochPlan) -> tuple[np.ndarray, ...]:
    return plan.image_index.astype("int64"), plan.image_seed, plan.caption_row.astype("int64")


def _with_texts(batches: tf.data.Dataset, captions: CaptionSet) -> tf.data.Dataset:
    """Looks up the caption rows of `(images, caption_row)` batches."""
    table = captions.targets
    token_ids, targets = tf.constant(table.token_ids), tf.constant(table.targets)
    padding_mask, sample_weight = tf.constant(table.padding_mask), tf.constant(table.sample_weight)

    @as_it_stands
    def look_up(images, rows):
        x = {
            "images": images,
            "token_ids": tf.gather(token_ids, rows),
            "padding_mask": tf.gather(padding_mask, rows),
        }
        return x, tf.gather(targets, rows), tf.gather(sample_weight, rows)

    return steady(batches.map(look_up, num_parallel_calls=1).prefetch(2))


def _check(captions: CaptionSet, source: ImageSource, batch_size: int, captions_per_image: int) -> None:
    for name, value in {"batch_size": batch_size, "captions_per_image": captions_per_image}.items():
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1; received {name}={value}.")
    if source.num_images != len(captions.paths):
        raise ValueError(
            f"`source` must have the images of `captions`; received {source.num_images} images and "
            f"{len(captions.paths)}."
        )
