"""Every kind of bad and unusual shard, together in one stream: each good sample is shown, nothing stops."""

import numpy as np
import pytest
from bad_shards import all_kinds, write_kind
from engines import ENGINES
from shards import BlindTokenizer, plan_of, reader_of

from captioner.images import Augmentation, ImageTransform
from trainers.shards.batches import training_batches
from trainers.shards.data import find_data
from trainers.shards.engines import find_engine


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """The shards that are left, and how many good samples they hold."""
    folder = tmp_path_factory.mktemp("corpus")
    num_good = 0
    for number, kind in enumerate(all_kinds()):
        num_good += len(write_kind(kind, folder / f"{number:03d}.tar").good)
    return find_data([str(folder)], progress=False), num_good


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("batch_size", [8, 32, 64])
def test_every_good_sample_of_every_bad_shard_is_trained_on(corpus, batch_size, engine):
    data, num_good = corpus
    shards = list(data.shards)
    reader, _ = reader_of(shards, tokenizer=BlindTokenizer())
    dataset = training_batches(
        plan_of(shards),
        reader,
        find_engine(engine)[1],
        batch_size=batch_size,
        transform=ImageTransform(image_size=(24, 20)),
        augmentation=Augmentation(min_crop_area=0.5, horizontal_flip=True),
        num_epochs=1,
    )
    shown = 0
    for x, _, weight in dataset.as_numpy_iterator():
        assert np.isfinite(x["images"]).all()
        shown += int(weight.any((1, 2)).sum())
    assert len(reader.problems) == 0 and shown == num_good > 300
