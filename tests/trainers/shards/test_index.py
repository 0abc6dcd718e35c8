"""The index of a shard: what is written is read, and nothing damaged is."""

import contextlib
import dataclasses

import numpy as np
import pytest

from trainers.records import Problem
from trainers.shards.index import (
    GoodSample,
    IndexSummary,
    ShardIndexError,
    index_path,
    read_index,
    read_summary,
    write_index,
)

SUMMARY = IndexSummary(
    num_samples=2,
    num_captions=3,
    shard_bytes=9000,
    shard_mtime_ns=7,
    head_sha256="ab",
    filters={"min_side_px": 3},
    num_read=3,
    problems=(Problem("empty caption", "000002"),),
)


def samples(**changes):
    first = GoodSample(
        key="000000",
        image_offset=512,
        image_size=90,
        image_crc32=2**32 - 1,
        height=4,
        width=5,
        is_plain_jpeg=True,
        captions=("eine Straße", "zwei"),
    )
    second = dataclasses.replace(first, key="ключ", image_offset=2048, captions=("貓",), is_plain_jpeg=False)
    return [first, dataclasses.replace(second, **changes)]


@pytest.fixture
def index(tmp_path):
    path = index_path(tmp_path / "00000.tar")
    write_index(path, samples(), SUMMARY)
    return path


def test_an_index_gives_back_what_was_written(index):
    assert read_summary(index) == SUMMARY
    read = read_index(index)
    assert [read.captions(n) for n in range(2)] == [("eine Straße", "zwei"), ("貓",)]
    assert [read.sample_key(n) for n in range(2)] == ["000000", "ключ"]
    for name in ("image_offset", "image_size", "image_crc32", "height", "width", "is_plain_jpeg"):
        assert getattr(read, name).tolist() == [getattr(sample, name) for sample in samples()], name


def test_an_index_of_no_samples_is_read(tmp_path):
    path = tmp_path / "a.index.npz"
    write_index(path, [], dataclasses.replace(SUMMARY, num_samples=0, num_captions=0))
    assert read_index(path).num_samples == 0


def test_a_missing_index_says_how_to_make_it(tmp_path):
    with pytest.raises(ShardIndexError, match="captioner shards index"):
        read_index(tmp_path / "a.index.npz")


def test_a_cut_index_is_refused_wherever_it_is_cut(index):
    data = index.read_bytes()
    for length in range(0, len(data), 97):
        index.write_bytes(data[:length])
        for read in (read_index, read_summary):
            with pytest.raises(ShardIndexError, match="not a whole index"):
                read(index)


@pytest.mark.parametrize(
    "changes",
    [
        {"caption_start": np.array([0, 2, 9])},
        {"text_start": np.array([0, 5, 3, 19])},
        {"key_start": np.array([0, 6])},
        {"image_size": np.array([90, 0])},
        {"image_offset": np.array([512])},
        {"height": np.array([4.0, 4.0])},
        {"key": np.array([{}], dtype=object)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_entries_that_do_not_fit_each_other_are_refused(index, changes):
    with np.load(index) as file:
        arrays = dict(file)
    np.savez(index, **arrays | changes)
    with pytest.raises(ShardIndexError, match="not a whole index"):
        read_index(index)


def test_a_flipped_bit_is_noticed_or_changes_nothing(index):
    whole, expected = index.read_bytes(), read_index(index)
    for offset in range(0, len(whole), 3):
        for bit in (0, 5):
            index.write_bytes(whole[:offset] + bytes([whole[offset] ^ 1 << bit]) + whole[offset + 1 :])
            with contextlib.suppress(ShardIndexError):
                read = read_index(index)
                for field in dataclasses.fields(expected):
                    np.testing.assert_array_equal(getattr(read, field.name), getattr(expected, field.name))


def test_an_image_larger_than_any_that_is_read_is_refused(index):
    write_index(index, samples(image_size=2**46), SUMMARY)
    with pytest.raises(ShardIndexError, match="an image has more than 268,435,456 bytes"):
        read_index(index)


def test_an_index_of_another_version_is_refused(index):
    with np.load(index) as file:
        arrays = dict(file)
    about = arrays["about"].tobytes().replace(b'"version": 1', b'"version": 2')
    np.savez(index, **arrays | {"about": np.frombuffer(about, "uint8")})
    with pytest.raises(ShardIndexError, match="version 2"):
        read_summary(index)
