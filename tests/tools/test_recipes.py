"""`captioner train --recipe` and `--recipes`: named recipes with the data of the user, flags first."""

import json

import pytest

from tools import main as main_module
from tools.main import main
from trainers.recipes import list_recipes
from trainers.stages import NAMED_STAGES

DATA = ["--csv", "a.csv", "--run-dir", "runs/a"]


@pytest.fixture
def received(monkeypatch):
    """The settings that a train command is called with, in place of the training."""
    settings, load = [], main_module.load

    def loaded(command):
        return (
            (load(command)[0], lambda it: settings.append(it) or 0)
            if "--" not in command.words[-1]
            else load(command)
        )

    monkeypatch.setattr(main_module, "load", loaded)
    return settings


def test_the_list_has_every_recipe_with_its_data_hardware_and_score(capsys):
    assert main(["train", "--recipes"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for recipe in list_recipes():
        for part in (recipe.name, recipe.summary, recipe.data, recipe.hardware, recipe.score):
            assert " ".join(part.split()) in text


def test_one_recipe_is_shown_with_its_settings_as_json(capsys):
    assert main(["train", "--recipes", "coco_lite0"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out[out.index("\n{") :])["stages"][0]["epochs"] == 8
    assert main(["train", "--recipes", "coco"]) == 2
    assert "coco_lite0" in capsys.readouterr().err


def test_a_recipe_runs_on_the_data_of_the_flags_which_win(received):
    assert main(["train", "--recipe", "flickr8k_lite0", *DATA, "--dropout", "0.3"]) == 0
    [settings] = received
    assert (str(settings.csv), settings.dropout, settings.max_length) == ("a.csv", 0.3, 20)
    assert [stage.epochs for stage in settings.stages] == [10, 9, 4, 6]
    assert main(["train", "--recipe", "coco_gpt2_124m", *DATA, "--gpt2", "g", "--stages", "gpt2"]) == 0
    assert received[1].stages == NAMED_STAGES["gpt2"]


def test_a_recipe_of_both_trainers_takes_shards_too(received):
    words = [
        "train",
        "webdataset",
        "--recipe",
        "coco_gpt2_124m",
        "--shards",
        "a.tar",
        "--gpt2",
        "g",
        "--run-dir",
        "r",
    ]
    assert main(words) == 0
    assert received[0].shards == ("a.tar",) and len(received[0].stages) == 4


def test_what_a_recipe_needs_and_nobody_gave_is_asked_for(received, capsys):
    assert main(["train", "--recipe", "origin_124m_coco", *DATA]) == 2
    assert "--preset" in capsys.readouterr().err and received == []
    assert main(["train", "--recipe", "coco_lite0", *DATA, "--epochs", "3"]) == 2
    assert "used by none of its 3 stages" in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert main(["train", "--recipe", "nothing", *DATA]) == 2
    assert "must be one of" in capsys.readouterr().err
    assert main(["train", "--recipe", "coco_lite0", "--config", "a.json", *DATA]) == 2


def test_stages_have_a_name_on_the_command_line(received, capsys):
    assert main(["train", "csv", *DATA, "--gpt2", "models/124M", "--stages", "gpt2"]) == 0
    assert received[0].stages == NAMED_STAGES["gpt2"]
    assert main(["train", "csv", *DATA, "--gpt2", "models/124M", "--stages", "none", "--epochs", "2"]) == 0
    assert (received[1].stages, received[1].epochs) == ((), 2)
    assert main(["train", "csv", *DATA, "--gpt2", "models/124M", "--epochs", "2"]) == 2
    assert "--stages none" in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert main(["train", "csv", *DATA, "--stages", "gpt3"]) == 2
    assert "gpt2" in capsys.readouterr().err


def test_a_file_of_stages_needs_no_data_where_flags_give_them(received, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"stages": [{"epochs": 2}, {"learning_rate": 1}]}))
    assert main(["train", "csv", "--config", str(tmp_path / "run.json"), *DATA]) == 0
    assert [stage.changes for stage in received[0].stages] == [{"epochs": 2}, {"learning_rate": 1.0}]
    (tmp_path / "run.json").write_text(json.dumps({"stages": [{"epoch": 2}]}))
    assert main(["train", "csv", "--config", str(tmp_path / "run.json"), *DATA]) == 2
