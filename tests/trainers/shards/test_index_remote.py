"""Indexing remote shards: each is fetched once and again only when it has changed, whatever it is fetched from."""

import contextlib
import json
import os
import threading

import fsspec
import loopback
import pytest
from bad_shards import CAPTION, entries, good_sample, jpeg, tar

from trainers.shards import check_many
from trainers.shards.build_index import build_indexes
from trainers.shards.cache_folder import CacheLimitError
from trainers.shards.data import find_data
from trainers.shards.filters import ShardFilters
from trainers.shards.index import index_path, read_index, read_summary
from trainers.shards.inspection import inspect_shards
from trainers.shards.origins import origin_path, read_origin
from trainers.shards.remote import ShardCache
from trainers.shards.report import write_report

NAMES = [f"{number:05d}.tar" for number in range(3)]
BAD = entries(("bad.jpg", b"no image"), ("bad.txt", CAPTION))


def shard_of(number, *more):
    return tar([*good_sample(f"{number:05d}0000"), *good_sample(f"{number:05d}0001"), *more])


class HttpStore:
    """A web server."""

    def __init__(self, server):
        self.server, self.address = server, server.address

    def put(self, name, data):
        self.server.files[f"/{name}"] = data

    def remove(self, name):
        del self.server.files[f"/{name}"]


class MemoryStore:
    """fsspec's memory."""

    def __init__(self):
        self.system, self.address = fsspec.filesystem("memory"), "memory://shards"

    def put(self, name, data):
        self.system.pipe(f"/shards/{name}", data)

    def remove(self, name):
        self.system.rm(f"/shards/{name}")


@pytest.fixture(params=["http", "memory"])
def store(request):
    """Three shards of two good samples, the second with a bad one, and no index."""
    with contextlib.ExitStack() as stack:
        if request.param == "http":
            store = HttpStore(stack.enter_context(loopback.serving({})))
        else:
            store = MemoryStore()
            stack.callback(lambda: store.system.rm("/shards", recursive=True))
        for number, name in enumerate(NAMES):
            store.put(name, shard_of(number, *(BAD if number == 1 else [])))
        yield store


@pytest.fixture
def cache(tmp_path):
    with ShardCache(tmp_path / "cache", 10**6, num_retries=1, first_delay_s=0.001, room_timeout_s=2) as cache:
        yield cache


def addresses(store, names=NAMES):
    return [f"{store.address}/{name}" for name in names]


def build(cache, store, names=NAMES, num_processes=1, **filters):
    return build_indexes(
        addresses(store, names),
        filters=ShardFilters(**filters),
        num_processes=num_processes,
        progress=False,
        cache=cache,
    )


def drop_shards(cache, store):
    """Empties the cache of shards: those that are there later were fetched again."""
    for shard in addresses(store):
        os.remove(cache.local_path(shard))


def fetched(cache, store):
    return [name for name in NAMES if os.path.exists(cache.local_path(f"{store.address}/{name}"))]


def keys(cache, shard):
    index = read_index(index_path(cache.local_path(shard)))
    return [index.sample_key(row) for row in range(index.num_samples)]


def notes(report):
    return [status.note for status in report.statuses]


def test_the_report_and_the_indexes_are_those_of_the_same_files_on_the_disk(cache, store, tmp_path):
    for number, name in enumerate(NAMES):
        (tmp_path / name).write_bytes(shard_of(number, *(BAD if number == 1 else [])))
    paths = [str(tmp_path / name) for name in NAMES]
    local, remote = build_indexes(paths, num_processes=1, progress=False), build(cache, store)
    described = []
    for name, report in (("local", local), ("remote", remote)):
        write_report(tmp_path / name, report)
        content = json.loads((tmp_path / name).read_text())
        for shard in content["shards"]:
            assert shard.pop("index").endswith(".index.npz")
            shard["shard"] = os.path.basename(shard["shard"])
        described.append(content)
    assert described[0] == described[1] and described[0]["counts"] == {"undecodable image": 1}
    assert [status.shard for status in remote.statuses] == addresses(store)
    assert [keys(cache, shard) for shard in addresses(store)] == [keys(cache, path) for path in paths]


