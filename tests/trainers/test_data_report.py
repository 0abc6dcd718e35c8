"""Unusable images are found once, named, counted, and fatal above a limit."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from trainers import data_report
from trainers.data_report import check_data, check_images, require_good_data, write_data_report
from trainers.records import CaptionedImage, CaptionRecords, Problem

QUIET = {"progress": False}


def save_image(path, seed=0, size=(6, 5)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype="uint8")
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def records(tmp_path):
    good = save_image(tmp_path / "good.jpg")
    truncated = tmp_path / "truncated.jpg"
    truncated.write_bytes(save_image(tmp_path / "whole.jpg", size=(64, 64)).read_bytes()[:1500])
    page = tmp_path / "page.jpg"
    page.write_text("<html>not found</html>")
    (tmp_path / "folder.jpg").mkdir()
    paths = [good, tmp_path / "missing.jpg", truncated, page, tmp_path / "folder.jpg"]
    images = tuple(CaptionedImage(path, ("one", "two")) for path in paths)
    problem = Problem("empty caption", "row 9")
    return CaptionRecords(source="t.csv", images=images, problems=(problem,), num_rows=11)


def test_missing_and_undecodable_images_are_left_out_and_named(tmp_path, records):
    images, report = check_data(records, cache_dir=tmp_path / "cache", **QUIET)
    assert [image.path.name for image in images] == ["good.jpg"]
    found = [(problem.reason, os.path.basename(problem.item)) for problem in report.problems]
    assert found == [
        ("empty caption", "row 9"),
        ("missing file", "missing.jpg"),
        ("undecodable image", "truncated.jpg"),
        ("undecodable image", "page.jpg"),
        ("unreadable file", "folder.jpg"),
    ]
    assert report.counts["missing file"] == 1
    assert (report.num_images, report.num_captions) == (1, 2)
    assert report.bad_fraction == 9 / 11  # four images with two captions each, and a row


def test_an_unchanged_file_is_decoded_only_once(tmp_path, records, monkeypatch):
    decoded = []
    read_image = data_report.read_image

    def counting(path):
        decoded.append(os.path.basename(path))
        return read_image(path)

    monkeypatch.setattr(data_report, "read_image", counting)
    cache = tmp_path / "cache"
    first = check_images(records.images[:4], cache_dir=cache, **QUIET)
    assert sorted(decoded) == ["good.jpg", "page.jpg", "truncated.jpg"]
    decoded.clear()
    assert check_images(records.images[:4], cache_dir=cache, **QUIET) == first
    assert decoded == []
    save_image(tmp_path / "page.jpg", size=(9, 9))
    os.remove(tmp_path / "good.jpg")
    again = check_images(records.images[:4], cache_dir=cache, **QUIET)
    assert decoded == ["page.jpg"]
    assert [os.path.basename(p.item) for p in again] == ["good.jpg", "missing.jpg", "truncated.jpg"]


def test_a_file_replaced_by_one_of_the_same_size_is_decoded_again(tmp_path, records):
    good = tmp_path / "good.jpg"
    assert check_images(records.images[:1], cache_dir=tmp_path / "cache", **QUIET) == []
    good.write_bytes(b"x" * good.stat().st_size)
    os.utime(good, ns=(10**9, 10**9))
    (problem,) = check_images(records.images[:1], cache_dir=tmp_path / "cache", **QUIET)
    assert (problem.reason, problem.num_captions) == ("undecodable image", 2)


def test_a_damaged_memory_is_made_anew_and_a_bad_folder_is_explained(tmp_path, records):
    cache = tmp_path / "cache"
    first = check_images(records.images, cache_dir=cache, **QUIET)
    (cache / "checked_images.sqlite").write_bytes(b"not a database at all" * 100)
    assert check_images(records.images, cache_dir=cache, **QUIET) == first
    with pytest.raises(OSError, match="`cache_dir`"):
        check_images(records.images, cache_dir=tmp_path / "good.jpg" / "x", **QUIET)


def test_a_memory_that_is_damaged_behind_its_first_page_is_made_anew(tmp_path, records):
    found = check_images(records.images, cache_dir=tmp_path, **QUIET)
    memory = tmp_path / "checked_images.sqlite"
    content = memory.read_bytes()
    memory.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    for _ in range(2):
        assert check_images(records.images, cache_dir=tmp_path, **QUIET) == found
    assert memory.read_bytes()[4096:4100] != b"\xff" * 4


def test_the_report_on_disk_names_every_item(tmp_path, records):
    _, report = check_data(records, cache_dir=tmp_path / "cache", **QUIET)
    path = tmp_path / "run" / "data_report.json"
    write_data_report(path, {"train": report})
    content = json.loads(path.read_text())["train"]
    assert content["counts"] == report.counts
    assert [p["item"] for p in content["problems"]] == [p.item for p in report.problems]
    assert content["summary"] == report.summary()
    assert "t.csv: 1 images with 2 captions; left out 81.82% of the captions" in report.summary()


def test_too_much_bad_data_is_fatal_and_says_where_to_look(tmp_path, records):
    _, report = check_data(records, cache_dir=tmp_path / "cache", **QUIET)
    require_good_data(report, 9 / 11, "run/data_report.json")
    with pytest.raises(ValueError, match=r"(?s)1 missing file.*empty caption: row 9.*run/data_report\.json"):
        require_good_data(report, 0.8, "run/data_report.json")
    nothing_left = CaptionRecords(source="t.csv", images=records.images[1:], problems=(), num_rows=8)
    _, report = check_data(nothing_left, cache_dir=tmp_path / "cache", **QUIET)
    with pytest.raises(ValueError, match="no image is left"):
        require_good_data(report, 1.0, "run/data_report.json")
