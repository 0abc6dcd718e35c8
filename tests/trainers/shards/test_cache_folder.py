"""The folder of the cache alone: what counts, what may go, and what happens at the same time."""

import contextlib
import fcntl
import os
import threading

import pytest

from trainers.shards.cache_folder import CacheFolder, CacheLimitError, fetched_path


@pytest.fixture
def files(tmp_path):
    return CacheFolder(tmp_path / "cache", 1000)


def place(files, number):
    return files.place(f"http://host/{number}.tar")


def fetched(files, number, size, last_used_s=None):
    """A shard of some size, as if it had been fetched."""
    with files.fetching(place(files, number), check_stopped=lambda: None):
        assert files.reserve(place(files, number), size)
        fetched_path(place(files, number)).write_bytes(bytes(size))
        files.publish(fetched_path(place(files, number)), place(files, number)).close()
    if last_used_s is not None:
        os.utime(place(files, number), (last_used_s, 0))


def test_room_that_is_reserved_counts_before_a_byte_is_there(files):
    with files.fetching(place(files, 1), check_stopped=lambda: None):
        assert files.reserve(place(files, 1), 600)
        assert not files.reserve(place(files, 2), 401)
        fetched_path(place(files, 1)).write_bytes(bytes(250))  # what is there takes of what is reserved
        assert not files.reserve(place(files, 2), 401)
        assert files.reserve(place(files, 2), 400)
    assert files.reserve(place(files, 3), 750)  # and nothing is reserved when the fetching is over


def test_a_longer_reservation_replaces_the_shorter_one(files):
    with files.fetching(place(files, 1), check_stopped=lambda: None):
        assert files.reserve(place(files, 1), 600) and files.reserve(place(files, 1), 1000)
        assert not files.reserve(place(files, 2), 1)


def test_no_more_is_removed_than_must_be(files):
    for number in (1, 2, 3):
        fetched(files, number, 300, last_used_s=10 - number)
    assert files.reserve(place(files, 4), 350)
    assert [place(files, number).exists() for number in (1, 2, 3)] == [True, True, False]


def test_what_nobody_goes_on_with_is_removed_as_well(files):
    fetched(files, 1, 300)
    (fetched_path(place(files, 2))).write_bytes(bytes(300))
    part = fetched_path(place(files, 3)).with_name("3.tar.fetched.part")
    part.write_bytes(bytes(300))
    assert files.reserve(place(files, 4), 1000)
    assert files.num_bytes() == 4  # the note of the reservation


def test_a_file_that_is_more_than_the_cache_is_refused(files):
    with pytest.raises(
        CacheLimitError, match=r"1.tar has 1,001 bytes, and the limit of the cache .* is 1,000"
    ):
        files.reserve(place(files, 1), 1001)
    with pytest.raises(ValueError, match="`limit_bytes` must be at least 1"):
        CacheFolder(files.folder, 0)


def test_a_file_that_is_removed_while_it_is_opened_is_not_there(files):
    fetched(files, 1, 10)
    opened = []
    with open(place(files, 1), "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # as who removes it does
        opening = threading.Thread(target=lambda: opened.append(files.open(place(files, 1))))
        opening.start()
        opening.join(0.3)
        assert opening.is_alive()
        place(files, 1).unlink()
    opening.join()
    assert opened == [None]


def test_one_fetches_and_the_other_waits(files):
    class Stopped(Exception):
        pass

    def stop():
        raise Stopped

    with files.fetching(place(files, 1), check_stopped=lambda: None):
        with contextlib.suppress(Stopped), files.fetching(place(files, 1), check_stopped=stop):
            raise AssertionError("two fetch at once")
        with files.fetching(place(files, 2), check_stopped=stop):
            pass


def test_opening_counts_as_use_and_leaves_the_time_of_change(files):
    fetched(files, 1, 10, last_used_s=5)
    before = place(files, 1).stat()
    files.open(place(files, 1)).close()
    after = place(files, 1).stat()
    assert after.st_atime > before.st_atime and after.st_mtime_ns == before.st_mtime_ns


def test_what_gets_its_place_while_room_is_made_is_not_taken_for_removed(files, monkeypatch):
    shard = place(files, 1)
    shard.parent.mkdir(parents=True)
    fetched_path(shard).write_bytes(bytes(800))
    survey = files._survey

    def survey_and_publish(own):
        seen = survey(own)
        os.replace(fetched_path(shard), shard)
        return seen

    monkeypatch.setattr(files, "_survey", survey_and_publish)
    assert not files.reserve(place(files, 2), 500)
    monkeypatch.setattr(files, "_survey", survey)
    assert files.num_bytes() == 800
    assert files.reserve(place(files, 2), 500)
    assert not shard.exists()
