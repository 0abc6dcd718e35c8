"""Caption files that an interrupted command goes on with."""

import csv
import json
from types import SimpleNamespace

import pytest

from captioner.evaluation import read_predictions
from tools.errors import UsageError
from tools.outputs import coco_image_id, open_output


def captions(*texts):
    return [
        SimpleNamespace(text=text, log_prob=-1.5 * rank, score=-0.25 * rank, confidence=0.5 / rank)
        for rank, text in enumerate(texts, start=1)
    ]


def write(path, *batches, num_captions=1):
    with open_output(str(path), num_captions) as output:
        for batch in batches:
            output.write(batch)


def test_json_lines_hold_image_rank_caption_log_prob_score_and_confidence(tmp_path):
    path = tmp_path / "new" / "out.jsonl"
    write(path, [("é.jpg", captions("a dog", "ein Hund läuft"))], num_captions=2)
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == [
        {
            "image": "é.jpg",
            "rank": 1,
            "caption": "a dog",
            "log_prob": -1.5,
            "score": -0.25,
            "confidence": 0.5,
        },
        {
            "image": "é.jpg",
            "rank": 2,
            "caption": "ein Hund läuft",
            "log_prob": -3.0,
            "score": -0.5,
            "confidence": 0.25,
        },
    ]


def test_a_caption_without_confidence_has_null_or_an_empty_cell(tmp_path):
    caption = SimpleNamespace(text="a dog", log_prob=-1.0, score=-0.5, confidence=None)
    for name in ("out.jsonl", "out.csv"):
        write(tmp_path / name, [("a.jpg", [caption])])
    assert json.loads((tmp_path / "out.jsonl").read_text())["confidence"] is None
    assert (tmp_path / "out.csv").read_text().splitlines()[1] == "a.jpg,1,a dog,-1.0,-0.5,"


def test_a_table_holds_the_same_columns_with_commas_and_quotes_in_captions(tmp_path):
    path = tmp_path / "out.csv"
    write(path, [("a,b.jpg", captions('a "dog", running\nfast'))])
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    expected = {
        "rank": "1",
        "caption": 'a "dog", running fast',
        "log_prob": "-1.5",
        "score": "-0.25",
        "confidence": "0.5",
    }
    assert rows == [{"image": "a,b.jpg", **expected}]


def test_coco_results_hold_image_id_and_caption_and_leave_no_partial_file(tmp_path):
    path = tmp_path / "out.json"
    write(path, [("x/COCO_val2014_000000391895.jpg", captions("a man")), ("cat.jpg", captions("a cat"))])
    assert json.loads(path.read_text()) == [
        {"image_id": 391895, "caption": "a man"},
        {"image_id": "cat.jpg", "caption": "a cat"},
    ]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("ending", ["jsonl", "csv", "json"])
def test_the_evaluation_reads_every_kind_back(tmp_path, ending):
    path = tmp_path / f"out.{ending}"
    write(path, [("a.jpg", captions("a dog")), ("b.jpg", captions("a cat"))])
    assert read_predictions(path) == {"a.jpg": "a dog", "b.jpg": "a cat"}


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_a_file_cut_at_any_byte_is_finished_to_the_same_bytes(tmp_path, ending):
    batch = [("a.jpg", captions("a dog", "é")), ("b\u2028.jpg", captions("a cat, two", "cats"))]
    whole = tmp_path / f"whole.{ending}"
    write(whole, batch, num_captions=2)
    content = whole.read_bytes()
    cut = tmp_path / f"cut.{ending}"
    for size in range(len(content)):
        cut.write_bytes(content[:size])
        with open_output(str(cut), 2) as output:
            output.write([entry for entry in batch if not output.has(entry[0])])
        assert cut.read_bytes() == content, size


def test_coco_results_go_on_after_an_interruption_and_are_added_to_later(tmp_path):
    path = tmp_path / "out.json"
    with pytest.raises(KeyboardInterrupt), open_output(str(path), 1) as output:
        output.write([("a.jpg", captions("first"))])
        raise KeyboardInterrupt
    assert not path.exists()
    with open_output(str(path), 1) as output:
        assert output.has("a.jpg")
        output.write([("b.jpg", captions("second"))])
    with open_output(str(path), 1) as output:
        assert output.has("a.jpg") and output.has("b.jpg") and not output.has("c.jpg")
        output.write([("c.jpg", captions("third"))])
    assert read_predictions(path) == {"a.jpg": "first", "b.jpg": "second", "c.jpg": "third"}


@pytest.mark.parametrize("ending", ["jsonl", "csv", "json"])
def test_somebody_elses_file_is_refused_and_kept(tmp_path, ending):
    path = tmp_path / f"train.{ending}"
    for content in (b"image,caption\na.jpg,a dog\n", b'{"image": 3}\n', b"no line end", b"[1, 2]\n"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="nothing was changed"):
            open_output(str(path), 1)
        assert path.read_bytes() == content


def test_a_file_name_that_is_no_utf_8_comes_back_as_it_was(tmp_path):
    name = b"caf\xe9.jpg".decode("utf-8", errors="surrogateescape")
    for ending in ("jsonl", "csv"):
        path = tmp_path / f"out.{ending}"
        write(path, [(name, captions("a cup"))])
        with open_output(str(path), 1) as output:
            assert output.has(name)


def test_a_table_refuses_a_line_break_in_a_name(tmp_path):
    with (
        open_output(str(tmp_path / "out.csv"), 1) as table,
        open_output(str(tmp_path / "out.jsonl"), 1) as lines,
    ):
        assert "choose a .jsonl" in table.refusal("a\nb.jpg")
        assert table.refusal("a b.jpg") is None and lines.refusal("a\nb.jpg") is None


def test_several_captions_do_not_fit_into_coco_results(tmp_path):
    with pytest.raises(UsageError, match=r"\.jsonl or \.csv"):
        open_output(str(tmp_path / "out.json"), 2)


def test_an_unknown_ending_names_the_known_ones(tmp_path):
    with pytest.raises(UsageError, match=r"\.csv, \.jsonl, \.json; received"):
        open_output(str(tmp_path / "out.xml"), 1)


@pytest.mark.parametrize(
    ("name", "image_id"),
    [
        ("000000391895.jpg", 391895),
        ("a/COCO_val2014_000000391895.jpg", 391895),
        ("391895.jpg", "391895.jpg"),
        ("1000268201_693b08cb0e.jpg", "1000268201_693b08cb0e.jpg"),
    ],
)
def test_only_coco_file_names_become_numbers(name, image_id):
    assert coco_image_id(name) == image_id
