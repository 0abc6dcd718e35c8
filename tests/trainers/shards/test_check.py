"""Checking a shard: what is said of a good sample, and which members are one."""

import hashlib
import io
import json
import zlib

import pytest
from bad_shards import CAPTION, encoded, entries, good_sample, jpeg, picture, tar
from PIL import Image

from captioner.images import decode_image
from trainers.shards import check
from trainers.shards.check import check_shard
from trainers.shards.filters import ShardFilters
from trainers.shards.tar_members import read_members


@pytest.fixture
def shard(tmp_path):
    """Writes files into a shard."""

    def write(*files):
        path = tmp_path / "00000.tar"
        path.write_bytes(tar(entries(*files)))
        return path

    return write


def reasons(checked):
    return [(problem.item.rpartition("/")[2], problem.reason) for problem in checked.summary.problems]


def test_a_good_sample_says_where_its_image_is_and_what_it_looks_like(shard):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(picture(1, 20, 32), "JPEG", exif=exif)
    path = shard(("a.txt", CAPTION), ("a.jpg", jpeg()), ("b.jpg", turned), ("b.txt", b" two\n words "))
    checked = check_shard(path)
    plain, rotated = checked.samples
    data = path.read_bytes()
    assert data[plain.image_offset : plain.image_offset + plain.image_size] == jpeg()
    assert plain.image_crc32 == zlib.crc32(jpeg())
    assert checked.image_sha256[0] == hashlib.sha256(jpeg()).digest()
    assert (plain.height, plain.width, plain.is_plain_jpeg, plain.captions) == (
        32,
        32,
        True,
        ("a dog on a sofa",),
    )
    assert (rotated.height, rotated.width, rotated.is_plain_jpeg) == (32, 20, False)
    assert rotated.captions == ("two words",)
    assert decode_image(data[rotated.image_offset :][: rotated.image_size]).shape == (32, 20, 3)
    summary = checked.summary
    assert (summary.num_read, summary.num_samples, summary.num_captions, summary.problems) == (2, 2, 2, ())
    assert summary.shard_bytes == len(data) and summary.shard_mtime_ns == path.stat().st_mtime_ns


@pytest.mark.parametrize(
    ("text", "metadata", "captions"),
    [
        ("txt", {"caption": "json"}, ["txt"]),
        ("one", {"captions": ["one", "two", "one"]}, ["one", "two"]),
        ("txt", {"captions": ["json"]}, ["txt"]),
        ("txt", {"captions": ["", " "], "caption": "x"}, ["txt"]),
        (None, {"captions": [], "caption": "json"}, ["json"]),
        (None, {"caption": ["a", "b"]}, ["a", "b"]),
        (None, {"text": "json"}, ["json"]),
        (" ", {"caption": "json"}, ["json"]),
    ],
)
def test_several_captions_in_the_json_come_before_the_txt_and_the_txt_before_one(
    shard, text, metadata, captions
):
    files = [("a.jpg", jpeg()), ("a.json", json.dumps(metadata).encode())]
    files += [] if text is None else [("a.txt", text.encode())]
    (sample,) = check_shard(shard(*files)).samples
    assert list(sample.captions) == captions


def test_a_caption_is_never_given_to_the_image_of_another_sample_of_that_name(shard):
    # The first a has lost its caption, as where two shards with the same keys were joined.
    other = ("b.jpg", jpeg(2)), ("b.txt", CAPTION)
    checked = check_shard(shard(("a.jpg", jpeg(3)), *other, ("a.jpg", jpeg(4)), ("a.txt", b"of the second")))
    assert [sample.key for sample in checked.samples] == ["b"]
    assert reasons(checked) == [("a", "no caption"), ("a", "duplicate key")]
    assert checked.summary.num_read == 3


@pytest.mark.parametrize(
    ("filters", "rejected"),
    [
        ({"min_side_px": 33}, ["big", "tagged"]),
        ({"max_aspect_ratio": 1.5}, ["wide"]),
        ({"min_caption_words": 3}, ["wide"]),
        ({"max_caption_words": 4}, ["tagged"]),
        ({"tags": "drop"}, ["tagged"]),
        ({"similarity_column": "clip", "min_similarity": 0.3}, ["tagged", "wide"]),
    ],
    ids=str,
)
def test_filters_reject_and_say_why(shard, filters, rejected):
    def sample(key, height, width, caption, **metadata):
        image = encoded(picture(7, height, width), "PNG")
        return (f"{key}.png", image), (f"{key}.json", json.dumps({"caption": caption, **metadata}).encode())

    path = shard(
        *sample("big", 32, 48, "a dog sits", clip=0.3),
        *sample("tagged", 32, 40, "a dog and <PERSON> walk", clip="0.29"),
        *sample("wide", 40, 80, "two dogs"),
    )
    checked = check_shard(path, ShardFilters(**filters))
    assert [key for key, _ in reasons(checked)] == rejected
    assert {sample.key for sample in checked.samples} == {"big", "tagged", "wide"} - set(rejected)
    assert checked.summary.filters["tags"] == filters.get("tags", "keep")


