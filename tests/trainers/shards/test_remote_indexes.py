"""Indexes of remote shards: the server's where it has one, else made here; and a shard that is not the indexed one is refused."""

import os

import loopback
import pytest
from bad_shards import good_sample, tar

from captioner.fetch import DownloadError
from trainers.shards.build_index import build_indexes
from trainers.shards.data import find_data
from trainers.shards.filters import ShardFilters
from trainers.shards.identity import content_changed_since
from trainers.shards.index import ShardIndexError, index_path, read_index, read_summary
from trainers.shards.inspection import inspect_shards
from trainers.shards.remote import ShardCache
from trainers.shards.remote_files import RemoteFiles
from trainers.shards.remote_indexes import index_address


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


def addresses(server, numbers=range(3)):
    return [f"{server.address}/{number:05d}.tar" for number in numbers]


def bring(cache, server, numbers=range(3)):
    shards = addresses(server, numbers)
    report = build_indexes(shards, num_processes=1, progress=False, cache=cache)
    assert all(status.problem is None for status in report.statuses)
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
        build_indexes(shards, num_processes=3, progress=False, cache=cache)
        assert [len(keys(cache.local_path(shard))) for shard in shards] == [1, 1, 2]


def test_a_shard_that_is_no_tar_is_an_index_of_nothing_with_its_reason(cache, server):
    server.files["/00002.tar"] = b"<html>"
    _, places = bring(cache, server, [2])
    assert keys(places[0]) == [] and read_summary(index_path(places[0])).problems


def test_a_missing_shard_stops_the_start(cache, server):
    with pytest.raises(DownloadError, match=r"00009.tar: the server answered 404"):
        find_data([f"{server.address}/{number}.tar" for number in ("00002", "00009")], cache=cache)
    assert "/00002.tar" not in [path for path, _ in server.requests]  # nothing was fetched before it was seen


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


def find(cache, server, numbers=range(3)):
    return find_data(addresses(server, numbers), cache=cache, progress=False)


def asked(server):
    """The paths that were fetched since the last call."""
    paths = [path for path, _ in server.requests]
    server.requests.clear()
    return sorted(paths)


def test_indexes_that_have_not_changed_cost_a_head_request_or_two_and_nothing_else(cache, server):
    find(cache, server)
    asked(server), server.heads.clear()
    find(cache, server)
    assert asked(server) == []
    shards, indexes = [f"/{n:05d}.tar" for n in range(3)], ["/00000.index.npz", "/00001.index.npz"]
    assert sorted(server.heads) == sorted(shards + indexes)


def test_an_index_that_was_made_anew_at_the_server_replaces_the_one_in_the_cache(cache, server, tmp_path):
    find(cache, server)
    asked(server)
    path = tmp_path / "00000.tar"
    build_indexes([str(path)], filters=ShardFilters(min_caption_words=99), progress=False)
    server.files["/00000.index.npz"] = index_path(path).read_bytes()
    assert [summary.num_samples for summary in find(cache, server).summaries] == [0, 1, 2]
    assert asked(server) == ["/00000.index.npz"]


def test_an_index_that_is_gone_or_wrong_at_the_server_is_used_as_long_as_its_shard_is_the_same(cache, server):
    find(cache, server)
    asked(server)
    del server.files["/00000.index.npz"]
    assert inspect_shards(addresses(server), cache).counts == {}
    assert asked(server) == ["/00000.index.npz"]  # as HEAD may be refused where the file is
    cache.open_shard(addresses(server)[0]).close()
    server.files["/00000.index.npz"] = server.files["/00001.index.npz"]  # nor is that of another shard
    assert inspect_shards(addresses(server), cache).counts == {}
    assert keys(cache.local_path(addresses(server)[0])) == ["000000000"]


@pytest.mark.parametrize("is_fetched", [False, True])
def test_the_index_of_another_shard_is_not_taken_and_not_passed_over_in_silence(cache, server, is_fetched):
    if is_fetched:  # of the same length then: a look into the shard tells
        cache.open_shard(addresses(server, [0])[0]).close()
        server.files["/00000.index.npz"] = server.files["/00001.index.npz"]
    else:
        server.files["/00000.tar"] += bytes(512)
    says = "00000.tar is not of its present content: the index beside it is of another shard"
    with pytest.raises(ShardIndexError, match=says):
        find(cache, server, [0])
    report = build_indexes([f"{server.address}/00000.tar"], cache=cache, progress=False)
    assert "indexed anew: the index beside it is of another shard" in report.statuses[0].note
    assert find(cache, server, [0]).summaries[0].num_samples == 1


def test_training_indexes_anew_without_filters_what_was_indexed_so_and_says_it(cache, server, caplog):
    find(cache, server, [2])
    server.files["/00002.tar"] = server.files["/00000.tar"]
    assert find(cache, server, [2]).summaries[0].num_samples == 1
    assert "00002.tar: indexed anew: its" in caplog.text


def test_training_refuses_an_outdated_index_whose_filters_it_does_not_know(cache, server):
    address = f"{server.address}/00002.tar"
    build_indexes([address], filters=ShardFilters(min_side_px=2), cache=cache, progress=False)
    server.files["/00002.tar"] = server.files["/00000.tar"]
    server.files["/00002.index.npz"] = server.files["/00000.index.npz"]  # nor does it take another one
    with pytest.raises(ShardIndexError, match=r"00002.tar is not of its present content: its .*shards index"):
        find(cache, server, [2])
    assert read_summary(index_path(cache.local_path(address))).filters["min_side_px"] == 2


def test_training_from_indexes_in_the_cache_needs_no_server_and_says_so(cache, server, caplog):
    find(cache, server)
    cache.remote.num_retries = 0
    server.ways |= {path: loopback.status(503) for path in server.files}
    assert [summary.num_samples for summary in find(cache, server).summaries] == [1, 1, 2]
    assert "Whether 3 of 3 remote shards have changed is not known" in caplog.text and "503" in caplog.text
    assert {status.problem.reason for status in inspect_shards(addresses(server), cache).statuses} == {
        "shard not fetched"
    }
    index_path(cache.local_path(f"{server.address}/00001.tar")).unlink()
    with pytest.raises(DownloadError, match=r"00001.tar .*503"):
        find(cache, server)


def test_a_server_that_gives_no_answer_is_asked_once_for_each_further_file_until_it_does(server):
    remote = RemoteFiles(timeout_s=5.0, num_retries=3, first_delay_s=0.0)
    server.head = loopback.status(503)
    for number in range(3):
        with pytest.raises(DownloadError, match="503"):
            remote.look_up(f"{server.address}/{number:05d}.tar")
    assert server.heads == ["/00000.tar"] * 4 + ["/00001.tar", "/00002.tar"]
    server.head = loopback.whole
    remote.look_up(f"{server.address}/00000.tar")
    server.head = loopback.status(503)
    server.heads.clear()
    with pytest.raises(DownloadError):
        remote.look_up(f"{server.address}/00001.tar")
    assert len(server.heads) == 4


def test_remote_shards_need_a_cache(server):
    with pytest.raises(ValueError, match=r"without a `cache`; received 'http://host/0.tar'"):
        find_data(["http://user:secret@host/0.tar"])


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
