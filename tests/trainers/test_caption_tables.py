"""Every input format, and every way in which a row can be unusable."""

import json

import numpy as np
import pandas
import pytest

from trainers import delimited
from trainers.caption_tables import read_captions


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def as_dict(records):
    return {image.path.name: image.captions for image in records.images}


def reasons(records):
    return [(problem.reason, problem.item) for problem in records.problems]


def test_rows_of_one_image_are_its_captions_in_order_of_appearance(tmp_path):
    table = write(tmp_path, "t.csv", "file_name,caption\nb.jpg,one\na.jpg,two\n./b.jpg,  three\tfour \n")
    records = read_captions(table)
    assert list(as_dict(records).items()) == [("b.jpg", ("one", "three four")), ("a.jpg", ("two",))]
    assert records.images[0].path == tmp_path / "b.jpg"
    assert (records.num_rows, records.problems) == (3, ())


@pytest.mark.parametrize(
    "name, separator", [("t.csv", ","), ("t.csv", ";"), ("t.tsv", "\t"), ("t.txt", "| ")]
)
def test_the_separator_is_found(tmp_path, name, separator):
    content = f"number{separator}Image_Name{separator}Comment\n1{separator}a.jpg{separator}a dog\n"
    records = read_captions(write(tmp_path, name, content))
    assert as_dict(records) == {"a.jpg": ("a dog",)}
    assert records.columns == ("Image_Name", "Comment")


def test_a_quoted_caption_keeps_its_comma_and_words_like_null_stay_words(tmp_path):
    table = write(tmp_path, "t.csv", 'image,text\na.jpg,"a dog, running"\nb.jpg,null\nc.jpg,NA\n')
    assert as_dict(read_captions(table)) == {
        "a.jpg": ("a dog, running",),
        "b.jpg": ("null",),
        "c.jpg": ("NA",),
    }


def test_columns_may_be_named_and_a_missing_one_is_told_with_those_there(tmp_path):
    table = write(tmp_path, "t.csv", "foo,bar\na.jpg,a dog\n")
    records = read_captions(table, image_column="foo", caption_column="bar")
    assert as_dict(records) == {"a.jpg": ("a dog",)}
    with pytest.raises(ValueError, match=r"image_column.*\['foo', 'bar'\]"):
        read_captions(table)
    with pytest.raises(ValueError, match=r"caption_column.*'baz'.*\['foo', 'bar'\]"):
        read_captions(table, image_column="foo", caption_column="baz")


def test_each_unusable_row_is_named_with_its_reason(tmp_path):
    table = write(
        tmp_path,
        "t.csv",
        b"file_name,caption\n"
        b"a.jpg,good\n"  # row 2
        b"a.jpg,\n"
        b"a.jpg,good\n"
        b"b.jpg,caf\xe9\n"
        b",no image\n"
        b"../../etc/passwd,secret\n"
        b"a.jpg,one,comma,too,many\n"
        b"b.jpg," + b"x" * 20_000 + b"\n"
        b"c.jpg,last\n",
    )
    records = read_captions(table)
    assert as_dict(records) == {"a.jpg": ("good",), "c.jpg": ("last",)}
    assert reasons(records) == [
        ("empty caption", "row 3"),
        ("duplicate row", "row 4"),
        ("text is not UTF-8", "row 5"),
        ("empty image name", "row 6"),
        ("image outside the images folder", "row 7"),
        ("malformed row", "row 8"),
        ("caption too long", "row 9"),
    ]
    assert records.num_rows == 9
    assert "too" in records.problems[5].detail


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_one_byte_of_another_encoding_costs_its_row_alone(tmp_path, ending):
    rows = [b"a.jpg,007", b"b.jpg,stra\xdfe", b"c\xe9.jpg,a cat", b"d.jpg,NA"]
    content = b"\n".join([b"image,caption", *rows])
    if ending == "jsonl":
        pairs = [row.split(b",") for row in rows]
        content = b"\n".join(b'{"image": "%s", "caption": "%s"}' % tuple(pair) for pair in pairs)
    records = read_captions(write(tmp_path, f"t.{ending}", content))
    assert as_dict(records) == {"a.jpg": ("007",), "d.jpg": ("NA",)}
    assert reasons(records) == [("text is not UTF-8", "row 3"), ("text is not UTF-8", "row 4")]


