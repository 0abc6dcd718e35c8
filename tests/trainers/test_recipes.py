"""Every recipe that the package carries can be run, and says what to expect."""

import dataclasses
import json
import re

import pytest
from runs import read_metrics

from captioner.model.presets import ARCHITECTURES
from tools.run_config import settings_from_config
from trainers.csv_settings import CsvTrainSettings
from trainers.recipes import list_recipes, read_recipe
from trainers.stages import NAMED_STAGES, stage_settings
from trainers.webdataset_settings import WebdatasetTrainSettings

TRAINERS = {"csv": CsvTrainSettings, "webdataset": WebdatasetTrainSettings}
GIVEN = {"csv": "a.csv", "shards": ["a.tar"], "gpt2": "gpt2", "preset": "runs/a", "run_dir": "runs/b"}
RECIPES = {recipe.name: recipe for recipe in list_recipes()}


def settings_of(recipe):
    given = {name: GIVEN[name] for name in ("run_dir", *recipe.needs)}
    return settings_from_config(TRAINERS[recipe.trainer], recipe.settings | given, recipe.name)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_valid_settings_and_names_what_it_needs(name):
    recipe = RECIPES[name]
    run = settings_of(recipe)
    assert all(stage.epochs >= 1 for stage in stage_settings(run))
    assert run.architecture in ARCHITECTURES
    assert {"csv": "csv", "webdataset": "shards"}[recipe.trainer] in recipe.needs
    assert not {"run_dir", "csv", "shards", "images"} & recipe.settings.keys()
    assert recipe.after is None or (recipe.after in RECIPES and "preset" in recipe.needs)
    assert json.loads(json.dumps(run.to_dict())) == run.to_dict()


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_data_hardware_source_and_its_score_measured_or_expected(name):
    recipe = RECIPES[name]
    assert recipe.data and recipe.hardware and recipe.source
    assert re.match(
        r"(Expected, not measured: CIDEr [\d.]+ to [\d.]+|Measured, .*: CIDEr [\d.]+)", recipe.score
    )


def test_the_pretrained_recipe_has_the_named_stages_and_then_its_own_captions():
    stages = settings_of(RECIPES["coco_gpt2_124m"]).stages
    assert stages[:3] == NAMED_STAGES["gpt2"]
    assert stages[3].objective == "self_critical"


@pytest.mark.parametrize("size", ["124m", "355m"])
def test_the_recipe_that_this_package_comes_from_keeps_its_rate_and_norm(size):
    first, second = (settings_of(RECIPES[f"origin_{size}_{data}"]) for data in ("cc3m", "coco"))
    assert (first.epochs, second.epochs) == (2, 1)
    for run in (first, second):
        assert (run.learning_rate, run.clip_norm, run.weight_decay) == (6.25e-5, 1.0, 0.0)
        assert (run.warmup_fraction, run.final_learning_rate_fraction) == (0.0, 1.0)
        assert "image_encoder" in run.train_parts


def test_an_unknown_recipe_is_refused_with_the_known_names():
    with pytest.raises(ValueError, match=r"`recipe` must be one of coco_gpt2_124m, .*; received 'coco'"):
        read_recipe("coco")


def test_a_recipe_runs_in_miniature(train, tmp_path):
    """The stages of the bundled preset, an epoch each, with the layers of the tiny image encoder."""
    run = settings_of(RECIPES["flickr8k_lite0"])
    stages = [
        dataclasses.replace(stage, epochs=1, frozen_until=stage.frozen_until and "cells")
        for stage in run.stages
    ]
    kept = (
        "horizontal_flip",
        "min_crop_area",
        "cache_features",
        "cache_views",
        "dropout",
        "weights_dtype",
        "lowercase",
    )
    changes = {name: getattr(run, name) for name in kept}
    train(tmp_path / "run", epochs=15, stages=tuple(stages), validation_split=0.3, **changes)
    assert [line["stage"] for line in read_metrics(tmp_path / "run")] == [1, 2, 3, 4]
