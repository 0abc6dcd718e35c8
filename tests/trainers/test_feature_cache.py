"""The feature cache gives what the encoder gives, computes it once, and survives interruptions."""

import os
import shutil

import keras
import numpy as np
import pytest
from PIL import Image

from captioner.images import Augmentation, ImageTransform, read_image
from captioner.model.encoder_split import split_image_encoder
from trainers import feature_cache
from trainers.caption_sets import tokenize_captions
from trainers.encode_images import weights_fingerprint
from trainers.feature_cache import cache_features
from trainers.pipeline import training_dataset, validation_dataset
from trainers.records import CaptionedImage

TRANSFORM = ImageTransform(image_size=(6, 10))
FLIP = Augmentation(horizontal_flip=True)


class CountingEncoder(keras.Model):
    """A strided convolution `(B, 6, 10, 3)` to `(B, 3, 5, 4)` that counts the batches it sees."""

    def __init__(self, scale=1.0):
        super().__init__()
        initializer = keras.initializers.RandomNormal(stddev=scale, seed=5)
        self.layer = keras.layers.Conv2D(4, 2, strides=2, kernel_initializer=initializer)
        self.num_batches = 0
        self.build((None, 6, 10, 3))

    def build(self, input_shape):
        self.layer.build(input_shape)
        self.built = True

    def call(self, images):
        return self.layer(images / 255.0)

    def predict_on_batch(self, x):
        self.num_batches += 1
        return super().predict_on_batch(x)


@pytest.fixture
def paths(tmp_path):
    result = []
    for index in range(5):
        pixels = np.random.default_rng(index).integers(0, 256, (6, 10, 3), dtype="uint8")
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
        result.append(str(tmp_path / f"{index}.png"))
    return result


def cached(tmp_path, encoder, paths, fingerprint="f", **kwargs):
    arguments = {"batch_size": 2, "progress": False} | kwargs
    return cache_features(encoder, fingerprint, paths, TRANSFORM, tmp_path / "cache", **arguments)


def plain_features(encoder, paths):
    images = np.stack([TRANSFORM(read_image(path)) for path in paths])
    return keras.ops.convert_to_numpy(encoder(images))


def test_the_cache_holds_the_encoders_features_in_the_order_of_the_paths(tmp_path, paths):
    encoder = CountingEncoder()
    cache = cached(tmp_path, encoder, paths)
    assert (cache.num_images, cache.num_views, cache.feature_shape) == (5, 1, (3, 5, 4))
    # float16 keeps 11 bits
    np.testing.assert_allclose(
        cache.read(range(5), [0] * 5), plain_features(encoder, paths), rtol=1e-3, atol=1e-4
    )


def test_a_second_run_does_not_run_the_encoder(tmp_path, paths):
    encoder = CountingEncoder()
    first = cached(tmp_path, encoder, paths)
    assert (encoder.num_batches, first.num_computed) == (3, 5)
    second = cached(tmp_path, encoder, paths[::-1])
    assert (encoder.num_batches, second.num_computed) == (3, 0)
    np.testing.assert_array_equal(second.read([0], [0]), first.read([4], [0]))


def test_only_changed_and_added_files_are_computed_again(tmp_path, paths):
    encoder = CountingEncoder()
    before = cached(tmp_path, encoder, paths[:4]).read(range(4), [0] * 4)
    Image.fromarray(np.full((6, 10, 3), 200, "uint8")).save(paths[1])
    cache = cached(tmp_path, encoder, paths)
    assert cache.num_computed == 2
    after = cache.read(range(5), [0] * 5)
    np.testing.assert_array_equal(after[[0, 2, 3]], before[[0, 2, 3]])
    np.testing.assert_allclose(after, plain_features(encoder, paths), rtol=1e-3, atol=1e-4)


def test_a_file_of_the_same_size_but_another_time_is_computed_again(tmp_path, paths):
    encoder = CountingEncoder()
    cached(tmp_path, encoder, paths)
    os.utime(paths[2], ns=(10**9, 10**9))
    assert cached(tmp_path, encoder, paths).num_computed == 1


