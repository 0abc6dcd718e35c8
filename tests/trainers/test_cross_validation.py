"""Cross-validation: each image validates once, and means are those of the folds."""

import json
import statistics

import pytest

from trainers.cross_validation import cross_validate
from trainers.csv_trainer import train_csv
from trainers.run_folder import RunFolder


def test_each_fold_is_a_run_and_the_summary_is_theirs(settings, tmp_path):
    run = settings(tmp_path / "run", folds=3, num_validation_captions=2)
    summary = cross_validate(run, train_csv)
    losses = [RunFolder(tmp_path / "run" / f"fold-{k:02d}").read_metrics()[0]["val_loss"] for k in (1, 2, 3)]
    assert summary["val_loss"]["values"] == losses and len(set(losses)) == 3
    assert summary["val_loss"]["mean"] == pytest.approx(statistics.fmean(losses))
    assert summary["val_loss"]["standard_deviation"] == pytest.approx(statistics.stdev(losses))
    assert json.loads((tmp_path / "run" / "cross_validation.json").read_text()) == summary


def test_finished_folds_are_not_trained_again(settings, tmp_path):
    calls = []

    def train(run):
        calls.append((run.fold, run.resume, run.run_dir.name))
        return {"epoch": 1, "val_loss": float(run.fold), "loss": 1.0}

    RunFolder(tmp_path / "run" / "fold-01").checkpoint(4).parent.mkdir(parents=True)
    RunFolder(tmp_path / "run" / "fold-01").checkpoint(4).touch()
    summary = cross_validate(settings(tmp_path / "run", folds=2, resume=True), train)
    assert calls == [(1, True, "fold-01"), (2, False, "fold-02")]
    assert summary.keys() == {"val_loss"} and summary["val_loss"]["mean"] == 1.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folds": 1}, "`folds` must be at least 2"),
        ({"folds": 3, "fold": 4}, "`fold` must be from 1 to `folds`=3"),
        ({"fold": 1}, "`fold` must be from 1"),
        ({"folds": 3, "validation_split": 0.1}, "leave validation_csv and validation_split out"),
    ],
    ids=str,
)
def test_settings_that_make_no_folds_are_refused(settings, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        settings(tmp_path / "run", **changes)
