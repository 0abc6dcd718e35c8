"""Whole runs of a tiny captioner from shards, held against runs from a table of the same photos."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from engines import ENGINES
from loopback import answering, serving, whole
from PIL import Image
from runs import RANDOMNESS, assert_same_run, killed_in_epoch, read_metrics, unchanged
from shards import encoded, overwrite_image, samples_of, write_shard

from captioner.model import ImageCaptioner
from captioner.sampling import DecodingSettings
from trainers import csv_trainer, webdataset_trainer
from trainers.run_folder import RunFolder
from trainers.shards import batches as engine_tf
from trainers.shards import dali_decode
from trainers.shards import data as data_module
from trainers.shards.build_index import build_indexes
from trainers.shards.data import find_data
from trainers.shards.engines import find_engine
from trainers.shards.filters import ShardFilters
from trainers.shards.index import ShardIndexError, index_path, read_index
from trainers.stages import Stage
from trainers.webdataset_trainer import train_webdataset

WITH_DALI_ONLY = ENGINES[1:]


@pytest.fixture
def prepared(shard_settings, monkeypatch):
    """Function `(**changes)` that gives what the loop would be handed."""
    handed = []
    monkeypatch.setattr(
        webdataset_trainer,
        "train",
        lambda settings, run, captioner, make_data, workers: handed.append((captioner, make_data(settings))),
    )

    def prepare(**changes):
        train_webdataset(shard_settings(**changes))
        return handed.pop()

    return prepare


def content(dataset):
    """For each image of an epoch its pixels and its captions: token ids, targets and mask of the real positions."""
    result = {}
    for x, y, weight in dataset.as_numpy_iterator():
        for image, ids, mask, targets, weights in zip(
            x["images"], x["token_ids"], x["padding_mask"], y, weight, strict=True
        ):
            shown = [row for row in range(len(ids)) if weights[row].any()]
            texts = {
                (tuple(ids[row][mask[row]]), tuple(targets[row][mask[row]]), tuple(weights[row][mask[row]]))
                for row in shown
            }
            assert image.tobytes() not in result
            result[image.tobytes()] = texts
    return result


def test_a_run_trains_validates_and_exports(shard_settings, shards, photos, tmp_path):
    best = train_webdataset(
        shard_settings(epochs=2, validation_shards=(shards[1],), learning_rate=3e-3, **RANDOMNESS)
    )
    lines = read_metrics(tmp_path / "run")
    assert (
        [line["epoch"] for line in lines] == [1, 2] and np.isfinite(lines[1]["loss"]) and "val_cider" in best
    )
    report = json.loads((tmp_path / "run" / "data_report.json").read_text())
    assert (report["train"]["num_images"], report["train"]["num_captions"]) == (10, 19)
    assert report["validation"]["num_images"] == 3
    with Image.open(tmp_path / "run" / "validation.png") as sheet:
        assert len(np.unique(np.asarray(sheet).reshape(-1, 3), axis=0)) > 500  # photos, not grey tiles
    captioner = ImageCaptioner.from_preset(str(tmp_path / "run"))
    settings = DecodingSettings(sampler="greedy", max_length=6)
    assert captioner.caption([photos / "0.png"], settings)[0][0].log_prob < 0


@pytest.mark.parametrize("objective", ["cross_entropy", "self_critical"])
def test_lost_samples_of_training_and_validation_are_named_and_stop_nothing(
    shard_settings, shards, objective, tmp_path
):
    for shard in shards:
        overwrite_image(shard, 0)
    run = {"epochs": 2, "validation_shards": (shards[1],), "objective": objective}
    best = train_webdataset(shard_settings(**run, **RANDOMNESS))
    assert np.isfinite([best["loss"], best["val_loss"], best["val_cider"]]).all()
    for resume in (True, False):  # a run that goes on keeps the names, though it may not meet them again
        report = json.loads((tmp_path / "run" / "data_report.json").read_text())
        named = {problem["item"] for problem in report["while training"]["problems"]}
        assert named == {f"{tmp_path.name}/a.tar/0", f"{tmp_path.name}/b.tar/7"}
        assert (tmp_path / "run" / "validation.png").exists()
        if resume:
            train_webdataset(shard_settings(**run, **RANDOMNESS, resume=True))


def test_stages_go_through_the_shards_and_are_resumed(shard_settings, shards, tmp_path):
    stages = (Stage(epochs=1, train_parts=("cross_attention",)), Stage(epochs=2, learning_rate=3e-3))
    staged = {"epochs": 15, "stages": stages, "validation_shards": (shards[1],), **RANDOMNESS}
    train_webdataset(shard_settings("whole", **staged))
    with killed_in_epoch(2):
        train_webdataset(shard_settings(**staged))
    train_webdataset(shard_settings(**staged, resume=True))
    assert [line["stage"] for line in read_metrics(tmp_path / "run")] == [1, 2, 2]
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_an_epoch_holds_the_images_and_captions_of_the_table_trainer(
    prepared, settings, monkeypatch, tmp_path
):
    handed = []
    monkeypatch.setattr(
        csv_trainer,
        "train",
        lambda settings, run, captioner, make_data, workers: handed.append(make_data(settings)),
    )
    csv_trainer.train_csv(settings(tmp_path / "table", captions_per_image=3, max_length=9))
    _, data = prepared(captions_per_image=3, max_length=9)
    from_table, from_shards = content(handed[0].training(0)), content(data.training(0))
    assert len(from_shards) == 10 and from_shards == from_table
    assert (data.num_images, data.steps_per_epoch) == (handed[0].num_images, handed[0].steps_per_epoch)


def test_validation_from_shards_and_from_a_table_measure_the_same(shard_settings, shards, photos, tmp_path):
    given = {"epochs": 1, "num_validation_captions": 0, "learning_rate": 1e-3}
    by_shards = train_webdataset(shard_settings("by_shards", validation_shards=tuple(shards), **given))
    by_table = train_webdataset(shard_settings("by_table", validation_csv=photos / "captions.csv", **given))
    for name in ("val_loss", "val_token_accuracy", "val_cider", "val_bleu_4"):
        assert by_shards[name] == pytest.approx(by_table[name], rel=1e-5), name


def test_shards_on_a_web_server_that_drops_connections_train_as_those_on_the_disk(
    shard_settings, shards, tmp_path
):
    given = {"epochs": 2, "learning_rate": 3e-3, "shuffle_buffer": 4, **RANDOMNESS}
    local = train_webdataset(shard_settings("local", **given))
    files = {
        f"/{Path(path).name}": Path(path).read_bytes()
        for shard in shards
        for path in (shard, index_path(shard))
    }
    with serving(files) as server:
        server.script = [whole, answering(limit=100), whole, answering(limit=700)]
        addresses = tuple(f"{server.address}/{Path(shard).name}" for shard in shards)
        remote = train_webdataset(
            shard_settings("remote", shards=addresses, cache_dir=tmp_path / "cache", **given)
        )
        assert {path for path, _ in server.requests} == set(files)
    for metric in ("loss", "epoch"):
        assert remote[metric] == local[metric]
    assert sum(path.stat().st_size for path in (tmp_path / "cache" / "shards").rglob("*.tar")) == sum(
        Path(shard).stat().st_size for shard in shards
    )


def test_captions_that_it_draws_itself_are_learned_from_shards_too(shard_settings, tmp_path):
    best = train_webdataset(
        shard_settings(objective="self_critical", num_samples=2, epochs=1, learning_rate=1e-4)
    )
    assert np.isfinite(best["loss"]) and "reward" in best


def test_an_architecture_learns_its_vocabulary_from_the_shards(prepared):
    captioner, _ = prepared(
        preset=None, image_encoder="resnet50", image_encoder_weights="none", image_size_px=64, hidden_dim=16, num_heads=2,
        num_layers=1, num_image_layers=0, train_tokenizer=270,
    )  # fmt: skip
    assert 262 < captioner.preprocessor.tokenizer.vocabulary_size() <= 270


def test_shards_that_cannot_be_read_count_as_many_captions_as_the_others(shards, tmp_path):
    bad = tmp_path / "z.tar"
    bad.write_bytes(b"\x1f\x8b" + bytes(600))
    whole, data = find_data(shards, progress=False), find_data([*shards, str(bad)], progress=False)
    each = round(whole.report().num_captions / 2)
    assert data.report().bad_fraction == each / (each + whole.report().num_captions)


def test_an_index_with_other_filters_is_another_data_set(shards):
    before = find_data(shards, progress=False).fingerprint()
    build_indexes(shards, filters=ShardFilters(tags="remove"), num_processes=1, progress=False)
    assert find_data(shards, progress=False).fingerprint() != before


def test_when_nothing_can_be_read_any_more_training_stops_and_says_why(
    shard_settings, photos, tmp_path, monkeypatch
):
    samples = samples_of(photos)
    shards = [write_shard(tmp_path / f"{n}.tar", samples[n : n + 1]) for n in range(len(samples))]
    build = webdataset_trainer.build_captioner

    def lose_and_build(*arguments):
        for shard in shards:
            os.truncate(shard, 512)
        return build(*arguments)

    monkeypatch.setattr(webdataset_trainer, "build_captioner", lose_and_build)
    with pytest.raises(ValueError, match=r"Training stopped while reading images.*truncated shard"):
        train_webdataset(shard_settings(shards=tuple(shards), epochs=2))
    assert not RunFolder(tmp_path / "run").preset.exists()


def test_weighted_sources_are_mixed_and_the_first_one_decides_the_epoch(prepared, tmp_path):
    _, data = prepared(shard_weights=(7.0, 14.0), batch_size=4)
    assert (data.num_images, data.steps_per_epoch) == (7 + 14, 6)
    assert len(list(data.training(0).take(6).as_numpy_iterator())) == 6
    _, plain = prepared(batch_size=4, run_dir=tmp_path / "plain")
    assert plain.num_images == 10 and plain.fingerprints != data.fingerprints


def test_a_shard_that_breaks_while_training_stops_nothing_and_is_named(
    shard_settings, shards, tmp_path, monkeypatch
):
    build = webdataset_trainer.build_captioner

    def break_and_build(*arguments):
        os.truncate(shards[0], int(read_index(index_path(shards[0])).image_offset[3]) + 5)
        return build(*arguments)

    monkeypatch.setattr(webdataset_trainer, "build_captioner", break_and_build)
    assert np.isfinite(
        train_webdataset(shard_settings(epochs=2, batch_size=1))["loss"]
    )  # batches of nothing good among them
    report = json.loads((tmp_path / "run" / "data_report.json").read_text())
    named = {problem["item"]: problem["reason"] for problem in report["while training"]["problems"]}
    assert named == {f"{tmp_path.name}/a.tar/{key}": "truncated shard" for key in (3, 4, 5, 6)}
    assert report["while training"]["counts"] == {"truncated shard": 4}


def test_shards_without_an_index_are_indexed_and_bad_samples_named(prepared, photos, tmp_path):
    samples = [*samples_of(photos), ("bad", b"no image", ["a dog"])]
    shard = write_shard(tmp_path / "new.tar", samples, index=False)
    _, data = prepared(shards=(shard,))
    assert data.num_images == 10
    report = json.loads((tmp_path / "run" / "data_report.json").read_text())["train"]
    assert [problem["item"] for problem in report["problems"]] == ["new.tar/bad"]
    with pytest.raises(ValueError, match=r"That is too much: the limit is max_bad_fraction=1\.00%"):
        prepared(shards=(shard,), max_bad_fraction=0.01)


def test_a_run_names_the_first_of_many_rejected_samples_and_counts_all(
    prepared, photos, tmp_path, monkeypatch, caplog
):
    bad = [(f"bad{number:02d}", b"no image", ["a dog", "a cat"]) for number in range(14)]
    shard = write_shard(tmp_path / "new.tar", [*samples_of(photos), *bad], index=False)
    monkeypatch.setattr(data_module, "MAX_NAMED", 1)
    with caplog.at_level("INFO", "captioner"):
        prepared(shards=(shard,), max_bad_fraction=0.9)
    report = json.loads((tmp_path / "run" / "data_report.json").read_text())["train"]
    assert [problem["item"] for problem in report["problems"]] == [f"new.tar/bad{n:02d}" for n in range(10)]
    assert report["counts"] == {"undecodable image": 14} and report["num_unnamed"] == {"undecodable image": 4}
    assert report["num_rows"] == 19 + 28 and report["bad_fraction"] == 28 / 47
    assert "4 of these are not named here: `captioner shards check --report FILE` names all" in caplog.text


def test_an_index_of_another_content_says_how_to_make_it_anew_and_a_copy_does_not(prepared, shards):
    os.utime(shards[0], ns=(1, 1))
    assert prepared()[1].num_images == 10
    with open(shards[0], "ab") as file:
        file.write(b"\0" * 512)
    with pytest.raises(
        ShardIndexError, match=r"its size changed.*Make it anew with `captioner shards index`"
    ):
        prepared()


def test_resuming_with_other_shards_is_refused(shard_settings, shards, tmp_path):
    train_webdataset(shard_settings(epochs=1))
    write_shard(shards[1], [("x", encoded(np.zeros((12, 14, 3), "uint8")), ["a dog"])])
    with unchanged(tmp_path / "run"), pytest.raises(ValueError, match="began with; changed: training data"):
        train_webdataset(shard_settings(epochs=1, resume=True))


@pytest.mark.parametrize("kind", ["shards", "table"])
def test_resuming_with_other_validation_data_is_refused(shard_settings, photos, tmp_path, kind):
    table, samples = tmp_path / "validation.csv", samples_of(photos)[:2]
    table.write_text(f"image,caption\n{photos / '0.png'},a dog\n")
    shard = write_shard(tmp_path / "validation.tar", samples)
    validation = {"validation_shards": (shard,)} if kind == "shards" else {"validation_csv": table}
    train_webdataset(shard_settings(epochs=1, **validation))
    write_shard(shard, [(*samples[0][:2], ["two cats"]), samples[1]])
    table.write_text(table.read_text().replace("dog", "cat"))
    with unchanged(tmp_path / "run"), pytest.raises(ValueError, match="began with; changed: validation data"):
        train_webdataset(shard_settings(epochs=1, **validation, resume=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shards": ()}, "`shards` must name at least one shard"),
        ({"shard_cache_gb": 0.0}, "`shard_cache_gb` must be above 0"),
        ({"shard_weights": (1.0,)}, "`shard_weights` must hold one number for each word"),
        ({"shard_weights": (1.0, 0.0)}, "`shard_weights` must be above 0"),
        ({"shuffle_buffer": 0}, "`shuffle_buffer` must be at least 1"),
        ({"validation_shards": ("a",), "validation_csv": "b"}, "exclude each other"),
        ({"horizontal_flip": True, "min_crop_area": 0.0}, "`min_crop_area` must be above 0"),
    ],
)
def test_impossible_settings_are_refused(prepared, changes, message):
    with pytest.raises(ValueError, match=message):
        prepared(**changes)


def test_patience_without_validation_images_is_refused(prepared, shards):
    with pytest.raises(ValueError, match="`patience` needs validation images"):
        prepared(patience=2)
    prepared(patience=2, validation_shards=(shards[1],))


def test_a_shard_in_two_sources_is_refused(prepared, shards):
    with pytest.raises(ValueError, match="a shard is in two of them"):
        prepared(shards=(shards[0], shards[0]), shard_weights=(1.0, 1.0))


def test_auto_takes_dali_where_it_can_be_used_and_there_is_a_gpu(monkeypatch):
    assert find_engine("tf") == ("tf", engine_tf.decode_batches)
    assert find_engine("dali") == ("dali", dali_decode.decode_batches)
    for gpus, is_available, expected in ((["GPU"], True, "dali"), (["GPU"], False, "tf"), ([], True, "tf")):
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind, gpus=gpus: gpus)
        monkeypatch.setattr(dali_decode, "is_available", lambda is_available=is_available: is_available)
        assert find_engine("auto")[0] == expected


@pytest.mark.parametrize("engine", WITH_DALI_ONLY)
def test_both_engines_show_the_same_images_to_within_a_grey_level(prepared, engine, tmp_path):
    epochs = []
    for name in ("tf", engine):
        _, data = prepared(engine=name, run_dir=tmp_path / name, captions_per_image=3)
        [epoch] = [list(data.training(0).as_numpy_iterator())]
        epochs.append(epoch[: data.steps_per_epoch])
    for (x, y, weight), (other_x, other_y, other_weight) in zip(*epochs, strict=True):
        np.testing.assert_array_equal(y, other_y)
        np.testing.assert_array_equal(weight, other_weight)
        assert np.abs(x["images"] - other_x["images"]).mean((1, 2, 3)).max() < 1.0


@pytest.mark.parametrize("engine", WITH_DALI_ONLY)
def test_fifty_steps_with_either_engine_have_the_same_loss(shard_settings, engine, tmp_path):
    given = {"epochs": 13, "batch_size": 3, "learning_rate": 3e-3, "dropout": 0.0}  # 52 steps
    losses = [train_webdataset(shard_settings(name, engine=name, **given))["loss"] for name in ("tf", engine)]
    first = read_metrics(tmp_path / "tf")[0]["loss"]
    assert losses[0] < 0.9 * first
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
