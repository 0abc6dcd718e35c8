"""Whole runs of a tiny captioner: what the run folder holds, what stops a run, and how it goes on."""

import json
import os
import re
import shutil
import signal
import types

import keras
import numpy as np
import pytest
from PIL import Image
from runs import (
    RANDOMNESS,
    assert_same_run,
    killed_in_epoch,
    last_checkpoint,
    read_checkpoint,
    read_metrics,
    unchanged,
)

from captioner.model import ImageCaptioner
from captioner.sampling import DecodingSettings
from trainers import callbacks, csv_trainer, loop, step_checkpoints
from trainers.checkpoint import CheckpointError, load_checkpoint
from trainers.divergence import DivergenceError, require_finite_weights
from trainers.run_folder import RunFolder
from trainers.stage_progress import train_parts_only
from trainers.validation import Validator

PARTS = {"rate_scales": {"image_blocks": 0.3}, "weight_decays": {"decoder": 0.1}}
FROM_IMAGES = {"epochs": 3, "validation_split": 0.3, "learning_rate": 3e-3, **RANDOMNESS, **PARTS}
FROM_FEATURES = {**FROM_IMAGES, "cache_features": True, "cache_views": 3}


@pytest.fixture(scope="session")
def finished(train, tmp_path_factory):
    """The folder of a finished run of three epochs, and the metrics of its best one."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    return folder, train(folder, **FROM_IMAGES)


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(train, finished, tmp_path):
    with killed_in_epoch(3):
        train(tmp_path / "run", **FROM_IMAGES)
    assert len(read_metrics(tmp_path / "run")) == 2
    assert train(tmp_path / "run", **FROM_IMAGES, resume=True)["epoch"] == finished[1]["epoch"]
    assert_same_run(tmp_path / "run", finished[0])


@pytest.mark.parametrize(
    "run",
    [FROM_FEATURES, FROM_IMAGES | {"dtype": "mixed_float16"}, FROM_IMAGES | {"gradient_checkpointing": True}],
    ids=["cached features", "float16", "gradient checkpointing"],
)
def test_a_resumed_run_of_another_kind_equals_an_uninterrupted_one(train, tmp_path, run):
    train(tmp_path / "whole", **run)
    with killed_in_epoch(3):
        train(tmp_path / "run", **run)
    train(tmp_path / "run", **run, resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_training_and_dropout_change_the_weights(finished, tiny_preset):
    """Guards the two tests above: runs that do nothing are equal too."""
    values, state = read_checkpoint(last_checkpoint(finished[0]))
    assert state["epoch"] == 3
    before = ImageCaptioner.from_preset(str(tiny_preset)).backbone
    after = ImageCaptioner.from_preset(str(finished[0])).backbone
    kernel = before.decoder.blocks[0].query_key_value.kernel
    assert np.abs(np.array(kernel) - np.array(after.decoder.blocks[0].query_key_value.kernel)).max() > 1e-3
    # The image encoder is frozen by default.
    np.testing.assert_array_equal(before.image_encoder.get_weights()[0], after.image_encoder.get_weights()[0])
    seeds = [v for v in values.values() if v.dtype.kind in "iu" and v.shape == (2,)]
    assert len(seeds) >= 3 and all(seed[1] > 0 for seed in seeds)


def test_the_run_folder_holds_what_explains_the_run(finished):
    folder, best = finished
    config = json.loads((folder / "config.json").read_text())
    assert config["epochs"] == 3 and config["horizontal_flip"] is True
    report = json.loads((folder / "data_report.json").read_text())
    assert report["train"]["num_images"] == 10 and report["train"]["num_captions"] == 19
    lines = RunFolder(folder).read_metrics()
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    expected = {
        "loss",
        "val_loss",
        "val_perplexity",
        "val_token_accuracy",
        "val_bleu_4",
        "val_cider",
        "learning_rate",
    }
    assert all(expected <= line.keys() for line in lines)
    assert lines[0]["val_perplexity"] == pytest.approx(np.exp(lines[0]["val_loss"]))
    assert best == max(lines, key=lambda line: (line["val_cider"], -line["val_loss"]))
    for name, least in (("metrics.png", 300), ("validation.png", 50)):
        with Image.open(folder / name) as image:
            assert image.width >= least
    assert list((folder / "tensorboard").glob("events.out.tfevents.*"))
    names = {path.name for path in (folder / "checkpoints").iterdir()}
    assert names == {"step-0000000006.h5", "step-0000000009.h5", "best.h5"}


def test_the_exported_preset_has_the_weights_of_the_best_epoch_and_captions(finished, photos):
    folder, best = finished
    captioner = ImageCaptioner.from_preset(str(folder))
    values, state = read_checkpoint(folder / "checkpoints" / "best.h5")
    assert state["epoch"] == best["epoch"]
    stored = [values[f"model/{i:05d}"] for i, v in enumerate(captioner.variables)]
    for variable, value in zip(captioner.variables, stored, strict=True):
        if "seed_generator" not in variable.path:
            np.testing.assert_array_equal(np.array(variable), value, err_msg=variable.path)
    assert (
        captioner.caption([photos / "0.png"], DecodingSettings(sampler="greedy", max_length=6))[0][0].log_prob
        < 0
    )


def test_validation_and_export_use_the_optimizers_average_of_the_weights(
    train, settings, tiny_captioner, tmp_path, monkeypatch
):
    validate, validated = Validator.__call__, []

    def recorded(self):
        validated.extend(self.captioner.backbone.get_weights())
        return validate(self)

    monkeypatch.setattr(Validator, "__call__", recorded)
    changes = {"ema_momentum": 0.9, "learning_rate": 3e-3, "validation_split": 0.3}
    train(tmp_path / "run", **changes)
    captioner = tiny_captioner()
    train_parts_only(settings(tmp_path / "run", **changes), captioner)
    optimizer = loop.compiled_model(settings(tmp_path / "run", **changes), captioner, num_steps=3).optimizer
    load_checkpoint(last_checkpoint(tmp_path / "run"), captioner, optimizer)
    averages = optimizer._model_variables_moving_average
    exported = ImageCaptioner.from_preset(str(tmp_path / "run")).backbone
    in_backbone = {id(variable): index for index, variable in enumerate(captioner.backbone.weights)}
    for variable, average in zip(optimizer._trainable_variables, averages, strict=True):
        index = in_backbone[id(variable)]
        np.testing.assert_array_equal(validated[index], np.array(average), err_msg=variable.path)
        np.testing.assert_array_equal(exported.get_weights()[index], np.array(average), err_msg=variable.path)
        assert not np.array_equal(np.array(variable), np.array(average)), variable.path


def test_a_run_folder_can_be_fine_tuned(finished, train, tmp_path):
    train(tmp_path / "run", preset=str(finished[0]), learning_rate=1e-6, dropout=0.0)
    before = ImageCaptioner.from_preset(str(finished[0])).backbone
    after = ImageCaptioner.from_preset(str(tmp_path / "run")).backbone
    for old, new in zip(before.trainable_weights, after.trainable_weights, strict=True):
        np.testing.assert_allclose(np.array(new), np.array(old), atol=1e-4, err_msg=new.path)
    changed = [
        not np.array_equal(a, b) for a, b in zip(before.get_weights(), after.get_weights(), strict=True)
    ]
    assert any(changed)
    assert after.dropout == 0.0


def test_a_second_run_in_the_folder_is_refused(finished, train):
    before = (finished[0] / "config.json").read_text()
    with pytest.raises(
        FileExistsError, match=r"holds a run already. Go on with --resume, or give another folder"
    ):
        train(finished[0], epochs=2)
    assert (finished[0] / "config.json").read_text() == before


def test_resuming_with_other_settings_names_each_of_them(finished, train):
    with pytest.raises(
        ValueError, match=r"epochs: 3 -> 5, seed: 0 -> 1\. Use the old ones, or begin a new run with --preset"
    ):
        train(finished[0], **FROM_IMAGES | {"epochs": 5, "seed": 1}, resume=True)


def test_resuming_with_other_captions_is_refused(finished, train, photos, tmp_path):
    table = photos / "captions.csv"
    before = table.read_text()
    try:
        # A row that is left out would change the report too.
        table.write_text(before.replace("dog", "cat") + "0.png,\n")
        with unchanged(finished[0]), pytest.raises(ValueError, match="began with; changed: training data"):
            train(finished[0], **FROM_IMAGES, resume=True)
    finally:
        table.write_text(before)


def test_resuming_a_finished_run_exports_again_and_trains_no_more(finished, train, monkeypatch):
    monkeypatch.setattr(keras.Model, "fit", None)
    assert train(finished[0], **FROM_IMAGES, resume=True) == finished[1]


def test_a_preset_that_cannot_be_written_is_explained(finished, train, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "run", ignore=shutil.ignore_patterns("preset"))
    (folder / "preset").write_text("")
    with pytest.raises(OSError, match=r"cannot write to \S*preset: part of the path is a file"):
        train(folder, **FROM_IMAGES, resume=True)


def test_of_damaged_checkpoints_the_one_before_is_resumed(train, finished, tmp_path, caplog):
    with killed_in_epoch(3):
        train(tmp_path / "run", **FROM_IMAGES, checkpoint_steps=1)
    last = last_checkpoint(tmp_path / "run")
    last.write_bytes(last.read_bytes()[:-100])
    train(tmp_path / "run", **FROM_IMAGES, checkpoint_steps=1, resume=True)
    assert f"{last.name} is not a whole checkpoint" in caplog.text
    assert_same_run(tmp_path / "run", finished[0])


def test_without_a_whole_checkpoint_nothing_is_resumed_or_overwritten(finished, train):
    paths = RunFolder(finished[0]).checkpoints
    whole, metrics = [path.read_bytes() for path in paths], (finished[0] / "metrics.jsonl").read_bytes()
    try:
        for path, data in zip(paths, whole, strict=True):
            path.write_bytes(data[: len(data) // 2])
        with pytest.raises(CheckpointError, match=r"step-0000000006.h5 is not a whole checkpoint"):
            train(finished[0], **FROM_IMAGES, resume=True)
        assert (finished[0] / "metrics.jsonl").read_bytes() == metrics
        assert paths[0].read_bytes() == whole[0][: len(whole[0]) // 2]
    finally:
        for path, data in zip(paths, whole, strict=True):
            path.write_bytes(data)


@pytest.mark.parametrize(
    ("number", "ending", "code"),
    [
        (signal.SIGTERM, SystemExit, (128 + signal.SIGTERM,)),
        (signal.SIGINT, KeyboardInterrupt, ()),
    ],
)
def test_a_run_that_is_asked_to_stop_saves_first_and_goes_on_at_that_step(
    train, finished, tmp_path, number, ending, code
):
    step_end = callbacks.Progress.on_train_batch_end

    def ask(self, batch, logs=None):
        step_end(self, batch, logs)
        if (self.epoch, batch) == (1, 0):
            os.kill(os.getpid(), number)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(ending) as stopped:
        patch.setattr(callbacks.Progress, "on_train_batch_end", ask)
        train(tmp_path / "run", **FROM_IMAGES)
    assert stopped.value.args == code
    assert read_checkpoint(last_checkpoint(tmp_path / "run"))[1]["step"] in (1, 2)
    train(tmp_path / "run", **FROM_IMAGES, resume=True)
    assert_same_run(tmp_path / "run", finished[0])


def test_checkpoints_by_minutes_are_written_after_the_minutes_and_not_before(train, monkeypatch, tmp_path):
    clock = types.SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    step_end = callbacks.Progress.on_train_batch_end

    def take_four_minutes(self, batch, logs=None):
        step_end(self, batch, logs)
        clock.now += 4 * 60

    monkeypatch.setattr(step_checkpoints, "time", clock)
    monkeypatch.setattr(callbacks.Progress, "on_train_batch_end", take_four_minutes)
    train(tmp_path / "run", batch_size=1, checkpoint_minutes=10, keep_checkpoints=9)
    saved = [int(path.stem.split("-")[1]) for path in RunFolder(tmp_path / "run").checkpoints]
    assert saved == [10, 9, 6, 3]  # the end of the epoch, and each third step: 12 minutes


def test_nothing_to_resume_is_an_error_that_leaves_no_folder(train, tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint to resume from"):
        train(tmp_path / "run", resume=True)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_no_number_stops_the_run_at_its_step_and_its_last_batches_are_kept(
    train, tmp_path, monkeypatch
):
    made = []

    def train_with(given, run, captioner, make_data, workers):
        made.append(make_data(given))
        return loop.train(given, run, captioner, make_data, workers)

    monkeypatch.setattr(csv_trainer, "train", train_with)
    message = r"The loss became (nan|inf) at step ([2-4]) of epoch 1\."
    with pytest.raises(DivergenceError, match=message) as stopped:
        train(tmp_path / "run", learning_rate=1e30, warmup_fraction=0.0, clip_norm=1e30)
    assert not (tmp_path / "run" / "checkpoints").exists()
    step = int(re.search(message, str(stopped.value))[2])
    batches = list(made[0].training(0).as_numpy_iterator())[step - 2 : step]
    with np.load(tmp_path / "run" / "diverged_batch.npz") as stored:
        for prefix, (x, targets, sample_weight) in zip(("previous_", ""), batches, strict=True):
            for name, array in {**x, "targets": targets, "sample_weight": sample_weight}.items():
                np.testing.assert_array_equal(stored[prefix + name], array, err_msg=prefix + name)
        assert not np.array_equal(stored["images"], stored["previous_images"])
        assert len(stored.files) == 2 * 5


def spoil_weights(monkeypatch, module, moment):
    """Makes weights no numbers just before a module looks at them for the first time after a step."""

    def poison(model, when):
        if when == moment:
            model.trainable_variables[-1].assign(model.trainable_variables[-1] * np.nan)
        require_finite_weights(model, when)

    monkeypatch.setattr(module, "require_finite_weights", poison)


def test_weights_spoiled_by_the_last_step_of_an_epoch_do_not_become_the_last_checkpoint(
    train, monkeypatch, tmp_path
):
    spoil_weights(monkeypatch, callbacks, "the last step of epoch 2")
    with pytest.raises(DivergenceError, match="no longer numbers after the last step of epoch 2"):
        train(tmp_path / "run", epochs=3)
    values, state = read_checkpoint(last_checkpoint(tmp_path / "run"))
    assert state["epoch"] == 1
    assert all(np.isfinite(value).all() for value in values.values())


def test_weights_spoiled_by_a_step_do_not_become_its_checkpoint(train, monkeypatch, tmp_path):
    spoil_weights(monkeypatch, step_checkpoints, "step 2 of epoch 2")
    with pytest.raises(DivergenceError, match="no longer numbers after step 2 of epoch 2"):
        train(tmp_path / "run", epochs=3, checkpoint_steps=1)
    values, state = read_checkpoint(last_checkpoint(tmp_path / "run"))
    assert (state["epoch"], state["step"]) == (1, 1)
    assert all(np.isfinite(value).all() for value in values.values())


def test_patience_ends_a_run_that_gets_no_better_also_when_it_is_resumed(train, tmp_path, monkeypatch):
    stalled = {
        "epochs": 6,
        "patience": 2,
        "validation_split": 0.3,
        "learning_rate": 1e-20,
        "weight_decay": 0.0,
    }
    assert train(tmp_path / "run", **stalled)["epoch"] == 1
    assert len(read_metrics(tmp_path / "run")) == 3
    monkeypatch.setattr(keras.Model, "fit", None)
    assert train(tmp_path / "run", **stalled, resume=True)["epoch"] == 1


def test_without_validation_images_the_last_epoch_is_exported(train, tmp_path, caplog):
    assert train(tmp_path / "run", epochs=2)["epoch"] == 2
    assert "No validation images: the last epoch will be exported" in caplog.text


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_trains_and_exports_float32(train, tmp_path, dtype):
    best = train(tmp_path / "run", dtype=dtype, validation_split=0.3, learning_rate=3e-3)
    assert np.isfinite([best["loss"], best["val_loss"]]).all()
    backbone = ImageCaptioner.from_preset(str(tmp_path / "run")).backbone
    assert backbone.dtype_policy.name == "float32"
    values, _ = read_checkpoint(last_checkpoint(tmp_path / "run"))
    assert any(key.startswith("optimizer/") for key in values)


def test_a_partly_frozen_encoder_trains_alike_from_images_and_from_cached_features(train, tmp_path):
    partly = {
        "train_parts": ("image_encoder", "image_blocks", "decoder"),
        "frozen_until": "cells",
        "validation_split": 0.3,
        "dropout": 0.0,
        "learning_rate": 1e-2,
    }
    plain = train(tmp_path / "plain", **partly)
    cached = train(tmp_path / "cached", **partly, cache_features=True)
    for name in ("loss", "val_loss"):
        assert cached[name] == pytest.approx(plain[name], abs=1e-3)  # the cache holds float16
    encoders = [
        ImageCaptioner.from_preset(str(tmp_path / name)).backbone.image_encoder
        for name in ("plain", "cached")
    ]
    cells, mixes = ([encoder.get_layer(name).kernel for encoder in encoders] for name in ("cells", "mix"))
    np.testing.assert_array_equal(cells[0], cells[1])
    np.testing.assert_allclose(mixes[0], mixes[1], atol=3e-3)


def test_an_image_that_disappears_after_the_check_is_named(train, photos, monkeypatch, tmp_path):
    build = csv_trainer.build_captioner
    path = photos / "4.png"
    content = path.read_bytes()

    def remove_and_build(*arguments):
        path.unlink()
        return build(*arguments)

    monkeypatch.setattr(csv_trainer, "build_captioner", remove_and_build)
    try:
        with pytest.raises(ValueError, match=r"became unusable: .*4\.png: missing file"):
            train(tmp_path / "run")
    finally:
        path.write_bytes(content)


def test_too_many_bad_rows_leave_their_report_and_a_folder_that_can_be_used_again(train, photos, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text((photos / "captions.csv").read_text() + "gone.png,a dog\n")
    with pytest.raises(ValueError, match=r"missing file.*\n.*the limit is max_bad_fraction=1\.00%"):
        train(tmp_path / "run", csv=table)
    report = json.loads((tmp_path / "run" / "data_report.json").read_text())
    assert report["train"]["problems"][0]["item"].endswith("gone.png")
    assert train(tmp_path / "run", csv=table, max_bad_fraction=0.1)["epoch"] == 1