def test_a_lost_image_counts_with_all_of_its_captions(shard):
    three = json.dumps({"captions": ["a dog", "", "two dogs"]}).encode()
    narrow = encoded(picture(1, 8, 32), "JPEG")
    path = shard(("a.jpg", b"none"), ("a.json", three), ("b.jpg", narrow), ("b.json", three))
    problems = check_shard(path, ShardFilters(min_side_px=9)).summary.problems
    assert [(p.reason, p.num_captions) for p in problems] == [
        ("undecodable image", 3),
        ("image too small", 3),
    ]


def test_a_similarity_that_is_no_number_at_all_rejects_its_sample_alone(shard):
    path = shard(("a.jpg", jpeg()), ("a.json", b'{"caption": "a dog", "similarity": 1%s}' % (b"0" * 400)))
    filters = ShardFilters(similarity_column="similarity", min_similarity=0.3)
    assert reasons(check_shard(path, filters)) == [("a", "no similarity")]


def test_a_similarity_that_the_json_lacks_is_read_from_the_table_beside_the_shard(shard, monkeypatch):
    import pandas as pd

    path = shard(
        *((f"{key}.{end}", data) for key in "ab" for end, data in (("jpg", jpeg()), ("txt", CAPTION)))
    )
    frame = pd.DataFrame({"key": ["a", "b"], "clip": [0.1, 0.5]})
    path.with_suffix(".parquet").touch()
    monkeypatch.setattr(pd, "read_parquet", lambda table: frame)
    checked = check_shard(path, ShardFilters(similarity_column="clip", min_similarity=0.3))
    assert [sample.key for sample in checked.samples] == ["b"]
    assert reasons(checked) == [("a", "similarity too low")]


def test_a_long_file_is_not_read(shard, monkeypatch):
    path = shard(("a.jpg", jpeg()), ("a.txt", CAPTION))
    monkeypatch.setattr(check, "MAX_FILE_BYTES", len(jpeg()) - 1)
    assert reasons(check_shard(path)) == [("a", "undecodable image")]


def test_a_shard_that_changes_while_it_is_read_is_refused(shard):
    path = shard(("a.jpg", jpeg()), ("a.txt", CAPTION))
    with pytest.raises(OSError, match="changed while it was read"):
        check_shard(path, on_sample=lambda _: path.write_bytes(path.read_bytes() + bytes(512)))


def test_a_damaged_header_costs_one_file_wherever_the_damage_is():
    data = tar([entry for key in "abc" for entry in good_sample(key)])
    starts = [
        position for position in range(0, len(data), 512) if data[position + 257 :].startswith(b"ustar")
    ]
    whole, problems = read_members(io.BytesIO(data), len(data))
    assert (len(whole), problems) == (9, [])
    for number, start in enumerate(starts):
        damaged = data[:start] + bytes([data[start] ^ 1]) + data[start + 1 :]
        members, problems = read_members(io.BytesIO(damaged), len(damaged))
        assert members == whole[:number] + whole[number + 1 :]
        assert [reason for reason, _ in problems] == ["damaged shard"]


def test_a_tar_cut_anywhere_gives_its_whole_samples_and_says_that_it_was_cut(tmp_path):
    data = tar([entry for key in "abc" for entry in good_sample(key)])
    path = tmp_path / "00000.tar"
    path.write_bytes(data)
    whole = check_shard(path).samples
    members, _ = read_members(io.BytesIO(data), len(data))
    end = {member.key: member.offset + member.size for member in members}  # of its last member
    for length in range(512, max(end.values()), 333):
        path.write_bytes(data[:length])
        checked = check_shard(path)
        assert set(checked.samples) <= set(whole)  # none is another than it was
        assert {key for key in end if end[key] <= length} <= {sample.key for sample in checked.samples}
        assert "truncated shard" in [problem.reason for problem in checked.summary.problems]
