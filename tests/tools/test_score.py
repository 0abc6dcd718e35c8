"""`captioner score` with a tiny captioner, from files to files."""

import csv
import json
import re
from types import SimpleNamespace

import pytest
from PIL import Image
from tiny_captioner import random_images, tiny_captioner

from tools.errors import UsageError
from tools.outputs import open_output
from tools.score import ScoreCommand, score


@pytest.fixture(scope="module")
def model():
    return tiny_captioner()


@pytest.fixture
def photos(tmp_path, monkeypatch):
    for number, pixels in enumerate(random_images(3)):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_table(*rows):
    with open("table.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("image", "caption"), *rows])
    return "table.csv"


def read_lines(path):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def test_the_file_that_caption_wrote_is_scored(photos, model):
    given = [("0.png", "a dog"), ("0.png", "a man sleeps"), ("1.png", "two cats")]
    with open_output("c.jsonl", num_captions=1) as output:
        for image, text in given:
            output.write([(image, [SimpleNamespace(text=text, log_prob=-1.0, score=-1.0, confidence=None)])])
    assert score(ScoreCommand(table=photos / "c.jsonl", output=photos / "s.jsonl"), lambda preset: model) == 0
    scored = read_lines("s.jsonl")
    for row, (image, text) in zip(scored, given, strict=True):
        [[expected]] = model.score([image], [text])
        assert (row["image"], row["caption"]) == (f"{photos}/{image}", text)
        assert row["log_prob"] == pytest.approx(expected.log_prob, abs=1e-4)
        assert row["score"] == pytest.approx(expected.score, abs=1e-4)
        assert sum(row["token_log_probs"]) == pytest.approx(row["log_prob"], abs=1e-4)
        assert len(row["tokens"]) == len(row["token_log_probs"]) and row["tokens"][-1] == "<|endoftext|>"


def test_captions_of_one_image_are_printed_in_the_order_of_the_table(photos, model, capsys):
    table = write_table(("1.png", "a dog"), ("0.png", "a cat"), ("1.png", "a bike"))
    assert score(ScoreCommand(table=photos / table), lambda preset: model) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" (log_prob -")[0] for line in lines] == [
        f"{photos}/1.png: a dog",
        f"{photos}/1.png: a bike",
        f"{photos}/0.png: a cat",
    ]


def test_a_csv_holds_the_tokens_as_json(photos, model):
    table = write_table(("0.png", "a dog, a cat"))
    assert score(ScoreCommand(table=photos / table, output=photos / "s.csv"), lambda preset: model) == 0
    with open("s.csv", encoding="utf-8", newline="") as file:
        [row] = csv.DictReader(file)
    assert row["caption"] == "a dog, a cat"
    assert len(json.loads(row["tokens"])) == len(json.loads(row["token_log_probs"])) > 4


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_the_same_command_goes_on_where_it_was_killed(photos, model, ending, capsys):
    table = write_table(
        ("0.png", "a dog"),
        ("0.png", "two\ncats"),
        ("1.png", "a man"),
        ("2.png", "a bike"),
        ("2.png", "a dog"),
    )
    whole, cut = (
        ScoreCommand(table=photos / table, output=photos / f"{name}.{ending}", batch_size=1)
        for name in ("s", "c")
    )
    assert score(whole, lambda preset: model) == 0
    content = whole.output.read_bytes()
    rows = [line.encode() for line in re.findall(r"[^\n]*\n", content.decode())][ending == "csv" :]
    ends = content[: -len(rows[-1])], content[: -len(rows[-1]) - len(rows[-2]) // 2], content[:9], b""
    for number, begin in enumerate(ends):
        cut.output.write_bytes(begin)
        assert score(cut, lambda preset: model) == 0
        assert cut.output.read_bytes() == content, number
    capsys.readouterr()
    assert score(cut, lambda preset: pytest.fail("nothing is left to score")) == 0
    assert "the captions of 3 of 3 images are in" in capsys.readouterr().err


def test_ctrl_c_leaves_what_was_scored(photos, model):
    class Stopped:
        preprocessor = model.preprocessor

        @staticmethod
        def score(images, captions, **others):
            if captions == [["a man"]]:
                raise KeyboardInterrupt
            return model.score(images, captions, **others)

    table = write_table(("0.png", "a dog"), ("1.png", "a man"))
    command = ScoreCommand(table=photos / table, output=photos / "s.jsonl", batch_size=1)
    with pytest.raises(KeyboardInterrupt):
        score(command, lambda preset: Stopped)
    assert [row["caption"] for row in read_lines("s.jsonl")] == ["a dog"]


def test_a_file_of_captions_is_not_gone_on_with(photos, model):
    table = write_table(("0.png", "a dog"))
    with open_output("c.jsonl", num_captions=1) as output:
        output.write([("0.png", [SimpleNamespace(text="a dog", log_prob=-1.0, score=-1.0, confidence=None)])])
    before = (photos / "c.jsonl").read_bytes()
    with pytest.raises(ValueError, match="was not written by `captioner score`: line 1"):
        score(ScoreCommand(table=photos / table, output=photos / "c.jsonl"), lambda preset: model)
    assert (photos / "c.jsonl").read_bytes() == before


def test_bad_images_and_captions_that_are_too_long_are_named_and_left_out(photos, model, capsys):
    (photos / "2.png").write_bytes(b"no image")
    table = write_table(("0.png", "dog " * 30), ("1.png", "a dog"), ("2.png", "a cat"))
    assert score(ScoreCommand(table=photos / table, output=photos / "s.jsonl"), lambda preset: model) == 1
    assert [row["image"] for row in read_lines("s.jsonl")] == [f"{photos}/1.png"]
    said = capsys.readouterr().err
    assert "2.png: not a readable" in said and "0.png: `captions` must have 1 to 17 tokens" in said
    assert "2 of 3 images were not scored" in said


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"output": "scores.txt"}, r"must end in \.jsonl or \.csv"),
        ({"batch_size": 0}, "`--batch-size` must be at least 1"),
        ({"length_penalty": -1.0}, "`--length-penalty` must be 0 or more"),
        ({}, "the table must be a file"),
    ],
)
def test_wrong_usage_says_which_flag(tmp_path, flags, says):
    if "output" in flags:
        flags = {"output": tmp_path / flags["output"]}
    with pytest.raises(UsageError, match=says):
        score(ScoreCommand(table=tmp_path / "absent.csv", **flags))
