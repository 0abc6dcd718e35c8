"""A captioner that trains in seconds, and photos to train it on."""

import keras
import numpy as np
import pytest
from PIL import Image
from shards import samples_of, write_shard

from captioner.model import CaptionerBackbone, ImageCaptioner, ImageCaptionerPreprocessor
from captioner.text import train_tokenizer
from trainers.csv_settings import CsvTrainSettings
from trainers.csv_trainer import train_csv
from trainers.webdataset_settings import WebdatasetTrainSettings

IMAGE_SIZE = (9, 15)
WORDS = [
    "a",
    "dog",
    "two",
    "cats",
    "sleep",
    "on",
    "the",
    "beach",
    "red",
    "sofa",
    "man",
    "rides",
    "his",
    "bike",
]


@pytest.fixture(scope="session")
def tiny_captioner():
    """Function `(**changes)` that builds a random captioner of 9 x 15 pixels with a two-layer image encoder."""

    def build(**changes) -> ImageCaptioner:
        keras.utils.set_random_seed(0)
        images = keras.Input((*IMAGE_SIZE, 3))
        x = keras.layers.Rescaling(1 / 255)(images)
        x = keras.layers.Conv2D(7, 3, strides=3, activation="tanh", name="cells")(x)
        encoder = keras.Model(images, keras.layers.Conv2D(6, 1, name="mix")(x))
        tokenizer = train_tokenizer([" ".join(WORDS)] * 2, 280)
        sizes = {
            "image_size": IMAGE_SIZE,
            "vocabulary_size": tokenizer.vocabulary_size() - tokenizer.num_special_tokens,
            "num_special_tokens": tokenizer.num_special_tokens,
            "hidden_dim": 22,
            "num_heads": 2,
            "num_image_layers": 1,
            "num_layers": 1,
            "intermediate_dim": 26,
            "max_sequence_length": 17,
            "dropout": 0.1,
        }
        backbone = CaptionerBackbone(encoder, **sizes | changes)
        return ImageCaptioner(backbone, ImageCaptionerPreprocessor(tokenizer, IMAGE_SIZE, sequence_length=13))

    return build


@pytest.fixture(scope="session")
def tiny_preset(tiny_captioner, tmp_path_factory):
    """The folder of a preset with that captioner."""
    folder = tmp_path_factory.mktemp("presets") / "tiny"
    tiny_captioner().save_to_preset(str(folder))
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder of ten images, `0.png` to `9.png`, with 1 to 3 captions each in `captions.csv`."""
    folder = tmp_path_factory.mktemp("photos")
    write_photos(folder)
    return folder


def write_photos(folder, num_images: int = 10) -> None:
    generator = np.random.default_rng(0)
    rows = ["image,caption"]
    for index in range(num_images):
        pixels = generator.integers(0, 256, (12, 14, 3), dtype="uint8")
        Image.fromarray(pixels).save(folder / f"{index}.png")
        for number in range(1 + index % 3):
            rows.append(f"{index}.png,{' '.join(generator.choice(WORDS, 3 + number))}")
    (folder / "captions.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


@pytest.fixture(scope="session")
def settings(tiny_preset, photos, tmp_path_factory):
    """Function `(run_dir, **changes)` that gives the settings of a run of the tiny captioner on the photos."""
    cache_dir = tmp_path_factory.mktemp("cache")

    def make(run_dir, **changes) -> CsvTrainSettings:
        values = {
            "run_dir": run_dir,
            "csv": photos / "captions.csv",
            "images": photos,
            "preset": str(tiny_preset),
            "epochs": 1,
            "batch_size": 3,
            "captions_per_image": 2,
            "max_length": 9,
            "validation_beams": 1,
            "cache_dir": cache_dir,
        }
        return CsvTrainSettings(**values | changes)

    return make


@pytest.fixture(scope="session")
def train(settings):
    """Function `(run_dir, **changes)` that trains with those settings and gives the metrics of the best epoch."""
    return lambda run_dir, **changes: train_csv(settings(run_dir, **changes))


@pytest.fixture
def shards(photos, tmp_path):
    """The photos in two shards of 7 and 3."""
    samples = samples_of(photos)
    return [write_shard(tmp_path / "a.tar", samples[:7]), write_shard(tmp_path / "b.tar", samples[7:])]


@pytest.fixture
def shard_settings(settings, shards, tmp_path):
    """Function `(**changes)` that gives settings of a run of the tiny captioner on the shards."""

    def make(name="run", **changes):
        given = settings(tmp_path / name).to_dict()
        known = {
            field: given[field] for field in WebdatasetTrainSettings.__dataclass_fields__ if field in given
        }
        values = known | {
            "run_dir": tmp_path / name,
            "shards": tuple(shards),
            "engine": "tf",
            "max_bad_fraction": 0.1,
        }
        return WebdatasetTrainSettings(**values | changes)

    return make