def test_training_uses_what_was_indexed_with_filters_and_fetches_no_shard_for_it(cache, store):
    build(cache, store, min_side_px=2)
    drop_shards(cache, store)
    data = find_data(addresses(store), cache=cache, progress=False)
    assert fetched(cache, store) == []
    assert [summary.filters["min_side_px"] for summary in data.summaries] == [2, 2, 2]
    assert data.summaries[1].problems[0].item == "00001.tar/bad"


def test_a_limit_without_room_for_what_is_read_is_an_error_and_no_lost_sample(cache, store):
    build(cache, store)
    data = find_data(addresses(store), cache=cache, progress=False)
    drop_shards(cache, store)
    shards = data.opened(shuffle_buffer=6)
    shards.encoded(0, 0)
    cache.files.limit_bytes = cache.files.num_bytes() + 1000
    cache.room_timeout_s = 0.1
    with pytest.raises(CacheLimitError, match="Give it a higher limit"):
        shards.encoded(1, 0)


def test_the_same_command_fetches_nothing_again_and_other_filters_all(cache, store):
    assert notes(build(cache, store)) == ["indexed"] * 3
    drop_shards(cache, store)
    report = build(cache, store)
    assert notes(report) == ["up to date"] * 3 and report.num_samples == 6
    assert fetched(cache, store) == []
    assert all("other filters" in note for note in notes(build(cache, store, min_side_px=2)))
    assert fetched(cache, store) == NAMES


@pytest.mark.parametrize(
    ("more", "says"), [(bytes(512), "its size changed from"), (b"", "its ETag or date is another")]
)
def test_a_shard_that_has_changed_is_noticed_fetched_and_said_and_no_other_one(cache, store, more, says):
    build(cache, store)
    drop_shards(cache, store)
    store.put(NAMES[1], shard_of(8) + more)
    checked = inspect_shards(addresses(store), cache)
    assert [status.problem and status.problem.reason for status in checked.statuses] == [
        None,
        "outdated index",
        None,
    ]
    assert says in checked.statuses[1].note and fetched(cache, store) == []
    assert says in notes(build(cache, store))[1] and fetched(cache, store) == [NAMES[1]]
    assert keys(cache, addresses(store)[1]) == ["000080000", "000080001"]
    assert notes(build(cache, store)) == ["up to date"] * 3


def test_a_shard_that_lies_in_the_cache_and_has_changed_is_not_indexed_again_as_it_was(cache, store):
    build(cache, store)
    store.put(NAMES[0], shard_of(7))
    build(cache, store)
    assert keys(cache, addresses(store)[0]) == ["000070000", "000070001"]


def test_an_index_that_the_server_has_is_taken_if_it_was_made_with_the_same_filters(cache, store, tmp_path):
    (tmp_path / NAMES[0]).write_bytes(shard_of(0))
    filters = ShardFilters(min_caption_words=2)
    build_indexes([str(tmp_path / NAMES[0])], filters=filters, num_processes=1, progress=False)
    store.put("00000.index.npz", index_path(tmp_path / NAMES[0]).read_bytes())
    assert notes(build(cache, store, NAMES[:1], min_caption_words=2)) == ["up to date"]
    assert fetched(cache, store) == []
    assert "other filters" in notes(build(cache, store, NAMES[:1]))[0]
    assert fetched(cache, store) == NAMES[:1]
    assert notes(build(cache, store, NAMES[:1])) == ["up to date"]  # the server's does not come back


def test_a_shard_that_cannot_be_fetched_is_named_with_its_reason_and_keeps_no_one_waiting(
    cache, store, tmp_path
):
    store.remove(NAMES[1])
    local = tmp_path / "local.tar"
    local.write_bytes(shard_of(5))
    for num_processes in (1, 2):
        shards = [*addresses(store), str(local)]
        report = build_indexes(shards, num_processes=num_processes, progress=False, cache=cache)
        assert [status.num_samples for status in report.statuses] == [2, 0, 2, 2]
        assert report.counts == {"shard not fetched": 1}
        assert report.statuses[1].problem.item == NAMES[1] and NAMES[1] in report.statuses[1].problem.detail
        for shard in shards:
            index_path(cache.local_path(shard)).unlink(missing_ok=True)
    store.put(NAMES[1], shard_of(1))
    assert build(cache, store).num_samples == 6


