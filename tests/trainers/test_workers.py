"""Devices and processes that share each batch train what one device trains with the whole batch."""

import dataclasses
import json
import os
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf
from runs import last_checkpoint, read_checkpoint, read_metrics
from shards import overwrite_image, samples_of, write_shard
from worker_runs import SECONDS, finish_run, read_told, start_commands, start_processes, start_run

from captioner.model import ImageCaptioner
from trainers import csv_trainer
from trainers.data_report import DataReport, write_data_report
from trainers.process_reports import merge_process_reports, process_report
from trainers.records import Problem
from trainers.run_folder import RunFolder
from trainers.stages import Stage
from trainers.step_checkpoints import TERMINATED
from trainers.webdataset_settings import WebdatasetTrainSettings
from trainers.workers import Workers, choose_devices, require_shareable

# Texts of 1 to 3 captions, so that parts of a batch differ in their tokens; 10 images, so that the last batch of 4 is short.
ALIKE = {"epochs": 4, "batch_size": 4, "learning_rate": 3e-3, "dropout": 0.0}
UPDATES = {"ema_momentum": 0.9, "clip_norm": 0.1}

LOST = (
    "a process of this training ended or cannot be reached",
    "another task died",  # JAX's own, where the heartbeat comes first
)


def assert_same_weights(folder, expected, atol=1e-5):
    values, state = read_checkpoint(last_checkpoint(folder))
    expected_values, expected_state = read_checkpoint(last_checkpoint(expected))
    assert state["epoch"] == expected_state["epoch"]
    assert values.keys() == expected_values.keys()
    for name, value in values.items():
        if not name.startswith("metrics"):
            np.testing.assert_allclose(value, expected_values[name], atol=atol, err_msg=name)


@pytest.mark.parametrize("backend", ["tensorflow", pytest.param("jax", marks=pytest.mark.oracle)])
def test_two_devices_train_what_one_device_trains(settings, tmp_path, backend):
    pytest.importorskip(backend, reason='needs pip install "captioner[oracle]"')
    # 3 batches an epoch: some updates reach over the end of one.
    alike = settings(tmp_path / "one", **ALIKE | {"epochs": 7}, **UPDATES, gradient_accumulation_steps=2)
    runs = [
        start_run(
            dataclasses.replace(alike, run_dir=tmp_path / name, devices=devices),
            backend=backend,
            num_devices=2,
        )
        for name, devices in (("one", "1"), ("two", "2"))
    ]
    for run in runs:
        finish_run(run)
    assert_same_weights(tmp_path / "two", tmp_path / "one")
    values, _ = read_checkpoint(last_checkpoint(tmp_path / "two"))
    assert values["optimizer/00000"] // 2 == 10  # updates, of two batches each
    losses = [[line["loss"] for line in read_metrics(tmp_path / name)] for name in ("one", "two")]
    np.testing.assert_allclose(*losses, rtol=0.15)  # the filled last batch counts whole in what is shown


@pytest.fixture(scope="module")
def from_shards(photos, tiny_preset, tmp_path_factory):
    """Settings of a run from shards, and the folder of one process that trained on the batches of two.

    The last of seven images of a shard, which its neighbour of three precedes or follows, cannot be read: of two processes only
    the second meets it."""
    pytest.importorskip("jax", reason='needs pip install "captioner[oracle]"')
    tmp_path = tmp_path_factory.mktemp("shards")
    samples = samples_of(photos)
    shards = [write_shard(tmp_path / "a.tar", samples[:7]), write_shard(tmp_path / "b.tar", samples[7:])]
    given = WebdatasetTrainSettings(
        run_dir=tmp_path / "two",
        shards=tuple(shards),
        shuffle_buffer=4,
        preset=str(tiny_preset),
        captions_per_image=2,
        max_length=9,
        checkpoint_steps=1,
        keep_checkpoints=9,
        cache_dir=tmp_path,
        process_timeout_s=300,
        stages=(Stage(), Stage(learning_rate=1e-3)),
        **ALIKE | {"epochs": 2},
        **UPDATES,
    )
    overwrite_image(shards[0], 6)
    whole = dataclasses.replace(given, run_dir=tmp_path / "one")
    finish_run(start_run(whole, backend="jax", processes=2))
    return given, whole.run_dir


@pytest.mark.oracle
def test_two_processes_train_what_one_trains_also_when_one_of_them_is_killed(from_shards, tmp_path):
    given, whole = from_shards
    given = dataclasses.replace(given, run_dir=tmp_path / "two")
    alive, killed = start_processes(given, 2, killed=1, steps=5)
    said = alive.communicate(timeout=SECONDS)[0]
    assert alive.returncode not in (0, None)
    assert any(words in said for words in LOST), said[-4000:]
    assert killed.wait() == -signal.SIGKILL
    saved = int(last_checkpoint(tmp_path / "two").stem.split("-")[1])
    assert 4 <= saved <= 5
    first, second = start_processes(dataclasses.replace(given, resume=True), 2)
    for process in (first, second):
        finish_run(process)
    told = [read_told(given, index) for index in range(2)]
    assert told[0]["weights"] == told[1]["weights"]
    assert_same_weights(tmp_path / "two", whole)
    assert "metrics.jsonl" in told[0]["changed"]
    assert all("data_report.process-00001." in path for path in told[1]["changed"]), told[1]["changed"]
    # TensorFlow writes these unseen, and names the process.
    assert list((tmp_path / "two").glob(f"tensorboard/*.{first.pid}.*"))
    assert not list((tmp_path / "two").glob(f"tensorboard/*.{second.pid}.*"))
    assert ImageCaptioner.from_preset(str(tmp_path / "two"))


