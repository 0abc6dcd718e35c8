"""Stages: what each of them trains, and that a run through all of them goes on where it was killed."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from runs import assert_same_run, killed_in_epoch, last_checkpoint, read_checkpoint, read_metrics

from captioner.model import ImageCaptioner
from captioner.model.parts import variables_of_parts
from trainers import loop
from trainers.check_resume import check_resume
from trainers.csv_trainer import train_csv
from trainers.run_folder import RunFolder
from trainers.stage_progress import require_possible
from trainers.stages import NAMED_STAGES, Stage, stage_settings
from trainers.step_checkpoints import StepCheckpoints
from trainers.webdataset_settings import WebdatasetTrainSettings
from trainers.workers import Workers

TEXT = ("image_blocks", "cross_attention", "decoder", "embeddings")
FRESH = Stage(epochs=2, train_parts=("image_blocks", "cross_attention"), learning_rate=1e-2)
LATE_LAYERS = Stage(
    epochs=1,
    train_parts=("image_encoder", *TEXT),
    frozen_until="cells",
    learning_rate=1e-2,
    rate_scales={"image_encoder": 0.5},
)
OWN_CAPTIONS = Stage(epochs=1, objective="self_critical", num_samples=2)
STAGED = {
    "epochs": 15,  # the default
    "stages": (FRESH, LATE_LAYERS, OWN_CAPTIONS),
    "learning_rate": 3e-3,
    "validation_split": 0.3,
    "dropout": 0.2,
    "ema_momentum": 0.9,
    "cache_features": True,
    "cache_views": 3,
    "horizontal_flip": True,
    "min_crop_area": 0.5,
}


def test_a_stage_is_the_run_with_its_changes_and_ends_where_its_epochs_do(settings, tmp_path):
    run = settings(tmp_path, seed=3, weight_decays={"decoder": 0.5}, **STAGED)
    first, second, third = stage_settings(run)
    assert [stage.epochs for stage in (first, second, third)] == [2, 3, 4]
    assert first.train_parts == FRESH.train_parts and third.train_parts == TEXT
    assert (second.frozen_until, third.frozen_until) == ("cells", None)
    assert (second.learning_rate, third.learning_rate) == (1e-2, 3e-3)
    assert first.weight_decays == {} and second.weight_decays == {"decoder": 0.5}
    assert third.objective == "self_critical" and third.preset == str(tmp_path)
    assert {stage.seed for stage in (first, second, third)} == {3} and third.stages == ()
    assert stage_settings(settings(tmp_path)) == (settings(tmp_path),)


def test_a_pretrained_decoder_trains_what_is_fresh_then_the_decoder_then_all(settings, tmp_path):
    run = settings(tmp_path, preset=None, gpt2=tmp_path, epochs=15, cache_features=True)
    stages = stage_settings(run)
    assert stages == stage_settings(dataclasses.replace(run, stages=NAMED_STAGES["gpt2"]))
    assert [stage.cache_features for stage in stages] == [True, True, False]
    assert run.to_dict()["stages"] == json.loads(json.dumps([s.changes for s in NAMED_STAGES["gpt2"]]))
    assert stage_settings(dataclasses.replace(run, stages=())) == (dataclasses.replace(run, stages=()),)
    assert settings(tmp_path).to_dict()["stages"] == []
    assert [stage.epochs for stage in stages] == [1, 2, 5]
    assert [set(stage.train_parts) for stage in stages] == [
        {"image_blocks", "cross_attention"}, set(TEXT), {"image_encoder", *TEXT},
    ]  # fmt: skip
    assert [stage.rate_scales for stage in stages] == [{}, {}, {"image_encoder": 0.1}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": None, "gpt2": "gpt2", "epochs": 7}, "`epochs` of the run is used by none of its 3 .* by --stages none"),
        ({"stages": (FRESH, Stage(epochs=0))}, "stage 2 of 2: `epochs` must be at least 1; received epochs=0"),
        ({"stages": (Stage(frozen_until="cells"),)}, "stage 1 of 1: `frozen_until` needs image_encoder among the train_parts"),
        ({"stages": (Stage(train_parts=("image_encoder",), cache_features=True),)}, "stage 1 of 1: `cache_features` needs"),
        ({"stages": (Stage(train_parts=("image_encoder",)),), "cache_features": True}, "`cache_features` is used by none of the"),
        ({"stages": (OWN_CAPTIONS,), "preset": None}, "stage 1 of 1: `objective`=self_critical needs a captioner"),
        ({"stages": (FRESH, LATE_LAYERS), "epochs": 7}, "`epochs` of the run is used by none of its 2 stages.* epochs=7"),
        ({"stages": (FRESH,), "weight_decays": {"image_encoder": 0.1}}, "`weight_decays` must be about parts that a stage"),
        ({"stages": (FRESH,), "frozen_until": "cells"}, "`frozen_until` must be about parts that a stage trains"),
        ({"stages": (Stage(rate_scales={"image_encoder": 0.1}),)}, "stage 1 of 1: `rate_scales` must name parts"),
    ],
)  # fmt: skip
def test_a_stage_that_cannot_be_followed_is_named(settings, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        settings(tmp_path, **{"epochs": 15} | changes)


def test_stages_of_shards_have_no_feature_cache():
    with pytest.raises(ValueError, match="stage 1 of 1: `cache_features` is a setting of another trainer"):
        WebdatasetTrainSettings(run_dir="run", shards=("a.tar",), stages=(Stage(cache_features=True),))


@pytest.mark.parametrize("stage", [Stage(train_parts=("image_encoder", *TEXT)), Stage(cache_features=False)])
def test_a_stage_that_trains_the_whole_image_encoder_or_says_so_does_without_the_cache_of_the_run(
    settings, tmp_path, stage
):
    first, second = stage_settings(settings(tmp_path, **STAGED | {"stages": (FRESH, stage)}))
    assert (first.cache_features, first.cache_views) == (True, 3)
    assert (second.cache_features, second.cache_views, second.horizontal_flip) == (False, 1, True)


@pytest.fixture(scope="module")
def finished(train, tmp_path_factory):
    """The folder of a finished run of three stages."""
    folder = tmp_path_factory.mktemp("staged") / "whole"
    train(folder, **STAGED)
    return folder


def test_each_stage_changes_its_parts_alone(finished, tiny_preset, tiny_captioner):
    captioner = tiny_captioner()
    begun = [ImageCaptioner.from_preset(str(tiny_preset)).variables]
    begun = [[np.array(variable.value) for variable in begun[0]]]
    for name in ("stage-2", "stage-3"):
        values, _ = read_checkpoint(finished / "checkpoints" / f"{name}.h5")
        begun.append([values[f"model/{i:05d}"] for i in range(len(captioner.variables))])
    values, _ = read_checkpoint(last_checkpoint(finished))
    begun.append([values[f"model/{i:05d}"] for i in range(len(captioner.variables))])
    places = {id(variable): i for i, variable in enumerate(captioner.variables)}
    changed = [
        {
            part
            for part, variables in variables_of_parts(captioner.backbone).items()
            if any(
                not np.array_equal(before[places[id(v)]], after[places[id(v)]])
                for v in variables
                if "float" in v.dtype
            )
        }
        for before, after in itertools.pairwise(begun)
    ]
    # The embeddings of the special tokens are always trained.
    assert changed == [{"image_blocks", "cross_attention", "embeddings"}, {"image_encoder", *TEXT}, set(TEXT)]
    token_embedding = captioner.backbone.token_embedding.embeddings
    assert np.array_equal(begun[0][places[id(token_embedding)]], begun[1][places[id(token_embedding)]])


def test_metrics_name_the_stage_and_its_rate_ends_at_zero(finished):
    lines = read_metrics(finished)
    assert [(line["epoch"], line["stage"]) for line in lines] == [(1, 1), (2, 1), (3, 2), (4, 3)]
    assert lines[0]["learning_rate"] > 1e-3
    assert all(line["learning_rate"] == pytest.approx(0, abs=1e-6) for line in lines[1:])
    assert "reward" in lines[3] and "reward" not in lines[2]
    stored = json.loads((finished / "config.json").read_text())["stages"]
    assert stored[2] == {"epochs": 1, "objective": "self_critical", "num_samples": 2}
    assert (finished / "metrics.png").exists()


def test_a_run_killed_in_every_stage_and_between_them_equals_one_that_ran_through(finished, train, tmp_path):
    folder, resume = tmp_path / "run", {"resume": True}
    with killed_in_epoch(2):
        train(folder, **STAGED)
    with killed_before(loop, "begin_stage"):
        train(folder, **STAGED, **resume)
    with killed_in_epoch(3):  # nothing of the second stage is saved yet
        train(folder, **STAGED, **resume)
    with killed_before(
        StepCheckpoints, "save"
    ):  # the best epoch may be of the second stage by now, the checkpoint is not
        train(folder, **STAGED, **resume)
    assert read_checkpoint(RunFolder(folder).best_checkpoint)[1]["epoch"] == 3
    with killed_in_epoch(4):
        train(folder, **STAGED, **resume)
    train(folder, **STAGED, **resume)
    assert_same_run(folder, finished)


def test_a_damaged_checkpoint_of_a_stage_falls_back_into_the_one_before(finished, train, tmp_path):
    folder = tmp_path / "run"
    with killed_in_epoch(4):
        train(folder, **STAGED)
    for path in RunFolder(folder).checkpoints[:1]:
        path.write_bytes(path.read_bytes()[:-100])
        damaged = path
    train(folder, **STAGED, keep_checkpoints=1, resume=True)
    assert_same_run(folder, finished)
    assert damaged not in RunFolder(folder).checkpoints and len(RunFolder(folder).checkpoints) == 1


def test_a_staged_run_killed_by_the_system_equals_one_that_ran_through(settings, tmp_path):
    stages = (dataclasses.replace(FRESH, epochs=3), dataclasses.replace(LATE_LAYERS, epochs=3))
    run = settings(
        tmp_path / "run", **STAGED | {"learning_rate": 5e-4, "stages": stages, "num_validation_captions": 1}
    )
    report = check_resume(train_csv, run, tmp_path, num_kills=6)
    assert report.differences == ()
    assert min(report.killed_at) < 9 < max(report.killed_at), "not killed in both stages"


def test_patience_ends_a_stage_and_the_next_one_begins(train, tmp_path):
    stalled = Stage(epochs=5, patience=1, learning_rate=1e-20, weight_decay=0.0)
    stages = (stalled, Stage(epochs=1, learning_rate=1e-20))
    train(tmp_path / "run", epochs=15, stages=stages, validation_split=0.3)
    assert [(line["epoch"], line["stage"]) for line in read_metrics(tmp_path / "run")] == [
        (1, 1),
        (2, 1),
        (6, 2),
    ]


def test_a_layer_that_a_later_stage_does_not_find_is_refused_before_the_first(train, tmp_path):
    with pytest.raises(ValueError, match=r"`frozen_until` must be a layer .* received 'nowhere'"):
        train(
            tmp_path / "run",
            epochs=15,
            stages=(FRESH, dataclasses.replace(LATE_LAYERS, frozen_until="nowhere")),
        )
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_later_stage_that_devices_cannot_share_is_refused_before_the_first(
    settings, tiny_captioner, tmp_path
):
    stages = stage_settings(settings(tmp_path / "run", epochs=15, stages=(FRESH, OWN_CAPTIONS)))
    require_possible(stages, tiny_captioner(), Workers())
    with pytest.raises(ValueError, match="`objective`=self_critical trains on one device in one process"):
        require_possible(stages, tiny_captioner(), Workers(devices=("CPU:0", "CPU:1")))


def killed_before(owner, name):
    """Stops the block, as Ctrl-C does, where that function would be called the first time."""

    class Killed:
        def __enter__(self):
            self.patch = pytest.MonkeyPatch()
            self.patch.setattr(owner, name, self.stop)

        @staticmethod
        def stop(*arguments, **keywords):
            raise KeyboardInterrupt

        def __exit__(self, kind, *rest):
            self.patch.undo()
            assert kind is KeyboardInterrupt
            return True

    return Killed()
