"""Runs a frozen image encoder over image files, plain and augmented.

Axes: B images, V views of each image, H rows, W columns; h rows, w columns, C channels of the features.
"""

import hashlib
import os
import re
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from captioner.python_calls import whole_items
from trainers.pipeline import ImageFiles
from trainers.tf_data import steady


def weights_fingerprint(model: keras.Model) -> str:
    """SHA-256 over a model's layer classes, the dtypes they compute in, and the names, types, shapes and bytes of its weights.

    The counters that Keras appends to names (`conv2d_3`) are left out: they depend on what else was built.
    """
    digest = hashlib.sha256()
    for layer in model._flatten_layers(include_self=False):  # a part of a model has the default policy itself
        digest.update(f"{type(layer).__name__} {layer.dtype_policy.name}".encode())
    for variable in model.weights:
        value = np.ascontiguousarray(keras.ops.convert_to_numpy(variable.value))
        name = re.sub(r"_\d+(?=/|$)", "", variable.path)
        digest.update(f"{name} {value.dtype} {value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def encode_views(
    encoder: keras.Model, source: ImageFiles, rows: list[int], views: int, batch_size: int, seed: int
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Encodes all views of some images: batches of rows and float16 `(B, V, h, w, C)`."""
    if not rows:
        return
    no_captions = np.zeros((len(rows), 1), "int64")
    plain = tf.data.Dataset.from_tensor_slices(
        (np.array(rows), np.zeros((len(rows), 2), "int32"), no_captions)
    )
    images = source.batches(plain, batch_size, augment=False)
    if views > 1:  # the further views of an image follow each other
        seeds = [_view_seed(source.paths[row], seed, view) for row in rows for view in range(1, views)]
        further = (np.repeat(rows, views - 1), np.stack(seeds), np.repeat(no_captions, views - 1, axis=0))
        further = tf.data.Dataset.from_tensor_slices(further)
        further = source.batches(further, batch_size * (views - 1), augment=True)
        images = tf.data.Dataset.zip(images, further)
    else:
        images = images.map(lambda *batch: (batch,))
    start = 0
    for batch in whole_items(steady(images.prefetch(1)).as_numpy_iterator()):
        plain_images = batch[0][0]
        size = len(plain_images)
        features = [_encode(encoder, plain_images, batch_size)[:, None]]
        if views > 1:
            encoded = _encode(encoder, batch[1][0], batch_size)
            features.append(encoded.reshape(size, views - 1, *encoded.shape[1:]))
        batch_rows = rows[start : start + size]
        start += size
        features = np.concatenate(features, axis=1)
        if not np.isfinite(features).all():
            broken = [
                source.paths[row]
                for row, part in zip(batch_rows, features, strict=True)
                if not np.isfinite(part).all()
            ]
            raise ValueError(
                f"The features of {broken[0]} do not fit float16 (a number above 65504, or none), so this "
                "encoder's features cannot be cached. Train without the feature cache."
            )
        yield batch_rows, features


def _encode(encoder: keras.Model, images: np.ndarray, batch_size: int) -> np.ndarray:
    """Runs the encoder on batches of one size, so that it is compiled once: float16 `(N, h, w, C)`."""
    results = []
    for start in range(0, len(images), batch_size):
        part = images[start : start + batch_size]
        filled = np.zeros((batch_size, *part.shape[1:]), "float32")
        filled[: len(part)] = part
        output = keras.ops.convert_to_numpy(encoder.predict_on_batch(filled))
        with np.errstate(over="ignore"):  # the caller looks for what does not fit
            results.append(output[: len(part)].astype("float32").astype("float16"))
    return np.concatenate(results)


def _view_seed(path: str, seed: int, view: int) -> np.ndarray:
    """A seed of the view, int32 `(2,)`, the same wherever the folder of images lies."""
    digest = hashlib.sha256(f"{seed} {view} ".encode() + os.fsencode(os.path.basename(path))).digest()
    return np.frombuffer(digest[:8], "<i4") & 0x7FFFFFFF
