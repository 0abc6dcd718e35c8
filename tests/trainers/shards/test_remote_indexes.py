"""Indexes of remote shards: the server's where it has one, else made here; and a shard that is not the indexed one is refused."""

import os

import loopback
import pytest
from bad_shards import good_sample, tar

from captioner.fetch import DownloadError
from trainers.shards.build_index import build_indexes
from trainers.shards.identity import content_changed_since
from trainers.shards.index import index_path, read_index, read_summary
from trainers.shards.remote import ShardCache
from trainers.shards.remote_indexes import bring_indexes, index_address


def keys(shard):
    index = read_index(index_path(shard))
    return [index.sample_key(row) for row in range(index.num_samples)]


@pytest.fixture
def server(tmp_path):
    """Three shards of two samples, of which the first two have an index that knows of one only."""
    files = {}
    for number in range(3):
        members = [good_sample(f"{number:05d}{place:04d}") for place in range(2)]
        path = tmp_path / f"{number:05d}.tar"
        path.write_bytes(tar([*members[0], *members[1]]))
        files[f"/{path.name}"] = path.read_bytes()
        if number < 2:
            path.write_bytes(tar(members[0]))
            build_indexes([str(path)], num_processes=1, progress=False)
            files[f"/{path.name}"] = path.read_bytes()
            files[f"/{number:05d}.index.npz"] = index_path(path).read_bytes()
    with loopback.serving(files) as running:
        yield running


@pytest.fixture
def cache(tmp_path):
    with ShardCache(tmp_path / "cache", 10**6, first_delay_s=0.001) as cache:
        yield cache


def bring(cache, server, numbers=range(3)):
    shards = [f"{server.address}/{number:05d}.tar" for number in numbers]
    assert bring_indexes(cache, shards, num_processes=1, progress=False) == {}
    return shards, [cache.local_path(shard) for shard in shards]


def test_an_index_of_the_server_is_taken_and_another_is_made(cache, server):
    _, places = bring(cache, server)
    assert [keys(place) for place in places] == [["000000000"], ["000010000"], ["000020000", "000020001"]]
    assert [os.path.exists(place) for place in places] == [False, False, True]
    bring(cache, server)
    assert sorted(path for path, _ in server.requests) == [f"/{n:05d}.index.npz" for n in range(3)] + [
        "/00002.tar"
    ]


def test_images_lie_where_the_index_says(cache, server):
    shards, places = bring(cache, server)
    for shard, place in zip(shards, places, strict=True):
        index = read_index(index_path(place))
        with cache.open_shard(shard) as file:
            image = os.pread(file.fileno(), int(index.image_size[0]), int(index.image_offset[0]))
        assert image.startswith(b"\xff\xd8") and image.endswith(b"\xff\xd9")


@pytest.mark.parametrize("answer", [b"<html>not found</html>", b""])
def test_a_page_instead_of_an_index_is_no_index(cache, server, answer):
    server.files["/00000.index.npz"] = answer
    _, places = bring(cache, server, [0])
    assert keys(places[0]) == ["000000000"] and os.path.exists(places[0])


def test_many_shards_are_indexed_in_a_cache_that_holds_one(server, tmp_path):
    for number in range(2):
        del server.files[f"/{number:05d}.index.npz"]
    room = 2 * len(server.files["/00002.tar"]) + 12_000
    with ShardCache(tmp_path / "cache", room, first_delay_s=0.001, room_timeout_s=2) as cache:
        shards = [f"{server.address}/{number:05d}.tar" for number in range(3)]
        bring_indexes(cache, shards, num_processes=3, progress=False)
        assert [len(keys(cache.local_path(shard))) for shard in shards] == [1, 1, 2]


def test_a_shard_that_is_no_tar_is_an_index_of_nothing_with_its_reason(cache, server):
    server.files["/00002.tar"] = b"<html>"
    _, places = bring(cache, server, [2])
    assert keys(places[0]) == [] and read_summary(index_path(places[0])).problems


def test_a_missing_shard_stops_the_start(cache, server):
    with pytest.raises(DownloadError, match=r"00009.tar: the server answered 404"):
        bring(cache, server, [9])


@pytest.mark.parametrize("change", ["shorter", "other head"])
def test_a_shard_that_is_not_the_indexed_one_is_refused_and_all_is_fetched_anew_next_time(
    cache, server, change
):
    shards, places = bring(cache, server, [0])
    old = server.files["/00000.tar"]
    server.files["/00000.tar"] = old[:-512] if change == "shorter" else b"\x01" + old[1:]
    says = "its size changed" if change == "shorter" else "its first 64 KiB changed"
    with pytest.raises(DownloadError, match=f"00000.tar is not the shard that its index was made of: {says}"):
        cache.open_shard(shards[0])
    assert not os.path.exists(places[0]) and not index_path(places[0]).exists()
    server.files["/00000.tar"] = old
    with ShardCache(cache.files.folder, 10**6) as later:
        bring(later, server, [0])
        later.open_shard(shards[0]).close()


def test_a_new_index_drops_the_shard_of_an_older_one(cache, server):
    shards, places = bring(cache, server, [2])
    index_path(places[0]).unlink()
    server.files |= {
        "/00002.tar": server.files["/00000.tar"],
        "/00002.index.npz": server.files["/00000.index.npz"],
    }
    bring(cache, server, [2])
    assert not os.path.exists(places[0])
    with cache.open_shard(shards[0]):
        assert content_changed_since(places[0], read_summary(index_path(places[0]))) == ""


def test_local_shards_are_left_alone(cache, tmp_path, server):
    assert bring_indexes(cache, [str(tmp_path / "00002.tar")], progress=False) == {}
    assert not index_path(tmp_path / "00002.tar").exists()


@pytest.mark.parametrize(
    ("shard", "index"),
    [
        ("s3://bucket/a/00000.tar", "s3://bucket/a/00000.index.npz"),
        ("http://host/a.tar/00000.tar?key=x.y", "http://host/a.tar/00000.index.npz?key=x.y"),
        ("http://host/download?file=00000.tar", "http://host/download?file=00000.index.npz"),
        ("http://host/download?id=7", None),
        ("http://host/a.tar?path=b/c", None),
    ],
)
def test_an_index_is_looked_for_beside_its_shard(shard, index):
    assert index_address(shard) == index
