"""Runs side by side: best epochs, settings that differ, curves."""

import json

import pytest
from PIL import Image

from tools.main import main


def write_run(folder, settings, epochs):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in epochs))
    return str(folder)


@pytest.fixture
def runs(tmp_path):
    epochs = [
        {"epoch": 1, "loss": 3.0, "val_loss": 3.5, "val_cider": 0.25},
        {"epoch": 2, "loss": 2.0, "val_loss": 3.0, "val_cider": 0.5},
        {"epoch": 3, "loss": 1.0, "val_loss": 4.0, "val_cider": 0.125},
    ]
    same = {"epochs": 3, "batch_size": 32, "cache_dir": "a"}
    return [
        write_run(tmp_path / "a", {**same, "learning_rate": 0.001, "train_parts": ["decoder"]}, epochs),
        write_run(
            tmp_path / "b",
            {**same, "learning_rate": 0.1, "train_parts": ["decoder"], "cache_dir": "b"},
            epochs[:1],
        ),
    ]


def test_the_best_epochs_and_the_settings_that_differ_are_shown(runs, capsys):
    assert main(["compare", *runs]) == 0
    head, a, b, _, setting_head, *settings, _, _ = capsys.readouterr().out.splitlines()
    assert head.split() == [
        "run",
        "epoch",
        "loss",
        "val_loss",
        "val_token_accuracy",
        "val_bleu_4",
        "val_cider",
        "captions_per_second",
    ]
    assert a.split() == ["a", "2", "of", "3", "2", "3", "0.5"]
    assert b.split() == ["b", "1", "of", "1", "3", "3.5", "0.25"]
    assert setting_head.split() == ["setting", "a", "b"]
    assert [line.split() for line in settings] == [["learning_rate", "0.001", "0.1"]]


def test_runs_with_the_same_settings_say_so_and_runs_of_one_name_keep_their_paths(tmp_path, runs, capsys):
    other = write_run(tmp_path / "other" / "a", {"epochs": 3}, [{"epoch": 1, "loss": 1.0}])
    again = write_run(tmp_path / "again" / "a", {"epochs": 3}, [{"epoch": 1, "loss": 1.0}])
    assert main(["compare", other, again]) == 0
    out = capsys.readouterr().out
    assert other in out and again in out and "All settings are the same." in out


def test_curves_are_drawn_in_the_first_run_folder(tmp_path, runs, capsys, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["compare", *runs]) == 0
    with Image.open(tmp_path / "a" / "comparison.png") as both:
        both.load()
    assert capsys.readouterr().out.splitlines()[-1] == f"Curves: {tmp_path / 'a' / 'comparison.png'}"
    assert list(tmp_path.rglob("*.png")) == [tmp_path / "a" / "comparison.png"]


def test_curves_of_all_runs_are_drawn_where_they_are_wanted(tmp_path, runs, capsys):
    assert main(["compare", *runs, "--plot", str(tmp_path / "curves.png")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"Curves: {tmp_path / 'curves.png'}"
    assert not (tmp_path / "a" / "comparison.png").exists()
    with Image.open(tmp_path / "curves.png") as both:
        both.load()
    assert main(["compare", runs[1], runs[1], "--plot", str(tmp_path / "one.png")]) == 0
    assert (tmp_path / "one.png").read_bytes() != (tmp_path / "curves.png").read_bytes()


@pytest.mark.parametrize(
    ("words", "code", "message"), [([], 2, "two run folders"), (["."], 1, "no run folder")]
)
def test_what_is_no_run_is_refused(tmp_path, runs, words, code, message, capsys):
    assert main(["compare", runs[0], *(str(tmp_path / word) for word in words)]) == code
    assert message in capsys.readouterr().err
