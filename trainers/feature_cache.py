"""Feature maps of a frozen image encoder, computed once and kept on disk.

Axes: B images of a batch, N images, V views of each image, h rows, w columns, C channels.

Layout: `<cache_dir>/features/<key>/` holds pairs `<name>.npy` (float16 `(n, V, h, w, C)`) and `<name>.json`
(the n identities). The JSON is written last and makes its pair count: an interruption costs one shard.
"""

import dataclasses
import functools
import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from captioner.files import atomic_path
from captioner.images import Augmentation, ImageTransform
from captioner.python_calls import python_call
from trainers.disk import default_cache_dir, explained_disk_errors, require_free_space
from trainers.encode_images import encode_views
from trainers.pipeline import ImageFiles

SHARD_BYTES = 128 * 1024**2
"""Size of a shard, about: what an interruption can lose, and what is held in memory."""
_OPEN_SHARDS = 256  # each open map holds a file descriptor
_FORMAT = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureCache:
    """Cached feature maps of N images, an `ImageSource` for `training_dataset` and `validation_dataset`.

    Training draws one of the V views for each image and epoch; validation sees view 0, the plain image.
    """

    folder: Path
    """Where the shards are."""
    locations: tuple[tuple[str, int], ...]
    """Shard and row of each of the N images."""
    feature_shape: tuple[int, ...]
    """Shape of one feature map, `(h, w, C)`."""
    num_views: int
    """V."""
    num_computed: int = 0
    """Images that had to go through the encoder to make this object."""

    @property
    def num_images(self) -> int:
        """N."""
        return len(self.locations)

    def read(self, image_index: Sequence[int], view: Sequence[int]) -> np.ndarray:
        """Feature maps of some images, each in one of its views: float16 `(B, h, w, C)`."""
        features = np.empty((len(image_index), *self.feature_shape), "float16")
        for row, (index, which) in enumerate(zip(image_index, view, strict=True)):
            shard, position = self.locations[index]
            features[row] = _open_shard(str(self.folder / shard))[position, which]
        return features

    def batches(self, plan: tf.data.Dataset, batch_size: int, *, augment: bool) -> tf.data.Dataset:
        """See `ImageSource.batches`."""

        def load(index, seed, rows):
            view = seed[:, 0] % self.num_views if augment else tf.zeros_like(seed[:, 0])
            features = tf.numpy_function(python_call(self.read), [index, view], tf.float16, stateful=False)
            return tf.cast(tf.ensure_shape(features, (None, *self.feature_shape)), tf.float32), rows

        # At most as many batches in memory as there are readers; reading is copying from the page cache.
        return plan.batch(batch_size).map(load, num_parallel_calls=2, deterministic=True)


