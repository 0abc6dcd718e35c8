"""Remote shards: whole or absent, within the limit, whatever the server, the disk and other processes do."""

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time

import fsspec
import loopback
import numpy as np
import pytest

from captioner.fetch import DownloadError
from trainers.shards.cache_folder import CacheFolder, CacheLimitError
from trainers.shards.remote import ShardCache

SIZE = 200_000
DATA = [np.random.default_rng(n).integers(0, 256, SIZE).astype("uint8").tobytes() for n in range(8)]
FILES = {f"/data/{number:05d}.tar": data for number, data in enumerate(DATA)}
ROOM = 4 * SIZE + 10_000  # for four shards and small things


@pytest.fixture
def server():
    with loopback.serving(dict(FILES)) as running:
        yield running


@pytest.fixture
def new_cache(tmp_path):
    """Makes caches, and closes them."""
    with contextlib.ExitStack() as stack:

        def make(limit_bytes=ROOM, **kwargs):
            settings = {"first_delay_s": 0.001, "timeout_s": 5.0, "num_retries": 2, "room_timeout_s": 1.0}
            return stack.enter_context(ShardCache(tmp_path / "cache", limit_bytes, **settings | kwargs))

        yield make


def addresses(server, *numbers):
    return [f"{server.address}/data/{number:05d}.tar" for number in numbers]


def asked(server):
    return [int(path[-9:-4]) for path, _ in server.requests]


def read(cache, address):
    with cache.open_shard(address) as file:
        return file.read()


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_local_shards_pass_through(new_cache, tmp_path):
    path = str(tmp_path / "00000.tar")
    (tmp_path / "00000.tar").write_bytes(b"local")
    cache = new_cache()
    assert cache.local_path(path) == path and read(cache, path) == b"local"
    cache.want([path])
    assert not (tmp_path / "cache").exists()


def test_a_shard_is_fetched_once_and_known_by_its_address_and_its_place(new_cache, server):
    cache = new_cache()
    address = addresses(server, 3)[0]
    place = cache.local_path(address)
    with cache.open_shard(place) as file:
        assert file.read() == DATA[3] and file.name == place and os.path.basename(place) == "00003.tar"
    assert read(cache, address) == DATA[3] and read(new_cache(), address) == DATA[3]
    assert asked(server) == [3]


def test_each_connection_may_drop_once_and_again(new_cache, server):
    server.script = [loopback.answering(limit=limit) for limit in range(1, SIZE, 10_007)]
    cache = new_cache()
    for number, address in enumerate(addresses(server, *range(8))):
        cache.want(addresses(server, *range(number, 8)))
        assert read(cache, address) == DATA[number]
    assert not server.script and len(server.requests) > 20
    assert any("Range" in headers for _, headers in server.requests)


def test_what_is_wanted_is_fetched_before_it_is_asked_for(new_cache, server):
    cache = new_cache(num_ahead=3)
    cache.want(addresses(server, 2, 0, 5, 1))
    wait_until(lambda: len(cache._ahead) == 3)
    assert sorted(asked(server)) == [0, 2, 5]  # no more than three
    assert read(cache, addresses(server, 5)[0]) == DATA[5]
    wait_until(lambda: 1 in asked(server))  # there is room for another one
    assert read(cache, addresses(server, 2)[0]) == DATA[2]
    assert sorted(asked(server)) == [0, 1, 2, 5]


def test_no_more_threads_than_were_asked_for_fetch_ahead(new_cache, server):
    running, most = [], []

    def slow(handler, server):
        running.append(1)
        most.append(len(running))
        time.sleep(0.05)
        running.pop()
        loopback.whole(handler, server)

    server.script = [slow] * 6
    cache = new_cache(num_threads=2, limit_bytes=10 * SIZE)
    cache.want(addresses(server, *range(6)))
    wait_until(lambda: len(cache._ahead) == 6)
    assert max(most) == 2


def test_a_shard_that_is_needed_now_does_not_queue_behind_others(new_cache, server):
    server.script = [loopback.stalled(after=10)] * 2
    cache = new_cache(num_threads=2, timeout_s=30)
    cache.want(addresses(server, 0, 1))
    wait_until(lambda: len(server.requests) == 2)
    assert read(cache, addresses(server, 7)[0]) == DATA[7]