def test_forbidding_the_flip_computes_the_views_of_that_image_again(tmp_path, paths):
    encoder = CountingEncoder()
    views = {"views": 2, "augmentation": FLIP}
    cached(tmp_path, encoder, paths, **views)
    allow_flip = [True, False, True, True, True]
    assert cached(tmp_path, encoder, paths, **views, allow_flip=allow_flip).num_computed == 1


def test_another_encoder_transform_or_seed_has_another_cache(tmp_path, paths):
    encoder = CountingEncoder()
    views = {"views": 2, "augmentation": FLIP}
    for kwargs in ({}, {"fingerprint": "g"}, views, {**views, "seed": 1}):
        assert cached(tmp_path, encoder, paths, **kwargs).num_computed == 5
    assert cached(tmp_path, encoder, paths, seed=1).num_computed == 0  # nothing random in one plain view


def test_an_interrupted_cache_continues_and_equals_a_fresh_one(tmp_path, paths, monkeypatch):
    class Failing(CountingEncoder):
        def predict_on_batch(self, x):
            if self.num_batches == 2:
                raise KeyboardInterrupt
            return super().predict_on_batch(x)

    fresh = cached(tmp_path / "fresh", CountingEncoder(), paths)
    monkeypatch.setattr(feature_cache, "SHARD_BYTES", 1)  # a shard for each batch
    with pytest.raises(KeyboardInterrupt):
        cached(tmp_path, Failing(), paths)
    (orphan,) = list((tmp_path / "cache").rglob("*.json"))[:1]
    orphan.unlink()  # as if the run had ended between the two files of a shard
    resumed = cached(tmp_path, CountingEncoder(), paths)
    assert resumed.num_computed == 3
    np.testing.assert_allclose(resumed.read(range(5), [0] * 5), fresh.read(range(5), [0] * 5), rtol=1e-3)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.name.startswith(".")]


def test_further_views_are_augmented_and_view_0_is_plain(tmp_path, paths):
    encoder = CountingEncoder()
    allow_flip = [True, True, False, True, True]
    cache = cached(tmp_path, encoder, paths, views=8, augmentation=FLIP, allow_flip=allow_flip)
    plain = plain_features(encoder, paths)
    images = np.stack([TRANSFORM(read_image(path)) for path in paths])
    flipped = keras.ops.convert_to_numpy(encoder(images[:, :, ::-1]))
    for index in range(5):
        views = cache.read([index] * 8, range(8)).astype("float32")
        is_plain = [np.allclose(view, plain[index], rtol=1e-2, atol=1e-3) for view in views]
        is_flipped = [np.allclose(view, flipped[index], rtol=1e-2, atol=1e-3) for view in views]
        assert np.logical_xor(is_plain, is_flipped).all()
        assert is_plain[0]
        assert any(is_flipped) == allow_flip[index]


def test_views_do_not_depend_on_where_the_images_lie(tmp_path, paths):
    (tmp_path / "moved").mkdir()
    moved = [shutil.copy(path, tmp_path / "moved") for path in paths]
    views = {"views": 4, "augmentation": Augmentation(min_crop_area=0.3, color_jitter=0.5)}
    here, there = (cached(tmp_path, CountingEncoder(), names, **views) for names in (paths, moved))
    assert there.num_computed == 5
    for view in range(4):
        np.testing.assert_array_equal(here.read(range(5), [view] * 5), there.read(range(5), [view] * 5))


