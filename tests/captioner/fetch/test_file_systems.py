"""Fetching through fsspec: the same promises as over HTTP, for any store."""

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

from captioner.fetch import DownloadError, fetch_through_fsspec, look_up_through_fsspec

DATA = np.random.default_rng(0).integers(0, 256, 700_001).astype("uint8").tobytes()
ADDRESS = "memory://bucket/file"


@pytest.fixture
def store():
    store = fsspec.filesystem("memory")
    store.pipe("/bucket/file", DATA)
    yield store
    store.rm("/bucket", recursive=True)


@pytest.fixture
def breaking(monkeypatch):
    """Reads that break after some bytes, once for each number in the list; lists where reading began."""

    class Breaking(MemoryFile):
        def __init__(self, data):
            super().__init__(data=data)
            self.left = limits.pop(0) if limits else len(data)

        def seek(self, offset, whence=0):
            starts.append(offset)
            return super().seek(offset, whence)

        def read(self, size=-1):
            if not self.left:
                raise RuntimeError("the store hung up")
            data = super().read(min(size, self.left))
            self.left -= len(data)
            return data

    limits, starts = [], []
    real = MemoryFileSystem._open
    monkeypatch.setattr(
        MemoryFileSystem,
        "_open",
        lambda self, *args, **kwargs: Breaking(real(self, *args, **kwargs).getvalue()),
    )
    return limits, starts


def test_a_file_of_any_store_comes_whole(store, tmp_path):
    shown = []
    fetched = fetch_through_fsspec(
        ADDRESS, tmp_path / "a" / "file", on_progress=lambda *pair: shown.append(pair)
    )
    assert (tmp_path / "a" / "file").read_bytes() == DATA and fetched.num_bytes == len(DATA)
    assert shown[0] == (0, len(DATA)) and shown[-1] == (len(DATA), len(DATA))
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["file"]
    (tmp_path / "local").write_bytes(b"")
    fetch_through_fsspec(f"file://{tmp_path}/local", tmp_path / "empty")
    assert (tmp_path / "empty").read_bytes() == b""


def test_a_broken_read_goes_on_where_it_stopped(store, breaking, tmp_path):
    limits, starts = breaking
    limits += [300_000, 1]
    delays = []
    fetch_through_fsspec(ADDRESS, tmp_path / "file", sleep=delays.append)
    assert (tmp_path / "file").read_bytes() == DATA
    assert [start for start in starts if start] == [300_000, 300_001] and delays == [1.0, 1.0]


def test_a_file_that_changed_meanwhile_is_fetched_anew(store, breaking, tmp_path):
    limits, _ = breaking
    limits += [300_000, 0]
    with pytest.raises(
        DownloadError, match=r"in 2 attempts: the connection broke after 300,000 bytes \(the store hung up"
    ):
        fetch_through_fsspec(ADDRESS, tmp_path / "file", num_retries=1, sleep=lambda seconds: None)
    store.pipe("/bucket/file", DATA[::-1])
    fetch_through_fsspec(ADDRESS, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == DATA[::-1]


@pytest.mark.parametrize(
    ("address", "says", "missing"),
    [
        ("memory://bucket/none", "memory://bucket/none cannot be fetched", True),
        (
            "nosuchstore://user:secret@bucket/file?secret",
            "nosuchstore://bucket/file\\?... cannot be fetched",
            False,
        ),
    ],
)
def test_what_cannot_be_fetched_is_refused_at_once_without_its_password(
    store, tmp_path, address, says, missing
):
    with pytest.raises(DownloadError, match=says) as error:
        fetch_through_fsspec(address, tmp_path / "file", sleep=None)
    assert error.value.missing is missing and "secret" not in str(error.value)


def test_a_store_is_asked_of_a_file_and_tells_what_it_tells_with_its_bytes(store, tmp_path):
    known = look_up_through_fsspec(ADDRESS)
    assert fetch_through_fsspec(ADDRESS, tmp_path / "file").remote == known and known.num_bytes == len(DATA)
    store.pipe("/bucket/file", DATA[::-1])
    assert look_up_through_fsspec(ADDRESS) != known


def test_a_store_that_breaks_is_asked_again_and_one_without_the_file_is_not(store, monkeypatch):
    delays = []
    with pytest.raises(DownloadError) as error:
        look_up_through_fsspec("memory://bucket/none", sleep=None)
    assert error.value.missing

    def broken(self, path, **kwargs):
        raise RuntimeError("the store hung up")

    monkeypatch.setattr(MemoryFileSystem, "info", broken)
    with pytest.raises(DownloadError, match=r"in 2 attempts: no connection \(the store hung up\)"):
        look_up_through_fsspec(ADDRESS, num_retries=1, sleep=delays.append)
    assert delays == [1.0]
