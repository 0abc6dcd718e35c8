"""What is sent to Weights & Biases, by a fake of it and by the real one without a network."""

import json
import sys
import time
import types
from pathlib import Path

import pytest

from trainers.run_folder import RunFolder
from trainers.settings import TrainSettings
from trainers.wandb_log import WandbLog


@pytest.fixture
def run(tmp_path):
    """A run folder that could be resumed."""
    run = RunFolder(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    run.checkpoint(1).touch()
    return run


@pytest.fixture
def fake(monkeypatch):
    """A wandb that remembers its runs: `(arguments of init, logged (values, step))`."""
    runs = []

    def init(**arguments):
        logged = []
        runs.append((arguments, logged))
        return types.SimpleNamespace(
            log=lambda values, step: logged.append((values, step)),
            finish=lambda: logged.append("finished"),
        )

    class Error(Exception):
        pass

    wandb = types.SimpleNamespace(
        init=init, Settings=dict, Image=Path, errors=types.SimpleNamespace(Error=Error), runs=runs
    )
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    return wandb


def settings(run, project="captions"):
    return TrainSettings(run_dir=run.path, wandb_project=project, seed=5)


def metrics(epoch):
    return {"epoch": epoch, "loss": 3.25 / epoch, "val_cider": 0.1 * epoch}


def test_each_epoch_is_sent_once_with_the_settings_and_the_last_contact_sheet(run, fake):
    log = WandbLog(settings(run), run)
    for epoch in (1, 2):
        run.append_metrics(metrics(epoch))
        if epoch == 2:
            run.contact_sheet.touch()
        log.on_epoch_end(epoch - 1)
    log.close()
    ((arguments, logged),) = fake.runs
    assert arguments["project"] == "captions" and arguments["config"]["seed"] == 5
    sheet = {"validation": run.contact_sheet}
    assert logged == [(metrics(1), 1), (metrics(2) | sheet, 2), "finished"]


def test_a_resumed_run_goes_on_in_the_same_one_with_what_was_not_sent(run, fake):
    log = WandbLog(settings(run), run)
    run.append_metrics(metrics(1))
    log.send()
    run.append_metrics(metrics(2))  # and then the process is killed
    log = WandbLog(settings(run), run)
    run.append_metrics(metrics(3))
    log.close()
    (first, _), (second, logged) = fake.runs
    assert first["id"] == second["id"] and second["resume"] == "allow"
    assert logged == [(metrics(2), 2), (metrics(3), 3), "finished"]


def test_a_run_killed_before_its_first_epoch_was_sent_goes_on_in_the_same_one(run, fake):
    for _ in range(2):
        WandbLog(settings(run), run)
    (first, _), (second, _) = fake.runs
    assert first["id"] == second["id"]


def test_another_project_gets_a_run_of_its_own_with_all_epochs(run, fake):
    run.append_metrics(metrics(1))
    for project in ("captions", "others"):
        WandbLog(settings(run, project), run).close()
    (first, _), (second, logged) = fake.runs
    assert first["id"] != second["id"] and logged == [(metrics(1), 1), "finished"]


def test_a_run_begun_anew_in_the_folder_is_another_run(run, fake):
    for _ in range(2):
        WandbLog(settings(run), run)
        run.checkpoint(1).unlink(missing_ok=True)
    assert fake.runs[0][0]["id"] != fake.runs[1][0]["id"]


def test_what_wandb_refuses_is_told_with_the_way_out(run, fake, monkeypatch):
    def refuse(**arguments):
        raise fake.errors.Error("no API key")

    monkeypatch.setattr(fake, "init", refuse)
    with pytest.raises(ValueError, match=r"`wandb_project` 'captions' .*no API key\. Try `wandb login`"):
        WandbLog(settings(run), run)


def test_without_wandb_nothing_is_trained_and_the_error_says_how_to_get_it(train, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=r'pip install "captioner\[wandb\]"'):
        train(tmp_path / "run", wandb_project="captions")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_training_sends_its_epochs(train, tmp_path, fake):
    train(tmp_path / "run", wandb_project="captions", validation_split=0.3, cache_features=True)
    ((arguments, ((values, step), last)),) = fake.runs
    assert arguments["config"]["validation_split"] == 0.3 and arguments["dir"] == tmp_path / "run"
    assert step == 1 and last == "finished"
    assert {"epoch", "loss", "val_loss", "val_cider", "learning_rate", "validation"} <= values.keys()
    assert values["validation"] == tmp_path / "run" / "validation.png"


@pytest.mark.oracle
def test_the_real_one_writes_an_offline_run_that_can_be_sent_later(run, monkeypatch):
    pytest.importorskip("wandb", reason='needs pip install "captioner[oracle]"')
    monkeypatch.setenv("WANDB_MODE", "offline")
    for epoch in (1, 2):  # the second time resumed
        log = WandbLog(settings(run), run)
        run.append_metrics(metrics(epoch))
        log.on_epoch_end(epoch - 1)
        log.close()
    name = json.loads((run.path / "wandb.json").read_text())["id"]
    first, second = sorted(run.path.glob(f"wandb/offline-run-*/run-{name}.wandb"))
    for path, epoch in ((first, 1), (second, 2)):
        content = _written(path, b"val_cider")
        assert b"label_smoothing" in content and str(metrics(epoch)["loss"]).encode() in content


def _written(path, word, seconds=60):
    """The bytes of a file that holds a word, as soon as it does: wandb's own process writes it."""
    end = time.monotonic() + seconds
    while word not in (content := path.read_bytes()):
        assert time.monotonic() < end, f"{path} holds no {word}, but {content[:200]}"
        time.sleep(0.1)
    return content