def test_the_limit_holds_at_every_moment(new_cache, server):
    cache = new_cache(num_ahead=8)
    sizes, stop = [], threading.Event()

    def watch():
        while not stop.is_set():
            sizes.append(cache.files.num_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    order = [*range(8), *range(8)]
    for place, number in enumerate(order):
        cache.want(addresses(server, *order[place:]))
        assert read(cache, addresses(server, number)[0]) == DATA[number]
    stop.set()
    watcher.join()
    assert 3 * SIZE < max(sizes) <= ROOM


def test_what_is_read_stays_and_of_the_others_the_longest_unused_goes(new_cache, server):
    cache = new_cache()
    places = [cache.local_path(address) for address in addresses(server, *range(8))]
    held = cache.open_shard(places[0])
    for number in (1, 2, 3, 1, 4):
        read(cache, places[number])
    assert [os.path.exists(place) for place in places[:5]] == [True, True, False, True, True]
    for number in (5, 6, 7):
        read(cache, places[number])
    assert os.path.exists(places[0])
    held.close()
    read(cache, places[1])
    assert not os.path.exists(places[0]) and os.path.exists(places[5])


def test_what_was_fetched_ahead_makes_room_for_what_is_needed_now(new_cache, server):
    cache = new_cache()
    cache.want(addresses(server, 0, 1, 2, 3))
    wait_until(lambda: len(cache._ahead) == 4)
    assert read(cache, addresses(server, 7)[0]) == DATA[7]
    assert list(cache._ahead) and os.path.exists(cache.local_path(addresses(server, 0)[0]))
    assert not os.path.exists(cache.local_path(addresses(server, 3)[0]))


def test_a_shard_without_room_is_an_error_that_names_the_limit(new_cache, server):
    with pytest.raises(
        CacheLimitError, match=r"00000.tar has 200,000 bytes, and the limit .* is 199,999. Give it"
    ):
        new_cache(SIZE - 1).open_shard(addresses(server, 0)[0])
    cache = new_cache(room_timeout_s=60.0)
    held = [cache.open_shard(address) for address in addresses(server, 0, 1, 2, 3)]
    started = time.monotonic()
    with pytest.raises(
        CacheLimitError, match=r"does not fit beside the 4 shards that are open .* is 810,000 bytes"
    ):
        cache.open_shard(addresses(server, 4)[0])
    assert time.monotonic() - started < 30  # no other process could make room
    held.pop().close()
    assert read(cache, addresses(server, 4)[0]) == DATA[4]


def test_a_shard_that_cannot_be_fetched_is_not_asked_for_again_at_once(new_cache, server):
    cache = new_cache(retry_after_s=600.0)
    address = f"{server.address}/data/00009.tar"
    for _ in range(3):
        with pytest.raises(DownloadError, match="404"):
            cache.open_shard(address)
    assert len(server.requests) == 1
    server.files["/data/00009.tar"] = b"now"
    cache.retry_after_s = 0.0
    assert read(cache, address) == b"now"


@pytest.mark.parametrize("protocol", ["memory", "file"])
def test_shards_in_any_store_of_fsspec(new_cache, tmp_path, protocol):
    address = f"{protocol}://{tmp_path}/bucket/00000.tar"
    with fsspec.open(address, "wb", auto_mkdir=True) as file:
        file.write(DATA[0])
    cache = new_cache()
    cache.want([address])
    assert read(cache, address) == DATA[0]


def test_neither_names_nor_files_of_the_cache_hold_a_password(new_cache, server, tmp_path):
    server.files["/data/00000.tar?key=secret"] = DATA[0]
    server.script = [loopback.answering(limit=10)]
    address = addresses(server, 0)[0].replace("://", "://user:secret@") + "?key=secret"
    cache = new_cache(num_retries=0)
    with pytest.raises(DownloadError) as error:
        cache.open_shard(address)
    shown = str(error.value) + "".join(
        f"{path} {path.read_bytes() if path.is_file() else ''}" for path in (tmp_path / "cache").rglob("*")
    )
    assert "secret" not in shown and ".part" in shown


@pytest.mark.parametrize(
    "address",
    [
        "http://host/../../x.tar",
        "http://host/%2e%2e%2fx.tar",
        "http://host/a/..",
        "http://../x",
        "http://host/.lock.tar",
        "s3://bucket/a\x00b/c.tar",
        "http://host/" + "x" * 5000 + ".tar",
        "memory://",
    ],
)
def test_no_address_leads_out_of_the_folder(tmp_path, address):
    place = CacheFolder(tmp_path, 1).place(address)
    assert place.parent.parent == tmp_path and place.parent.name not in (".", "..") and place.suffix == ".tar"
    assert len(place.name) < 120 and not place.name.startswith(".") and "%" not in place.name


def test_different_shards_have_different_places(tmp_path):
    shards = [
        "http://a/x.tar",
        "http://b/x.tar",
        "http://a/x.tar?v=1",
        "http://a/x.tar?v=2",
        "http://a/y/x.tar",
    ]
    shards += ["http://a/x", "http://a/x.tgz", "https://a/x.tar"]
    assert len({CacheFolder(tmp_path, 1).place(shard) for shard in shards}) == len(shards)
    plain, other = (CacheFolder(tmp_path, 1).place(f"http://{user}a/x.tar") for user in ("", "me:pw@"))
    assert plain == other


READ_ALL = """
import sys, hashlib
from trainers.shards.remote import ShardCache
with ShardCache(sys.argv[1], int(sys.argv[2]), first_delay_s=0.01) as cache:
    for turn in range(2):
        for place in range(3, len(sys.argv)):
            cache.want(sys.argv[place:])
            with cache.open_shard(sys.argv[place]) as file:
                print(hashlib.sha256(file.read()).hexdigest(), flush=True)
"""


def start(tmp_path, limit, *shards):
    words = [sys.executable, "-c", READ_ALL, str(tmp_path / "cache"), str(limit), *shards]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("limit", "num_requests"), [(9 * SIZE, 8), (ROOM, None)])
