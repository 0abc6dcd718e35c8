"""Batches against what the images and captions are. Coprime sizes: B=2, N=5, T=4, 5 x 7 pixels."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image
from streams import assert_batches_equal, collect

from captioner.images import Augmentation, ImageTransform, read_image
from trainers.caption_sets import epoch_plan, tokenize_captions
from trainers.pipeline import ImageFiles, num_steps, training_dataset, validation_dataset
from trainers.records import CaptionedImage

TRANSFORM = ImageTransform(image_size=(5, 7))
AUGMENTATION = Augmentation(min_crop_area=0.5, horizontal_flip=True, color_jitter=0.3)


class WordTokenizer:
    """Gives each word the number that it is."""

    start_token_id, end_token_id, pad_token_id = 1, 2, 0

    def encode_batch(self, texts):
        return [[int(word) for word in text.split()] for text in texts]


@pytest.fixture
def images(tmp_path):
    """Five images with 1, 3, 2, 3 and 1 captions; a caption's first word tells image and caption."""
    result = []
    for index, count in enumerate([1, 3, 2, 3, 1]):
        path = tmp_path / f"{index}.png"
        pixels = np.random.default_rng(index).integers(0, 256, (9, 8, 3), dtype="uint8")
        Image.fromarray(pixels).save(path)
        captions = tuple(f"{100 + 10 * index + number} 7 8"[: 3 + 2 * number] for number in range(count))
        result.append(CaptionedImage(path, captions))
    return result


def caption_set(images, **kwargs):
    return tokenize_captions(images, WordTokenizer(), max_length=9, **kwargs)


def training(images, augmentation=AUGMENTATION, **kwargs):
    captions = caption_set(images)
    source = ImageFiles(
        paths=captions.paths, transform=TRANSFORM, augmentation=augmentation, allow_flip=captions.allow_flip
    )
    arguments = {"batch_size": 2, "captions_per_image": 2, "seed": 3, "num_epochs": 1} | kwargs
    return training_dataset(captions, source, **arguments)