@pytest.mark.oracle
def test_two_processes_stop_together_when_one_of_them_is_asked_to(from_shards, tmp_path):
    given, whole = from_shards
    given = dataclasses.replace(given, run_dir=tmp_path / "two", checkpoint_steps=0)
    for process in start_processes(given, 2, killed=1, steps=4, by=signal.SIGTERM):
        said = process.communicate(timeout=SECONDS)[0]
        assert process.returncode == TERMINATED, said[-4000:]
    saved = int(last_checkpoint(tmp_path / "two").stem.split("-")[1])
    assert 4 <= saved <= 6  # by a vote after a step, or at the end of the epoch
    said = [finish_run(process) for process in start_commands(given, 2)]
    assert_same_weights(tmp_path / "two", whole)
    assert ["became unusable" in words for words in said] == [False, True]
    report = json.loads((tmp_path / "two" / "data_report.json").read_text())
    folder = os.path.basename(os.path.dirname(given.shards[0]))
    assert [problem["item"] for problem in report["while training"]["problems"]] == [f"{folder}/a.tar/6"]
    assert not list((tmp_path / "two").glob("data_report.process-*"))


@pytest.mark.oracle
def test_ray_replaces_a_lost_process_and_the_run_ends_as_if_nothing_had_been(from_shards, tmp_path):
    pytest.importorskip("ray", reason='needs pip install "captioner[oracle]"')
    given, whole = from_shards
    shards = tuple(os.path.relpath(shard, tmp_path) for shard in given.shards)  # from where it is started
    given = dataclasses.replace(given, run_dir=tmp_path / "ray", shards=shards)
    finish_run(start_run(given, backend="jax", ray=True))
    assert (tmp_path / "killed").exists()
    assert_same_weights(tmp_path / "ray", whole)


def test_processes_read_the_parts_of_the_batches_of_one_process(settings, tiny_captioner, tmp_path):
    given = settings(tmp_path / "run", epochs=2, batch_size=4)
    inputs = csv_trainer._read_inputs(given, RunFolder(tmp_path))
    captioner = tiny_captioner()

    def batches(workers):
        data = csv_trainer._training_data(given, captioner, inputs, workers)
        return list(data.training(0, 1).as_numpy_iterator())

    whole = batches(Workers())
    parts = [batches(Workers(process_index=index, num_processes=2)) for index in range(2)]
    assert len(whole) == len(parts[0]) == len(parts[1]) == 2 * 3 - 1
    for batch, *pair in zip(whole, *parts, strict=True):
        joined = tf.nest.map_structure(lambda *arrays: np.concatenate(arrays), *pair)
        num_images = len(batch[1])  # 2 at the end of an epoch: the others have no weight
        assert len(joined[1]) == 4 and not joined[2][num_images:].any()
        for expected, found in zip(tf.nest.flatten(batch), tf.nest.flatten(joined), strict=True):
            np.testing.assert_array_equal(found[:num_images], expected)


@pytest.mark.parametrize(
    "words, chosen",
    [("1", ["a"]), ("2", ["a", "b"]), ("auto", ["a", "b", "c"]), ("2,0", ["c", "a"]), ("1,", ["b"])],
)
def test_devices_are_chosen_by_number_or_position(words, chosen):
    assert choose_devices(words, ["a", "b", "c"]) == chosen


@pytest.mark.parametrize("words", ["0", "4", "two", "1,1", "3,0", "-1,0", ""])
def test_devices_that_are_not_there_are_refused(words):
    with pytest.raises(ValueError, match="`devices` must be a number of devices"):
        choose_devices(words, ["a", "b", "c"])


def test_a_batch_that_cannot_be_cut_into_equal_parts_is_refused():
    workers = Workers(devices=("a", "b", "c"), num_processes=2)
    assert workers.share_of(12) == 6
    with pytest.raises(ValueError, match="`batch_size` must be a multiple of 6"):
        workers.share_of(15)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_processes": 2}, "`coordinator` must be the address"),
        ({"num_processes": 2, "process_index": 2, "coordinator": "here:1"}, "`process_index` must be below"),
        ({"devices": "5"}, "`devices` must be a number of devices"),
    ],
)
def test_workers_that_cannot_be_had_are_refused(train, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train(tmp_path / "run", **changes)


def test_processes_do_not_accumulate_gradients(settings, tiny_captioner, tmp_path):
    given = settings(tmp_path, num_processes=2, coordinator="here:1", gradient_accumulation_steps=2)
    with pytest.raises(ValueError, match="`gradient_accumulation_steps` must be 1 with several processes"):
        require_shareable(given, tiny_captioner())


@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="JAX has no such limit")
def test_several_processes_need_jax(train, tmp_path):
    with pytest.raises(ValueError, match="needs KERAS_BACKEND=jax"):
        train(tmp_path / "run", num_processes=2, coordinator="here:1")


def test_reports_of_processes_are_merged_each_problem_once(tmp_path):
    def write(path, *items):
        problems = tuple(Problem("damaged", item) for item in items)
        report = DataReport(
            source="s", columns=None, num_rows=9, num_images=4, num_captions=9, problems=problems
        )
        write_data_report(path, {"while training": report})

    report = tmp_path / "data_report.json"
    write(report, "a", "b")
    for index, items in ((1, ("b", "c")), (2, ("d",))):
        write(process_report(report, index), *items)
    merge_process_reports(report, "while training")
    merged = json.loads(report.read_text())["while training"]
    assert [problem["item"] for problem in merged["problems"]] == ["a", "b", "c", "d"]
    assert merged["counts"] == {"damaged": 4}
    assert [path.name for path in tmp_path.iterdir()] == ["data_report.json"]
