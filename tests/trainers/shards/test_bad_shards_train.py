"""Every kind of bad and unusual shard, together in one stream: each good sample is shown, nothing stops."""

import numpy as np
import pytest
from bad_shards import all_kinds, write_kind
from engines import ENGINES
from shards import augmented_epoch

from trainers.shards.data import find_data


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
    reader, dataset = augmented_epoch(shards, engine, batch_size)
    shown = 0
    for x, _, weight in dataset.as_numpy_iterator():
        assert np.isfinite(x["images"]).all()
        shown += int(weight.any((1, 2)).sum())
    assert len(reader.problems) == 0 and shown == num_good > 300