def test_processes_share_a_folder(server, tmp_path, limit, num_requests):
    running = [start(tmp_path, limit, *addresses(server, *range(8))) for _ in range(2)]
    expected = [hashlib.sha256(data).hexdigest() for data in DATA] * 2
    for process in running:
        out, err = process.communicate(timeout=60)
        assert out.split() == expected, err
    assert num_requests is None or len(server.requests) == num_requests
    assert CacheFolder(tmp_path / "cache", limit).num_bytes() <= limit


def test_a_killed_process_leaves_no_half_shard_and_no_lock(new_cache, server, tmp_path):
    server.script = [loopback.stalled(after=50_000)]
    process = start(tmp_path, 9 * SIZE, *addresses(server, 0))
    cache = new_cache(SIZE + 10_000)
    wait_until(lambda: sum(p.stat().st_size for p in (tmp_path / "cache").rglob("*.part")) == 50_000)
    process.kill()
    process.communicate()
    assert not os.path.exists(cache.local_path(addresses(server, 0)[0]))
    assert read(cache, addresses(server, 1)[0]) == DATA[1]  # its room is free again
    assert read(cache, addresses(server, 0)[0]) == DATA[0]


def test_a_partial_shard_is_gone_on_with_by_the_next_process(new_cache, server, tmp_path):
    server.script = [loopback.stalled(after=50_000)]
    process = start(tmp_path, 9 * SIZE, *addresses(server, 0))
    wait_until(lambda: sum(p.stat().st_size for p in (tmp_path / "cache").rglob("*.part")) == 50_000)
    process.kill()
    process.communicate()
    assert read(new_cache(9 * SIZE), addresses(server, 0)[0]) == DATA[0]
    assert server.requests[-1][1]["Range"] == "bytes=50000-"


def test_ctrl_c_waits_for_no_server(server, tmp_path):
    server.script = [loopback.stalled(after=50_000)] * 3
    process = start(tmp_path, 9 * SIZE, *addresses(server, 0, 1, 2))
    wait_until(lambda: len(server.requests) == 3)
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - started < 20 and "KeyboardInterrupt" in err


def test_closing_wakes_who_waits(new_cache, server):
    server.script = [loopback.stalled(after=10)]
    cache = new_cache(timeout_s=30)
    threading.Timer(0.2, cache.close).start()
    with pytest.raises(OSError, match=r"closed before http://.*00000.tar was there"):
        cache.open_shard(addresses(server, 0)[0])