def cache_features(
    encoder: keras.Model,
    encoder_fingerprint: str,
    paths: Sequence[str | os.PathLike],
    transform: ImageTransform,
    cache_dir: str | os.PathLike | None = None,
    *,
    batch_size: int = 32,
    views: int = 1,
    augmentation: Augmentation | None = None,
    allow_flip: Sequence[bool] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> FeatureCache:
    """Computes the feature maps that the cache does not hold yet, and opens them all.

    Sets of images share the cache: adding images, or touching some files, computes only those.

    Args:
        encoder: Keras model, float32 `(B, H, W, 3)` in 0..255 to `(B, h, w, C)` or `(B, S, C)`.
        encoder_fingerprint: string. `weights_fingerprint(encoder)`; another encoder has another cache.
        paths: N image files. Each must be decodable.
        transform: ImageTransform. Brings each image to the encoder's size.
        cache_dir: path, by default `~/.cache/captioner`.
        batch_size: int. Images that the encoder sees at a time.
        views: int. V. View 0 is the plain image, the others are augmented: the only augmentation that a
            frozen encoder's features allow. Disk and time grow with it.
        augmentation: Augmentation. Random changes of the further views; needed if `views` is above 1.
        allow_flip: N bools, False where an image must not be mirrored, or None to allow all.
        seed: int. Of the augmentation. The views of an image depend on the seed and its file name alone.
        progress: bool. Whether to show a progress bar.

    Returns:
        A `FeatureCache` of the N images, in the order of `paths`.

    Raises:
        ValueError: If an argument is out of range, or a feature does not fit float16.
        OSError: If the cache folder cannot be written or the disk is full.
    """
    paths = tuple(os.path.abspath(path) for path in paths)
    _check(paths, views, augmentation, allow_flip)
    if views == 1:
        augmentation = None
    flips = np.ones(len(paths), bool) if allow_flip is None else np.asarray(allow_flip, bool)
    if augmentation is None or not augmentation.horizontal_flip:
        flips = np.ones(
            len(paths), bool
        )  # whether mirroring is allowed makes no difference, nor must it to the key
    key = _digest(
        {
            "format": _FORMAT,
            "encoder": encoder_fingerprint,
            "transform": dataclasses.asdict(transform),
            "views": views,
            "augmentation": dataclasses.asdict(augmentation) if augmentation else None,
            "seed": seed if augmentation else None,
        }
    )
    folder = Path(cache_dir or default_cache_dir()) / "features" / key
    identities = [_identity(path, bool(allowed)) for path, allowed in zip(paths, flips, strict=True)]
    known = _known(folder)
    wanted = {identity: row for row, identity in enumerate(identities) if identity not in known}
    missing = list(wanted.values())
    source = ImageFiles(paths=paths, transform=transform, augmentation=augmentation, allow_flip=flips)
    with explained_disk_errors(folder, "cache_dir"):
        batches = encode_views(encoder, source, missing, views, batch_size, seed)
        bar = tqdm(
            total=len(missing), unit="image", desc="Image features", disable=not (progress and missing)
        )
        for rows, features in _in_shards(batches, folder, len(missing), bar):
            known |= _write_shard(folder, [identities[row] for row in rows], features)
    locations = tuple(known[identity] for identity in identities)
    shape = _open_shard(str(folder / locations[0][0])).shape
    return FeatureCache(
        folder=folder,
        locations=locations,
        feature_shape=tuple(shape[2:]),
        num_views=shape[1],
        num_computed=len(missing),
    )


def _check(paths: tuple[str, ...], views: int, augmentation: Augmentation | None, allow_flip) -> None:
    if not paths:
        raise ValueError("`paths` must name at least one image; received none.")
    if views < 1:
        raise ValueError(f"`views` must be at least 1; received views={views}.")
    if views > 1 and augmentation in (None, Augmentation()):
        raise ValueError(
            f"`augmentation` must change something if `views` is above 1; received {augmentation}."
        )
    if allow_flip is not None and len(allow_flip) != len(paths):
        raise ValueError(
            f"`allow_flip` must have one entry for each path; received {len(allow_flip)} for {len(paths)}."
        )


def _digest(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def _identity(path: str, allow_flip: bool) -> str:
    """Names a file as it is now: it changes when the file is written."""
    status = os.stat(path)
    return _digest([os.fsencode(path).hex(), status.st_size, status.st_mtime_ns, allow_flip])


@functools.lru_cache(_OPEN_SHARDS)
def _open_shard(path: str) -> np.ndarray:
    return np.load(path, mmap_mode="r")


def _known(folder: Path) -> dict[str, tuple[str, int]]:
    """Shard and row of each cached identity."""
    known = {}
    for index in sorted(folder.glob("*.json")):
        shard = index.with_suffix(".npy")
        if shard.exists():
            identities = json.loads(index.read_text())
            known |= {identity: (shard.name, row) for row, identity in enumerate(identities)}
    return known


def _write_shard(folder: Path, identities: list[str], features: np.ndarray) -> dict[str, tuple[str, int]]:
    shard = folder / f"{uuid.uuid4().hex}.npy"  # two processes may fill the cache at the same time
    with atomic_path(shard) as temporary:
        np.save(temporary, features)
    with atomic_path(shard.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(identities))
    return {identity: (shard.name, row) for row, identity in enumerate(identities)}


def _in_shards(
    batches: Iterator[tuple[list[int], np.ndarray]], folder: Path, num_images: int, bar: tqdm
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Joins batches of `(rows, features)` until they make a shard."""
    rows: list[int] = []
    parts: list[np.ndarray] = []
    for batch_rows, features in batches:
        if not bar.n:
            require_free_space(folder, num_images * features[0].nbytes, "cache_dir")
        rows += batch_rows
        parts.append(features)
        bar.update(len(batch_rows))
        if sum(part.nbytes for part in parts) >= SHARD_BYTES:
            yield rows, np.concatenate(parts)
            rows, parts = [], []
    if rows:
        yield rows, np.concatenate(parts)
    bar.close()
