"""Shards that are checked in processes while a cache has no room, or fails."""

import contextlib
import io
import time

import pytest
from bad_shards import good_sample, tar
from tqdm import tqdm

from trainers.shards.cache_folder import CacheLimitError
from trainers.shards.check_many import check_many
from trainers.shards.filters import ShardFilters

ADDRESSES = [f"http://host/{number}.tar" for number in range(3)]


class FakeCache:
    """Opens local files for addresses; `before[number]` is called first, and may raise."""

    num_ahead = 1

    def __init__(self, folder):
        self.folder, self.before, self.files, self.wanted = folder, {}, [], []
        for number in range(len(ADDRESSES)):
            (folder / f"{number}.tar").write_bytes(tar(good_sample(str(number))))

    def want(self, shards):
        self.wanted.append(list(shards))

    def open_shard(self, address):
        number = int(address[-5])
        self.before.pop(number, lambda: None)()
        self.files.append(io.FileIO(self.folder / f"{number}.tar"))
        return self.files[-1]


@pytest.fixture
def cache(tmp_path):
    return FakeCache(tmp_path)


def check(cache, num_processes):
    with tqdm(disable=True) as bar:
        results = list(check_many(ADDRESSES, ShardFilters(), num_processes, bar, cache))
    assert all(file.closed for file in cache.files)
    assert [shard for shard, _, _ in results] == ADDRESSES
    return [checked for _, checked, _ in results]


@pytest.mark.parametrize("num_processes", [1, 2])
def test_only_the_next_shards_are_wanted_and_none_at_the_end(cache, num_processes):
    assert [checked.summary.num_samples for checked in check(cache, num_processes)] == [1, 1, 1]
    assert cache.wanted == [ADDRESSES[:2], ADDRESSES[1:], ADDRESSES[2:], []]


def test_a_lack_of_room_is_no_failure_if_room_was_made_before_it_is_told(cache):
    def no_room():
        deadline = time.monotonic() + 60
        while not cache.files[0].closed:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        raise CacheLimitError("no room beside the first")

    cache.before[1] = no_room
    assert [checked.summary.num_samples for checked in check(cache, 2)] == [1, 1, 1]


@pytest.mark.parametrize("num_processes", [1, 2])
def test_a_full_disk_is_not_the_fault_of_a_shard_and_ends_it(cache, num_processes):
    def full():
        raise OSError("the disk is full")

    cache.before[2] = full
    given = []
    with tqdm(disable=True) as bar, pytest.raises(OSError, match="the disk is full"):
        checked = check_many(ADDRESSES, ShardFilters(), num_processes, bar, cache)
        with contextlib.closing(checked):
            given.extend(shard for shard, _, _ in checked)
    assert num_processes == 2 or given == ADDRESSES[:2]
    assert cache.wanted[-1] == []