def test_both_datasets_take_features_for_images(tmp_path, paths):
    class OneToken:
        start_token_id, end_token_id, pad_token_id = 1, 2, 0

        def encode_batch(self, texts):
            return [[int(text)] for text in texts]

    images = [CaptionedImage(path, (str(10 + index),)) for index, path in enumerate(paths)]
    captions = tokenize_captions(images, OneToken(), max_length=4)
    cache = cached(
        tmp_path,
        CountingEncoder(),
        paths,
        views=3,
        augmentation=Augmentation(min_crop_area=0.3, color_jitter=0.5),
    )
    arguments = {"batch_size": 2, "captions_per_image": 1, "seed": 0}
    dataset = training_dataset(captions, cache, **arguments, num_epochs=12)
    assert dataset.element_spec[0]["images"].shape.as_list() == [None, 3, 5, 4]
    long_run = list(dataset.as_numpy_iterator())
    drawn = set()
    for x, y, _ in long_run:
        assert x["images"].dtype == "float32"
        for features, target in zip(x["images"], y, strict=True):
            index = int(target[0, 0]) - 10
            views = cache.read([index] * 3, range(3))
            (view,) = [number for number in range(3) if np.array_equal(views[number], features)]
            drawn.add((index, view))
    assert drawn == {(index, view) for index in range(5) for view in range(3)}
    late = list(
        training_dataset(captions, cache, **arguments, first_epoch=11, num_epochs=1).as_numpy_iterator()
    )
    for (x, *_), (expected, *_) in zip(late, long_run[33:], strict=True):
        np.testing.assert_array_equal(x["images"], expected["images"])
    for step, (x, *_) in enumerate(validation_dataset(captions, cache, batch_size=2).as_numpy_iterator()):
        indices = range(5)[2 * step : 2 * step + 2]
        np.testing.assert_array_equal(x["images"], cache.read(indices, [0] * len(indices)))


def test_features_too_large_for_float16_are_refused_by_name(tmp_path, paths):
    with pytest.raises(ValueError, match=r"0\.png do not fit float16"):
        cached(tmp_path, CountingEncoder(scale=1e7), paths)
    assert not list((tmp_path / "cache").rglob("*.npy"))


def test_a_folder_that_cannot_hold_the_cache_is_explained(tmp_path, paths, monkeypatch):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(OSError, match=r"part of the path is a file.*`cache_dir`"):
        cached(tmp_path, CountingEncoder(), paths)
    os.remove(tmp_path / "cache")

    def full_disk(*_):
        raise OSError("4096 requested and 1024 written")

    monkeypatch.setattr(np, "save", full_disk)
    with pytest.raises(OSError, match=r"the disk is full.*`cache_dir`"):
        cached(tmp_path, CountingEncoder(), paths)
    monkeypatch.undo()
    assert cached(tmp_path, CountingEncoder(), paths).num_computed == 5


def test_impossible_arguments_are_refused(tmp_path, paths):
    for name, arguments in {
        "views": {"views": 0},
        "augmentation": {"views": 2},
        "allow_flip": {"allow_flip": [True]},
    }.items():
        with pytest.raises(ValueError, match=f"`{name}` must"):
            cached(tmp_path, CountingEncoder(), paths, **arguments)


def test_a_fingerprint_follows_the_weights_and_not_the_counters_of_names():
    def build():
        layers = [keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2)]
        model = keras.Sequential(layers)
        model.set_weights([np.full(w.shape, 0.5, "float32") for w in model.weights])
        return model

    first, second = build(), build()
    assert first.layers[0].name != second.layers[0].name
    assert weights_fingerprint(first) == weights_fingerprint(second)
    second.layers[1].bias.assign([0.5, 0.25])
    assert weights_fingerprint(first) != weights_fingerprint(second)


def test_features_of_another_dtype_are_others_also_those_of_a_part_of_the_encoder():
    def front(policy):
        inputs = keras.Input((4,))
        hidden = keras.layers.Dense(3, dtype=policy, kernel_initializer="ones", name="front")(inputs)
        encoder = keras.Model(inputs, keras.layers.Dense(2, dtype=policy, name="back")(hidden))
        return split_image_encoder(encoder, "front").frozen

    fingerprints = {weights_fingerprint(front(policy)) for policy in ("float32", "float32", "mixed_bfloat16")}
    assert len(fingerprints) == 2