@pytest.mark.parametrize("line", ['{"image": "b.jpg", "capt', "[1]", "[" * 100_000])
def test_a_line_of_json_that_is_no_record_is_named_and_costs_no_other(tmp_path, line):
    good = json.dumps({"image": "a.jpg", "caption": "a dog", "split": "val"})
    records = read_captions(write(tmp_path, "t.jsonl", f"{good}\n\n{line}\n"))
    assert as_dict(records) == {"a.jpg": ("a dog",)}
    assert reasons(records) == [("malformed row", "row 3")]
    assert line[:50] in records.problems[0].detail


def test_absolute_names_must_lie_in_the_images_folder_if_one_is_given(tmp_path):
    inside, outside = tmp_path / "images", tmp_path / "images-other"
    inside.mkdir()
    table = write(
        tmp_path, "t.csv", f"path,caption\n{inside}/a.jpg,in\n{outside}/b.jpg,out\n{inside}/../c.jpg,out\n"
    )
    assert as_dict(read_captions(table, inside)) == {"a.jpg": ("in",)}
    assert [reason for reason, _ in reasons(read_captions(table, inside))] == [
        "image outside the images folder"
    ] * 2
    assert set(as_dict(read_captions(table))) == {"a.jpg", "b.jpg", "c.jpg"}


@pytest.mark.parametrize("content", ["", "file_name,caption\n"])
def test_an_empty_table_is_refused(tmp_path, content):
    with pytest.raises(ValueError, match="is empty"):
        read_captions(write(tmp_path, "t.csv", content))


def test_a_table_broken_as_a_whole_is_refused(tmp_path):
    with pytest.raises(ValueError, match="never closed"):
        read_captions(write(tmp_path, "t.csv", 'image,caption\na.jpg,"a dog\nb.jpg,a cat\n'))
    with pytest.raises(ValueError, match="more fields than the header"):
        read_captions(write(tmp_path, "t.csv", "image,caption\na.jpg,a dog, running\n"))
    with pytest.raises(ValueError, match="UTF-16"):
        read_captions(write(tmp_path, "t.csv", "image,caption\na.jpg,a dog\n".encode("utf-16")))
    with pytest.raises(ValueError, match="not valid JSON"):
        read_captions(write(tmp_path, "t.json", "{"))
    with pytest.raises(ValueError, match=r"\['info'\]"):
        read_captions(write(tmp_path, "t.json", '{"info": 1}'))
    with pytest.raises(FileNotFoundError, match="`table`"):
        read_captions(tmp_path / "none.csv")
    with pytest.raises(FileNotFoundError, match="`images_dir`"):
        read_captions(write(tmp_path, "u.csv", "image,caption\na.jpg,x\n"), tmp_path / "none")


def test_coco_captions_are_joined_by_image_id(tmp_path):
    content = {
        "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "b.jpg"}],
        "annotations": [
            {"image_id": 8, "caption": "second"},
            {"image_id": 7, "caption": "first"},
            {"image_id": 8, "caption": "\n"},
            {"image_id": 9, "caption": "lost"},
            {"image_id": 8, "caption": "third"},
        ],
    }
    records = read_captions(write(tmp_path, "captions_train2017.json", json.dumps(content)))
    assert list(as_dict(records).items()) == [("b.jpg", ("second", "third")), ("a.jpg", ("first",))]
    assert reasons(records) == [
        ("empty caption", "annotations[2]"),
        ("unknown image id", "annotations[3]"),
    ]
    with pytest.raises(ValueError, match="no splits"):
        read_captions(tmp_path / "captions_train2017.json", split="train")


def karpathy(tmp_path, **extra):
    splits = {"a": "train", "b": "restval", "c": "val", "d": "test"}
    images = [
        {
            "filename": f"{name}.jpg",
            "split": split,
            "sentences": [{"raw": f"{name}1"}, {"raw": f"{name}2"}],
            **extra,
        }
        for name, split in splits.items()
    ]
    return write(tmp_path, "dataset_coco.json", json.dumps({"images": images, "dataset": "coco"}))


