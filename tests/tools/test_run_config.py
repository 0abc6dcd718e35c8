"""A run as one JSON file: its values become settings of the right types, and flags win over them."""

import dataclasses
import json
from pathlib import Path

import pytest

from tools import main as main_module
from tools.errors import UsageError
from tools.main import USAGE, main
from tools.run_config import read_run_config, settings_from_config, trainer_of
from trainers.csv_settings import CsvTrainSettings

SETTINGS = CsvTrainSettings(
    run_dir=Path("runs/a"),
    csv=Path("a.csv"),
    epochs=3,
    learning_rate=1.0,
    train_parts=("decoder",),
    horizontal_flip=True,
    rate_scales={"decoder": 0.5},
)


def test_the_settings_that_a_run_stored_come_back():
    values = json.loads(json.dumps(SETTINGS.to_dict()))
    assert settings_from_config(CsvTrainSettings, values, "config.json") == dataclasses.replace(
        SETTINGS, stages=()
    )
    assert trainer_of(values, "config.json") == "csv"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epoch": 3}, "does not know: epoch"),
        ({"epochs": "3"}, "epochs in config.json must be int; received '3'"),
        ({"epochs": True}, "epochs in config.json must be int; received True"),
        ({"learning_rate": "1e-3"}, "learning_rate in config.json must be float"),
        ({"objective": "cider"}, "objective in config.json"),
        ({"train_parts": "decoder"}, "train_parts in config.json"),
        ({"csv": 3}, "csv in config.json must be Path"),
        ({"rate_scales": {"decoders": 0.5}}, "a key of rate_scales in config.json must be .*decoder"),
        ({"rate_scales": {"decoder": "0.5"}}, "decoder of rate_scales in config.json must be float"),
        ({"rate_scales": 0.5}, "rate_scales in config.json must be dict"),
    ],
    ids=str,
)
def test_a_value_that_does_not_fit_is_named(changes, message):
    with pytest.raises(UsageError, match=message):
        settings_from_config(CsvTrainSettings, SETTINGS.to_dict() | changes, "config.json")


def test_a_setting_that_must_be_there_is_asked_for():
    with pytest.raises(UsageError, match=r"lacks csv\."):
        settings_from_config(CsvTrainSettings, {"run_dir": "runs/a"}, "config.json")


def test_a_file_that_is_no_json_object_is_refused(tmp_path):
    for text in ("[1]", "{"):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(UsageError, match=r"a\.json"):
            read_run_config(tmp_path / "a.json")
    with pytest.raises(UsageError, match="names no data"):
        trainer_of({"epochs": 3}, "a.json")


@pytest.mark.parametrize("words", [["launch", "ray"], ["check-resume", "--output", "unused"]])
def test_a_command_of_a_whole_run_names_the_file_that_lacks_something(tmp_path, capsys, words):
    path = tmp_path / "run.json"
    path.write_text('{"csv": "a.csv"}')
    assert main([*words, "--config", str(path)]) == USAGE
    assert f"`--config` {path} lacks run_dir." in capsys.readouterr().err


@pytest.fixture
def trained_with(tmp_path, monkeypatch):
    """Function from the words of a command to the settings that a training would get."""
    received = []
    load = main_module.load
    monkeypatch.setattr(
        main_module,
        "load",
        lambda command: (load(command)[0], lambda settings: received.append(settings) or 0),
    )

    def run(*words):
        assert main(list(words)) == 0
        return received.pop()

    return run


@pytest.mark.parametrize("words", [["train"], ["train", "csv"]])
@pytest.mark.parametrize("flag", ["--config={}", "--config {}"])
def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path, trained_with, words, flag):
    path = tmp_path / "run.json"
    path.write_text(json.dumps(SETTINGS.to_dict()))
    settings = trained_with(*words, *flag.format(path).split(), "--epochs", "7", "--no-horizontal-flip")
    assert settings.to_dict() == dataclasses.replace(SETTINGS, epochs=7, horizontal_flip=False).to_dict()


def test_a_file_does_not_say_which_process_this_is(tmp_path, trained_with):
    stored = dataclasses.replace(SETTINGS, num_processes=2, process_index=1, coordinator="old:1234")
    (tmp_path / "run.json").write_text(json.dumps(stored.to_dict()))
    settings = trained_with("train", "--config", str(tmp_path / "run.json"))
    assert (settings.num_processes, settings.process_index, settings.coordinator) == (1, 0, None)


@pytest.mark.parametrize("words, wanted", [(["--config"], "a file"), (["csv", "--recipe"], "a name")])
def test_what_comes_from_a_file_needs_its_name(capsys, words, wanted):
    assert main(["train", *words]) == USAGE
    assert f"`{words[-1]}` needs {wanted} behind it." in capsys.readouterr().err
