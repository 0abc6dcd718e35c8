"""`captioner check-resume`: what it prints of a comparison, and its exit code."""

import json

import pytest

from tools.main import main
from trainers import check_resume
from trainers.check_resume import ResumeReport
from trainers.csv_trainer import train_csv


@pytest.fixture
def checked(tmp_path, monkeypatch):
    """Function from what the comparison finds to the exit code of the command and how the comparison was called."""

    def run(report: ResumeReport) -> tuple[int, list]:
        calls = []

        def check(train, settings, folder, **options):
            calls.append((train, settings.epochs, folder, options))
            return report

        monkeypatch.setattr(check_resume, "check_resume", check)
        config, output = tmp_path / "config.json", tmp_path / "out"
        config.write_text(json.dumps({"csv": "a.csv", "run_dir": "runs/a", "epochs": 2}))
        words = ["--config", str(config), "--output", str(output), "--kills", "7", "--seed", "3"]
        return main(["check-resume", *words]), calls

    return run


def test_equal_runs_are_told_with_the_steps_of_the_kills_and_end_in_0(checked, capsys, tmp_path):
    code, calls = checked(ResumeReport(killed_at=(2, 5, 11), differences=()))
    assert code == 0
    assert calls == [(train_csv, 2, tmp_path / "out", {"num_kills": 7, "seed": 3})]
    assert capsys.readouterr().out.splitlines() == [
        "Killed 3 times, with so many steps saved: 2, 5, 11",
        "Weights, optimizer and metrics are those of the whole run, to the bit.",
    ]


def test_each_difference_is_a_line_and_ends_in_1(checked, capsys):
    differences = ("the metrics: a and b", "killed/best.h5: decoder/kernel")
    assert checked(ResumeReport(killed_at=(4,), differences=differences))[0] == 1
    assert capsys.readouterr().out.splitlines() == [
        "Killed 1 times, with so many steps saved: 4",
        "Not equal: the metrics: a and b",
        "Not equal: killed/best.h5: decoder/kernel",
    ]


def test_a_run_that_was_never_killed_shows_nothing_and_ends_in_1(checked, capsys):
    assert checked(ResumeReport(killed_at=(), differences=()))[0] == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "Killed 0 times, with so many steps saved: -"
    assert said[1].startswith("The run ended before it could be killed") and len(said) == 2


def test_kills_must_be_one_or_more(tmp_path, capsys):
    assert main(["check-resume", "--config", "a.json", "--output", str(tmp_path), "--kills", "0"]) == 2
    assert "`--kills` must be at least 1; received 0" in capsys.readouterr().err