def test_a_validation_batch_is_what_was_written_by_hand(images):
    captions = caption_set(images)
    source = ImageFiles(paths=captions.paths, transform=TRANSFORM, augmentation=AUGMENTATION)
    batches = collect(validation_dataset(captions, source, batch_size=2))
    assert [len(y) for _, y, _ in batches] == [2, 2, 1]
    x, y, sample_weight = batches[0]
    np.testing.assert_array_equal(
        x["token_ids"],
        [[[1, 100, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]], [[1, 110, 0, 0], [1, 111, 7, 0], [1, 112, 7, 8]]],
    )
    np.testing.assert_array_equal(
        y, [[[100, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], [[110, 2, 0, 0], [111, 7, 2, 0], [112, 7, 8, 2]]]
    )
    np.testing.assert_array_equal(
        x["padding_mask"],
        [[[1, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]], [[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]],
    )
    np.testing.assert_array_equal(
        sample_weight,
        [[[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], [[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]],
    )
    np.testing.assert_array_equal(x["images"][1], TRANSFORM(read_image(images[1].path)))
    dtypes = [x["images"].dtype, x["token_ids"].dtype, x["padding_mask"].dtype, y.dtype, sample_weight.dtype]
    assert dtypes == ["float32", "int32", "bool", "int32", "float32"]


def test_shapes_are_static_but_for_the_batch(images):
    x, y, sample_weight = training(images).element_spec
    assert x["images"].shape.as_list() == [None, 5, 7, 3]
    for spec in (x["token_ids"], x["padding_mask"], y, sample_weight):
        assert spec.shape.as_list() == [None, 2, 4]


def test_an_epoch_started_directly_equals_that_epoch_of_a_long_run(images):
    long_run = collect(training(images, num_epochs=5))
    assert len(long_run) == 5 * 3
    assert_batches_equal(collect(training(images, first_epoch=3, num_epochs=2)), long_run[9:])
    assert_batches_equal(collect(training(images, first_epoch=3, first_step=2, num_epochs=2)), long_run[11:])


def test_epochs_and_seeds_differ_in_order_and_pixels(images):
    first, second = (collect(training(images, first_epoch=e, num_epochs=1, batch_size=5))[0] for e in (0, 1))
    other = collect(training(images, num_epochs=1, batch_size=5, seed=4))[0]
    for batch in (second, other):
        assert not np.array_equal(batch[1], first[1])
        assert not np.isin(batch[0]["images"], first[0]["images"]).all()


def test_each_caption_comes_once_an_epoch_beside_its_own_image(images):
    plain = {index: np.asarray(TRANSFORM(read_image(image.path))) for index, image in enumerate(images)}
    batches = collect(training(images, augmentation=None, captions_per_image=3, num_epochs=1))
    seen = Counter()
    for x, y, sample_weight in batches:
        for image, targets, weights in zip(x["images"], y, sample_weight, strict=True):
            shown = [int(row[0]) for row, weight in zip(targets, weights, strict=True) if weight[0]]
            seen.update(shown)
            for number in shown:
                np.testing.assert_array_equal(image, plain[(number - 100) // 10])
    assert seen == Counter([100, 110, 111, 112, 120, 121, 130, 131, 132, 140])


def test_a_draw_of_fewer_captions_repeats_none_and_reaches_all(images):
    captions = caption_set(images)
    drawn = Counter()
    for epoch in range(60):
        plan = epoch_plan(captions, 2, seed=0, epoch=epoch)
        row = plan.caption_row[list(plan.image_index).index(3)]
        assert len(set(row)) == 2
        drawn.update(row.tolist())
    assert set(drawn) == {6, 7, 8}
    assert min(drawn.values()) > 25  # 40 expected of each


def test_a_missing_caption_attends_to_its_start_token_and_weighs_nothing(images):
    for x, _, sample_weight in collect(training(images, captions_per_image=4, num_epochs=1)):
        assert x["padding_mask"].any(axis=-1).all()
        missing = sample_weight.sum(axis=-1) == 0
        assert missing.any()
        np.testing.assert_array_equal(x["padding_mask"][missing].sum(axis=-1), 1)


def test_steps_are_known_before(images):
    assert (num_steps(5, 2), num_steps(4, 2)) == (3, 2)
    assert (
        int(training(images, num_epochs=2).cardinality()) == len(collect(training(images, num_epochs=2))) == 6
    )


@pytest.mark.parametrize(
    "captions, allowed",
    [
        ("a dog on the left", False),
        ("A Right-handed player", False),
        ("a bright light", True),
        ("the leftmost house", False),
        ("a dog", True),
    ],
)
def test_captions_that_name_a_side_forbid_the_flip(tmp_path, captions, allowed):
    class NoWords(WordTokenizer):
        def encode_batch(self, texts):
            return [[5] for _ in texts]

    images = [CaptionedImage(tmp_path / "a.png", ("an image", captions))]
    assert tokenize_captions(images, NoWords(), max_length=4).allow_flip.tolist() == [allowed]
    freely = tokenize_captions(images, NoWords(), max_length=4, flip_captions_with_sides=True)
    assert freely.allow_flip.tolist() == [True]


def test_only_images_that_may_be_flipped_are(images):
    captions = caption_set(images)
    allow_flip = np.array([True, False, True, False, True])
    source = ImageFiles(
        paths=captions.paths,
        transform=TRANSFORM,
        augmentation=Augmentation(horizontal_flip=True),
        allow_flip=allow_flip,
    )
    dataset = training_dataset(captions, source, batch_size=5, captions_per_image=1, seed=0, num_epochs=20)
    plain = [np.asarray(TRANSFORM(read_image(image.path))) for image in images]
    flips = Counter()
    for x, y, _ in dataset.as_numpy_iterator():
        for image, targets in zip(x["images"], y, strict=True):
            index = (int(targets[0, 0]) - 100) // 10
            flips[index, not np.array_equal(image, plain[index])] += 1
    assert all(flips[index, False] == 20 for index in (1, 3))
    assert all(0 < flips[index, True] < 20 for index in (0, 2, 4))


def test_impossible_arguments_are_refused(images):
    for arguments in ({"batch_size": 0}, {"captions_per_image": 0}, {"seed": -1}, {"first_step": 3}):
        (name,) = arguments
        with pytest.raises(ValueError, match=f"`{name}`"):
            training(images, **arguments)
    captions = caption_set(images)
    with pytest.raises(ValueError, match="4 images"):
        validation_dataset(captions, ImageFiles(paths=captions.paths[:4], transform=TRANSFORM), batch_size=2)
