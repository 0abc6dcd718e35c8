"""Splitting by image."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.records import CaptionedImage, split_by_fold, split_by_image

IMAGES = [CaptionedImage(Path(f"{index}.jpg"), ("a", "b")) for index in range(11)]


def test_a_split_is_by_image_complete_and_deterministic():
    training, validation = split_by_image(IMAGES, 0.3, seed=4)
    assert len(validation) == 3
    assert set(training).isdisjoint(validation)
    assert set(training) | set(validation) == set(IMAGES)
    assert training == [image for image in IMAGES if image in training]  # the order is kept
    assert split_by_image(IMAGES, 0.3, seed=4) == (training, validation)
    assert split_by_image(IMAGES, 0.3, seed=5) != (training, validation)


def test_neither_side_of_a_split_is_empty():
    assert [len(part) for part in split_by_image(IMAGES[:2], 0.01, seed=0)] == [1, 1]
    assert [len(part) for part in split_by_image(IMAGES[:2], 0.99, seed=0)] == [1, 1]


def test_an_impossible_split_is_refused():
    with pytest.raises(ValueError, match=r"fraction=1\.0"):
        split_by_image(IMAGES, 1.0, seed=0)
    with pytest.raises(ValueError, match="at least 2 images"):
        split_by_image(IMAGES[:1], 0.5, seed=0)


@given(num_images=st.integers(2, 40), folds=st.integers(2, 10), seed=st.integers(0, 5))
def test_each_image_is_set_aside_in_exactly_one_fold(num_images, folds, seed):
    images = [CaptionedImage(Path(f"{i}.jpg"), ("a",)) for i in range(num_images)]
    if num_images < folds:
        with pytest.raises(ValueError, match="must not exceed the number of images"):
            split_by_fold(images, folds, 1, seed)
        return
    parts = [split_by_fold(images, folds, fold, seed) for fold in range(1, folds + 1)]
    assert sorted((image for _, aside in parts for image in aside), key=images.index) == images
    sizes = [len(aside) for _, aside in parts]
    assert max(sizes) - min(sizes) <= 1
    for training, aside in parts:
        assert sorted(training + aside, key=images.index) == images
