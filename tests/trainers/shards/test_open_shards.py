"""Shards that are read while training: how much of them is open at a time."""

import os
import zlib

import numpy as np
from shards import encoded, open_all, write_shard

from trainers.shards import open_shards
from trainers.shards.index import index_path, read_index


def test_few_files_and_indexes_are_open_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(open_shards, "MAX_OPEN_FILES", 3)
    pictures = [np.full((8, 7, 3), 25 * number, "uint8") for number in range(9)]
    shards = [
        write_shard(tmp_path / f"{n}.tar", [(str(n), encoded(picture), ["5"])])
        for n, picture in enumerate(pictures)
    ]
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    opened = open_all(shards, max_indexes=2)
    for shard in range(9):
        assert zlib.crc32(opened.image(shard, 0)[0]) == read_index(index_path(shards[shard])).image_crc32[0]
    assert opened._read_index.cache_info().currsize == 2
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) - before <= 3
        del opened
        assert len(os.listdir("/proc/self/fd")) == before
