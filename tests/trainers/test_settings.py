"""Settings that cannot be followed are refused before anything is read or written."""

import dataclasses
import json
from pathlib import Path

import pytest

from trainers.csv_settings import CsvTrainSettings

NEEDED = {"run_dir": Path("run"), "csv": Path("table.csv")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, r"`epochs` must be at least 1; received epochs=0\."),
        ({"batch_size": -1}, "`batch_size` must be at least 1"),
        ({"max_length": 1}, "`max_length` must be at least 2"),
        ({"seed": -1}, "`seed` must be at least 0"),
        ({"patience": -1}, "`patience` must be at least 0"),
        ({"hidden_dim": 0}, "`hidden_dim` must be at least 1"),
        ({"learning_rate": 0.0}, "`learning_rate` must be above 0"),
        ({"learning_rate": float("nan")}, "`learning_rate` must be above 0"),
        ({"clip_norm": float("inf")}, "`clip_norm` must be at least 0"),
        ({"weight_decay": -0.1}, "`weight_decay` must be at least 0"),
        ({"rate_scales": {"image_encoder": 0.1}}, r"`rate_scales` must name parts that are trained .* image_encoder=0\.1"),
        ({"rate_scales": {"decoder": 0.0}}, r"`rate_scales` must be above 0; received decoder=0\.0"),
        ({"weight_decays": {"decoder": -1.0}}, "`weight_decays` must be at least 0"),
        ({"dropout": 1.0}, "`dropout` must be at least 0 and below 1"),
        ({"label_smoothing": 1.0}, "`label_smoothing` must be at least 0 and below 1"),
        ({"train_parts": ()}, "`train_parts` must name at least one part"),
        ({"frozen_until": "cells"}, "`frozen_until` needs image_encoder among the train_parts"),
        ({"validation_split": 1.0}, "`validation_split` must be at least 0 and below 1"),
        ({"validation_split": 0.1, "validation_csv": Path("b.csv")}, "`validation_split` must be 0 with"),
        ({"validation_images": Path("b")}, "`validation_images` needs a `validation_csv`"),
        ({"folds": 3, "num_processes": 2, "coordinator": "here:1"}, "`folds` must be trained one by one with several processes"),
        ({"max_bad_fraction": 1.5}, "`max_bad_fraction` must be from 0 to 1"),
        ({"cache_features": True, "train_parts": ("image_encoder",)}, "`cache_features` needs an image encoder that is frozen"),
        ({"cache_views": 2, "horizontal_flip": True}, "`cache_views` needs `cache_features`"),
        ({"cache_views": 0}, "`cache_views` must be at least 1"),
        ({"cache_features": True, "horizontal_flip": True}, "need each other"),
        ({"cache_features": True, "cache_views": 2}, "need each other"),
        ({"min_crop_area": 0.0}, "`min_crop_area` must be"),
        ({"color_jitter": -0.1}, "`color_jitter` must be"),
        ({"gpt2": Path("gpt2"), "num_layers": 3}, "`num_layers` is fixed by the pretrained GPT-2; received num_layers=3"),
        ({"gpt2": Path("gpt2"), "preset": "runs/mine"}, "`preset` is fixed by the pretrained GPT-2"),
        ({"gpt2": Path("gpt2"), "tokenizer": Path("t")}, "`tokenizer` is fixed by the pretrained GPT-2"),
    ],
)  # fmt: skip
def test_a_setting_out_of_range_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        CsvTrainSettings(**NEEDED | changes)


def test_settings_as_json_name_every_field():
    settings = CsvTrainSettings(**NEEDED, train_parts=("decoder",))
    stored = json.loads(json.dumps(settings.to_dict()))
    assert stored.keys() == {field.name for field in dataclasses.fields(settings)}
    assert stored["csv"] == "table.csv" and stored["train_parts"] == ["decoder"]
