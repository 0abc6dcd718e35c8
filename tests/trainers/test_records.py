"""Splitting by image."""

from pathlib import Path

import pytest

from trainers.records import CaptionedImage, split_by_image

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
