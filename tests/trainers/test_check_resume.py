"""A run that is killed again and again ends as if it had run through."""

import pytest
from engines import ENGINES
from runs import RANDOMNESS

from trainers.check_resume import check_resume, find_differences
from trainers.csv_trainer import train_csv
from trainers.run_folder import RunFolder
from trainers.webdataset_trainer import train_webdataset


def test_a_run_killed_twenty_times_equals_one_that_ran_through(settings, tmp_path):
    run = settings(
        tmp_path / "run",
        epochs=36,
        num_validation_captions=1,
        validation_split=0.3,
        learning_rate=3e-3,
        gradient_accumulation_steps=2,
        **RANDOMNESS,
    )
    report = check_resume(train_csv, run, tmp_path, num_kills=20)
    assert report.differences == ()
    assert len(report.killed_at) == 20
    within = [step for step in report.killed_at if step % 3]
    assert within, "no run was killed within an epoch"


def test_runs_that_differ_are_told_apart(settings, train, tmp_path):
    train(tmp_path / "a", epochs=2)
    train(tmp_path / "b", epochs=2, seed=1)
    found = find_differences(RunFolder(tmp_path / "a"), RunFolder(tmp_path / "b"))
    assert any("metrics" in difference for difference in found)
    assert any("kernel" in difference for difference in found)


def test_a_training_that_fails_is_an_error(settings, tmp_path):
    (tmp_path / "captions.csv").write_text("image,caption\n")
    with pytest.raises(ChildProcessError, match="exit code 1"):
        check_resume(
            train_csv, settings(tmp_path / "run", csv=tmp_path / "captions.csv"), tmp_path, num_kills=1
        )


@pytest.mark.parametrize("name", ["whole", "killed"])
def test_runs_that_are_there_already_are_not_compared(settings, name, tmp_path):
    (tmp_path / name).mkdir()
    with pytest.raises(FileExistsError, match=f"{name} is there already"):
        check_resume(train_csv, settings(tmp_path / "run"), tmp_path, num_kills=1)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_run_from_shards_killed_twenty_times_equals_one_that_ran_through(
    shard_settings, shards, engine, tmp_path
):
    given = {"epochs": 30, "batch_size": 3, "learning_rate": 3e-3, "shuffle_buffer": 4, **RANDOMNESS}
    run = shard_settings(engine=engine, validation_shards=(shards[1],), **given)
    report = check_resume(train_webdataset, run, tmp_path / "runs", num_kills=20)
    assert report.differences == ()
    assert len(report.killed_at) == 20 and any(step % 4 for step in report.killed_at)