def test_karpathys_spare_images_join_training_and_its_splits_must_be_chosen(tmp_path):
    table = karpathy(tmp_path)
    assert as_dict(read_captions(table, split="train")) == {"a.jpg": ("a1", "a2"), "b.jpg": ("b1", "b2")}
    assert set(as_dict(read_captions(table, split="validation"))) == {"c.jpg"}
    assert set(as_dict(read_captions(table, split="all"))) == {"a.jpg", "b.jpg", "c.jpg", "d.jpg"}
    with pytest.raises(ValueError, match=r"several splits: restval \(1\), test \(1\)"):
        read_captions(table)
    with pytest.raises(ValueError, match="'dev7'"):
        read_captions(table, split="dev7")


def test_karpathys_folders_are_used_where_they_exist(tmp_path):
    table = karpathy(tmp_path, filepath="val2014")
    assert read_captions(table, split="val").images[0].path == tmp_path / "c.jpg"
    (tmp_path / "val2014").mkdir()
    assert read_captions(table, split="val").images[0].path == tmp_path / "val2014" / "c.jpg"


def test_a_split_column_must_be_chosen_from(tmp_path):
    table = write(tmp_path, "t.csv", "image,caption,split\na.jpg,x,train\nb.jpg,y,test\n")
    assert as_dict(read_captions(table, split="train")) == {"a.jpg": ("x",)}
    with pytest.raises(ValueError, match="several splits"):
        read_captions(table)
    with pytest.raises(ValueError, match="no column named split"):
        read_captions(write(tmp_path, "u.csv", "image,caption\na.jpg,x\n"), split="train")


def test_json_records_may_hold_a_caption_or_a_list_of_them(tmp_path):
    content = [
        {"image": "a.jpg", "caption": ["x", "y"]},
        {"image": "b.jpg", "caption": "z"},
        {"image": "c.jpg"},
    ]
    records = read_captions(write(tmp_path, "t.json", json.dumps(content)))
    assert as_dict(records) == {"a.jpg": ("x", "y"), "b.jpg": ("z",)}
    assert reasons(records) == [("empty caption", "row 4")]
    lines = "\n".join(json.dumps({"file_name": "a.jpg", "text": text}) for text in ("x", "y"))
    assert as_dict(read_captions(write(tmp_path, "metadata.jsonl", lines))) == {"a.jpg": ("x", "y")}


def test_lists_of_parquet_and_missing_values_of_pandas(tmp_path, monkeypatch):
    several, one = np.array(["a dog", "a cat"], object), np.array(["a bike"], object)
    cells = [several, one, np.array([], object), pandas.NA, float("nan"), None, [{"raw": "a man"}], 7]
    frame = pandas.DataFrame(
        {"image": [f"{n}.jpg" for n in range(8)], "caption": pandas.Series(cells, dtype=object)}
    )
    monkeypatch.setattr(delimited, "read_table", lambda table, content: frame)
    records = read_captions(write(tmp_path, "t.parquet", "PAR1"))
    assert as_dict(records) == {"0.jpg": ("a dog", "a cat"), "1.jpg": ("a bike",), "7.jpg": ("7",)}
    rows = [("empty caption", f"row {n}") for n in (4, 5, 6, 7)]
    assert reasons(records) == [*rows, ("caption is no text", "row 8")]
    assert records.num_rows == 9


def test_an_image_without_captions_is_counted_and_named(tmp_path):
    rows = [{"image": "a.jpg", "captions": []}, {"image": "b.jpg", "captions": ["a dog"]}]
    records = read_captions(write(tmp_path, "t.jsonl", "\n".join(map(json.dumps, rows))))
    assert (records.num_rows, reasons(records)) == (2, [("empty caption", "row 2")])
    images = [{"filename": "a.jpg", "sentences": []}, {"filename": "b.jpg", "sentences": [{"raw": "a dog"}]}]
    records = read_captions(write(tmp_path, "t.json", json.dumps({"images": images})))
    assert (records.num_rows, reasons(records)) == (2, [("empty caption", "images[0].sentences[0]")])
