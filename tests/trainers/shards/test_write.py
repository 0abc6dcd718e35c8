"""Writing shards: what is read back is what was in the table."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from bad_shards import encoded, picture

from trainers.caption_tables import read_captions
from trainers.records import CaptionedImage
from trainers.shards import write
from trainers.shards.build_index import build_indexes
from trainers.shards.index import index_path, read_index
from trainers.shards.paths import find_shards
from trainers.shards.write import PLAN_FILE, ShardLayout, write_shards

KINDS = [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("GIF", "gif"), ("BMP", "bmp"), ("TIFF", "tif")]


@pytest.fixture
def table(tmp_path):
    """A table of 13 images with one to three captions; every format, all of them called .jpg."""
    rows = ["file_name,caption"]
    for number in range(13):
        image = picture(number, 20, 30)
        (tmp_path / "photos" / "a").mkdir(parents=True, exist_ok=True)
        data = encoded(image, KINDS[number % len(KINDS)][0])
        (tmp_path / "photos" / "a" / f"{number}.jpg").write_bytes(data)
        rows += [f"a/{number}.jpg,Wort {place} für {number}" for place in range(1 + number % 3)]
    path = tmp_path / "table.csv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def images(table):
    return read_captions(table, table.parent / "photos").images


def write_all(images, output, **layout):
    return write_shards(images, output, ShardLayout(**layout), progress=False, num_threads=2)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*"))}


def members(shard):
    with tarfile.open(shard) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def test_what_was_written_is_indexed_and_read_back_as_the_table_has_it(images, tmp_path):
    written = write_all(images, tmp_path / "out", samples_per_shard=5)
    assert (written.num_shards, written.num_samples, written.num_captions) == (3, 13, 25)
    shards = find_shards([tmp_path / "out"])
    report = build_indexes(shards, num_processes=1, progress=False)
    assert (report.num_samples, report.num_captions, report.counts) == (13, 25, {})
    found = []
    for shard in shards:
        index, data = read_index(index_path(shard)), Path(shard).read_bytes()
        for row in range(index.num_samples):
            start = index.image_offset[row]
            found.append((data[start : start + index.image_size[row]], index.captions(row)))
    assert sorted(found) == sorted((image.path.read_bytes(), image.captions) for image in images)
    assert found != sorted(found)


def test_the_layout_is_that_of_img2dataset(images, tmp_path):
    write_shards(images, tmp_path / "out", ShardLayout(samples_per_shard=5), root=tmp_path, progress=False)
    first = members(tmp_path / "out" / "00000.tar")
    keys = sorted({name.partition(".")[0] for name in first})
    assert keys == [f"00000000{place}" for place in range(5)]
    for key in keys:
        metadata = json.loads(first[f"{key}.json"])
        (ending,) = {name.partition(".")[2] for name in first if name.startswith(key)} - {"json", "txt"}
        number = int(metadata["file_name"].removeprefix("photos/a/").removesuffix(".jpg"))
        assert ending == KINDS[number % len(KINDS)][1]  # by its bytes, not by its name
        assert metadata["captions"] == list(images[number].captions)
        assert first[f"{key}.txt"].decode() == metadata["caption"] == images[number].captions[0]
        assert (metadata["key"], metadata["status"]) == (key, "success")
        assert (metadata["width"], metadata["original_height"]) == (30, 20)
    stats = json.loads((tmp_path / "out" / "00000_stats.json").read_text())
    assert (stats["count"], stats["successes"]) == (5, 5)


def test_the_same_images_give_the_same_bytes_and_another_seed_another_order(images, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_all(images, tmp_path / name, samples_per_shard=5, seed=seed)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a")["00000.tar"] != contents(tmp_path / "c")["00000.tar"]


def test_shards_keep_to_their_size(images, tmp_path):
    written = write_all(images, tmp_path / "out", max_shard_mb=0.02)
    sizes = [path.stat().st_size for path in (tmp_path / "out").glob("*.tar")]
    assert written.num_shards == len(sizes) == 3
    assert max(sizes) <= 20_000 + 10_240  # tar fills its last record of 10,240 bytes
    with tarfile.open(tmp_path / "out" / "00000.tar") as tar:
        assert len(tar.getnames()) > 3


def test_an_interrupted_run_goes_on_and_writes_no_shard_twice(images, tmp_path, monkeypatch):
    write_all(images, tmp_path / "whole", samples_per_shard=5)
    write_shard, num_written = write._write_shard, []

    def interrupted(tar, *args):
        if len(num_written) == 1:
            raise KeyboardInterrupt
        num_written.append(tar.name)
        write_shard(tar, *args)

    monkeypatch.setattr(write, "_write_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_all(images, tmp_path / "out", samples_per_shard=5)
    num_written[:] = ["x", "y"]
    assert write_all(images, tmp_path / "out", samples_per_shard=5).num_kept == 1
    assert num_written == ["x", "y", "00001.tar", "00002.tar"]
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"samples_per_shard": 6}, "another `samples_per_shard`"),
        ({"seed": 1}, "another `seed`"),
        ({"images": 12}, "another set of images and captions"),
    ],
    ids=str,
)
def test_a_folder_with_other_shards_is_refused(images, tmp_path, change, says):
    write_all(images, tmp_path / "out", samples_per_shard=5)
    before = contents(tmp_path / "out")
    others = images[: change.pop("images", 13)]
    with pytest.raises(ValueError, match=says):
        write_all(others, tmp_path / "out", **{"samples_per_shard": 5} | change)
    assert contents(tmp_path / "out") == before
    (tmp_path / "out" / PLAN_FILE).unlink()
    with pytest.raises(ValueError, match="another origin"):
        write_all(images, tmp_path / "out", samples_per_shard=5)


def test_unusable_images_are_left_out_and_named_also_by_the_run_that_goes_on(images, tmp_path):
    images[3].path.write_bytes(images[3].path.read_bytes()[:50])
    images[4].path.unlink()
    broken = (*images, CaptionedImage(tmp_path, ("a folder",)))
    for _ in range(2):
        written = write_all(broken, tmp_path / "out", samples_per_shard=20)
        assert (written.num_samples, written.num_shards) == (12 - 1, 1)
        assert written.counts == {"undecodable image": 1, "missing file": 1, "unreadable file": 1}
        assert {problem.item for problem in written.problems} == {
            str(path) for path in (images[3].path, images[4].path, tmp_path)
        }
    assert written.num_kept == 1


def test_impossible_layouts_are_refused(tmp_path):
    for layout in ({"samples_per_shard": 0}, {"max_shard_mb": 0}, {"max_shard_mb": float("nan")}):
        with pytest.raises(ValueError, match=f"`{next(iter(layout))}`"):
            ShardLayout(**layout)
    with pytest.raises(ValueError, match="at least one image"):
        write_all((), tmp_path)


def test_webdataset_reads_what_was_written(images, tmp_path):
    import webdataset

    write_all(images, tmp_path / "out", samples_per_shard=20)
    samples = list(webdataset.WebDataset(str(tmp_path / "out" / "00000.tar"), shardshuffle=False))
    assert len(samples) == 13
    assert all({"json", "txt"} < sample.keys() for sample in samples)
    assert io.BytesIO(samples[0]["txt"]).read().decode().startswith("Wort 0")
