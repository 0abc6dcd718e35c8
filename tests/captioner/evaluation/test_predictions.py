"""Predictions are read from every format and find their images, or say why not."""

import json
from pathlib import Path

import pytest

from captioner.evaluation import coco_file_names, match_predictions, read_predictions

EXPECTED = {"a.jpg": "a dog, runs", "b.jpg": "zwei M\u00e4nner"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "p.json",
            '[{"image_id": "a.jpg", "caption": "a dog, runs"}, {"image_id": "b.jpg", "caption": "zwei M\u00e4nner"}]',
        ),
        (
            "p.jsonl",
            '{"image": "b.jpg", "caption": "zwei M\u00e4nner"}\n\n{"image": "a.jpg", "caption": "a dog, runs"}\n',
        ),
        ("p.csv", '\ufeffimage,caption\na.jpg,"a dog, runs"\nb.jpg,zwei M\u00e4nner\n'),
        ("p.tsv", "file_name\tcaption\na.jpg\ta dog, runs\nb.jpg\tzwei M\u00e4nner\n"),
        (
            "p.csv",
            'image,rank,caption\na.jpg,2,no\na.jpg,1,"a dog, runs"\nb.jpg,1,zwei M\u00e4nner\nb.jpg,3,no\n',
        ),
    ],
)
def test_each_format_gives_the_best_caption_of_each_image(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_predictions(tmp_path / name) == EXPECTED


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.json", '{"a.jpg": "x"}', "must be a list as COCO results are"),
        ("p.json", "[", "not valid JSON"),
        ("p.json", "[" * 10**5, "not valid JSON"),
        ("p.jsonl", '["a.jpg", "x"]', "line 1 must be an object"),
        ("p.csv", "a,b\n1,2\n", "it has a, b"),
        ("p.csv", "image,caption\na,x\na,y\n", "row 2 is a second one for 'a'"),
        ("p.csv", "image,caption\n", "at least one"),
        ("p.jsonl", '{"image": "a", "caption": "x", "rank": "first"}', "number as rank"),
    ],
)
def test_a_file_of_another_shape_is_refused_with_the_place(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_predictions(tmp_path / name)


def test_a_separator_of_lines_within_a_caption_of_a_table_ends_no_row(tmp_path):
    (tmp_path / "p.csv").write_text(
        "image,caption,rank\na.jpg,a dog\u2028runs\x85off,1\r\n", encoding="utf-8", newline=""
    )
    assert read_predictions(tmp_path / "p.csv") == {"a.jpg": "a dog\u2028runs\x85off"}


def test_names_are_matched_from_the_exact_path_to_the_coco_number():
    images = [
        Path("/x/a.jpg"),
        Path("/x/y/b.jpg"),
        Path("/z/COCO_val2014_000000000042.jpg"),
        Path("/z/photo_42.jpg"),
    ]
    given = {"/x/a.jpg": "1", "y/b.jpg": "2", "42": "3", "photo_42": "4"}
    assert match_predictions(given, images) == dict(zip(images, "1234", strict=True))


def test_annotations_say_which_file_a_number_is(tmp_path):
    table = tmp_path / "captions.json"
    table.write_text(
        json.dumps({"images": [{"id": 7, "file_name": "photo_8.jpg"}, {"id": 8, "file_name": "photo_7.jpg"}]})
    )
    images = [Path("/x/photo_7.jpg"), Path("/x/photo_8.jpg")]
    assert match_predictions({"7": "eight"}, images, coco_file_names(table)) == {images[1]: "eight"}
    assert coco_file_names(tmp_path / "any.csv") == {}


def test_a_name_that_fits_several_images_or_none_is_an_error():
    images = [Path("/x/a.jpg"), Path("/y/a.jpg")]
    with pytest.raises(ValueError, match=r"'a\.jpg' fits 2 images"):
        match_predictions({"a.jpg": "x"}, images)
    with pytest.raises(ValueError, match=r"no image fits 'c\.jpg'"):
        match_predictions({"c.jpg": "x"}, images)
    with pytest.raises(ValueError, match="Two predictions are about"):
        match_predictions({"/x/a.jpg": "x", "x/a.jpg": "y"}, images)