def test_an_interrupted_run_goes_on_behind_the_last_index(cache, store, monkeypatch):
    check = check_many.check_shard

    def interrupted(shard, *args):
        if shard.endswith(NAMES[1]):
            raise KeyboardInterrupt
        return check(shard, *args)

    monkeypatch.setattr(check_many, "check_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(cache, store)
    monkeypatch.setattr(check_many, "check_shard", check)
    os.remove(cache.local_path(addresses(store)[0]))
    assert notes(build(cache, store)) == ["up to date", "indexed", "indexed"]
    assert fetched(cache, store) == NAMES[1:]


def test_processes_index_more_than_the_cache_holds_and_each_shard_is_indexed(tmp_path):
    names = [f"{number:05d}.tar" for number in range(7)]
    shards = [shard_of(number) + bytes(300_000) for number in range(7)]
    with loopback.serving({f"/{name}": data for name, data in zip(names, shards, strict=True)}) as server:
        room = 2 * len(shards[0]) + 60_000  # two shards, and the indexes of all
        with ShardCache(tmp_path / "cache", room, first_delay_s=0.001, num_ahead=1) as cache:
            report = build(cache, server, names, num_processes=2)
            assert report.num_samples == 14 and not report.counts
            assert [keys(cache, shard)[0] for shard in addresses(server, names)] == [
                f"{number:05d}0000" for number in range(7)
            ]
            assert notes(build(cache, server, names)) == ["up to date"] * 7


def test_a_shard_that_is_more_than_the_cache_is_named_and_the_others_are_indexed(store, tmp_path):
    store.put(NAMES[1], shard_of(1) + bytes(300_000))
    with ShardCache(tmp_path / "cache", 200_000, first_delay_s=0.001) as cache:
        report = build(cache, store)
    assert [status.num_samples for status in report.statuses] == [2, 0, 2]
    assert "Give it a higher limit" in report.statuses[1].problem.detail


def letters_of(letters, number):
    """A shard with an image for each letter."""
    return tar(
        [
            entry
            for place, letter in enumerate(letters)
            for entry in entries(
                (f"{number}{place}.jpg", jpeg(ord(letter))), (f"{number}{place}.txt", CAPTION)
            )
        ]
    )


def test_of_equal_images_the_first_is_kept_over_local_and_remote_shards(cache, store, tmp_path):
    (tmp_path / "local.tar").write_bytes(letters_of("AAB", 0))
    store.put(NAMES[1], letters_of("BCA", 1))
    store.put(NAMES[2], letters_of("CDE", 2))
    shards = [str(tmp_path / "local.tar"), *addresses(store)[1:]]
    given = {"filters": ShardFilters(drop_duplicates=True), "num_processes": 1, "progress": False}
    report = build_indexes(shards, cache=cache, **given)
    assert [keys(cache, shard) for shard in shards] == [["00", "02"], ["11"], ["21", "22"]]
    assert report.counts == {"duplicate image": 4}
    store.remove(NAMES[1])  # what is behind it was decided with it, and stays
    report = build_indexes(shards, cache=cache, **given)
    assert [status.note.partition(":")[0] for status in report.statuses] == [
        "up to date",
        "shard not fetched",
        "up to date",
    ]


def test_servers_are_asked_of_many_shards_at_a_time(cache):
    meeting = threading.Barrier(8, timeout=60)

    def together(handler, server):
        meeting.wait()  # broken, and an error in the test, if fewer than eight come at a time
        loopback.whole(handler, server)

    names = [f"{number:05d}.tar" for number in range(8)]
    with loopback.serving({f"/{name}": b"" for name in names}) as server:
        server.head = together
        report = inspect_shards(addresses(server, names), cache)
    assert report.counts == {"no index": 8} and not meeting.broken


def test_an_index_whose_origin_is_lost_is_made_anew(cache, store):
    build(cache, store)
    place = cache.local_path(addresses(store)[2])
    assert read_origin(index_path(place)) == read_origin(place) and read_origin(place).index is None
    origin_path(index_path(place)).write_text("{")
    assert read_origin(index_path(place)) is None
    assert "not known" in notes(build(cache, store))[2]
    assert read_summary(index_path(place)).num_samples == 2
