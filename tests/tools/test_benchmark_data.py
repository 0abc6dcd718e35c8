"""The data benchmark: its sets, its readers, what it counts, and its table."""

import json
import sys
import time
from pathlib import Path

import pytest
from fake_worker import FakeWorker
from PIL import Image

from tools import benchmark_data as command_module
from tools.benchmark_data import (
    DALI,
    OPENCV_PEERS,
    OURS,
    PEERS,
    RUNS,
    BenchmarkDataCommand,
    benchmark_data,
)
from tools.benchmarks import measure
from tools.benchmarks.output import python_with
from tools.benchmarks.passes import measure_cases, seconds_per_image
from tools.benchmarks.photo_sets import bits_per_pixel, repeat_shard, write_indexed_shards, write_photos
from tools.benchmarks.worker import ROOT, Worker
from tools.errors import UsageError
from trainers.shards.data import find_data
from trainers.shards.index import index_path, read_index

PHOTOS = str(ROOT / "res" / "photos")
MILLISECONDS = {
    "tf": 2.0, "csv": 2.5, "decoder": 1.9, "tf.data": 5.0, "dali": 4.0, "DALI": 1.8, "webdataset+cv2": 1.6,
    "webdataset+simplejpeg": 1.7, "webdataset+simplejpeg, smaller": 0.5, "indexing": 3.0,
}  # fmt: skip


class DataWorker(FakeWorker):
    """Answers at once: what `MILLISECONDS` says, 100, 101, 102 MB and half a second."""

    epoch = 0

    def measure(self):
        self.epoch += 1
        what = self.configuration.get("what", self.configuration.get("part"))
        if what == "memory":
            return {"memory_mb": 99.0 + self.epoch}
        if what == "first_batch":
            return {"seconds": 0.5, "cpu_seconds": 0.25}
        return dict.fromkeys(self.configuration["cases"], MILLISECONDS[what] / 1000)


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(measure, "Worker", DataWorker)
    monkeypatch.setattr(command_module, "Worker", DataWorker)


def small_set(folder, num_images=8, size=(40, 30)):
    paths = write_photos(folder / "photos", PHOTOS, num_images=num_images, size=size)
    shards = write_indexed_shards(folder / "shards", paths, samples_per_shard=num_images)
    case = {"paths": paths, "shards": shards, "size": size, "side": 16}
    return {"batch_size": 4, "shuffle_buffer": 10, "num_threads": 1, "cases": {"a": case}} | case


def assert_seconds_per_image(measured):
    """The difference of two passes over so few images is less than the noise, and may be below zero."""
    assert abs(measured["a"]) < 1


def test_ratios_memory_and_start_are_in_the_report_with_hardware_versions_and_command(
    fake, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(command_module, "can_import", lambda python, *modules: True)
    monkeypatch.setattr(sys, "argv", ["captioner", "benchmark", "data", "--quick"])
    assert (
        benchmark_data(BenchmarkDataCommand(quick=True, jpeg_quality=75, output=str(tmp_path / "data.md")))
        == 0
    )
    text, report = (tmp_path / "data.md").read_text(), json.loads((tmp_path / "data.json").read_text())
    assert capsys.readouterr().out == text
    assert [(*row["size"], row["side"]) for row in report["speed"]] == [
        (400, 300, 224), (400, 300, 400), (640, 480, 224), (640, 480, 400), (1600, 1200, 224), (1600, 1200, 400),
    ]  # fmt: skip
    # 5 / 2, 5 / 2.5 and 5 / 4; 1.6 / 2, since decoding smaller is another thing; 2 / 1.9.
    assert "| 1600 x 1200 | 400 | 2.50 | 2.00 | 1.25 | 0.80 | webdataset+cv2 | 5% |" in text
    assert "| tf | 100 | 101 | 102 | +2.0% |" in text
    assert "engine dali 0.50 s (0.25 s of CPU)" in text
    assert "640 x 480 3.00" in text
    assert "JPEGs of quality 75." in text
    assert "captioner benchmark data --quick" in text
    assert "Left out" not in text


def test_what_cannot_be_imported_is_named(fake, monkeypatch, capsys):
    monkeypatch.setattr(command_module, "can_import", lambda python, *modules: False)
    assert benchmark_data(BenchmarkDataCommand(quick=True)) == 0
    text = capsys.readouterr().out
    assert (
        "cannot be imported: shards, engine dali, plain DALI, webdataset+cv2, webdataset+simplejpeg, webdata"
        in text
    )
    assert "| 640 x 480 | 224 | 2.50 | 2.00 | - | - | - | 5% |" in text


def test_a_package_that_is_not_there_cannot_be_imported():
    assert command_module.can_import(sys.executable, "json", "tarfile")
    assert not command_module.can_import(sys.executable, "json", "no_such_package")
    assert not command_module.can_import(sys.executable, "json.no_such_module")
    with pytest.raises(UsageError, match="--peer-python no_such_python cannot import json and tarfile"):
        python_with("json", "tarfile", given="no_such_python")
    assert python_with("json", given=sys.executable) == python_with("json") == sys.executable


def test_starting_does_not_count():
    def run(num_epochs):
        end = time.process_time() + 0.05 + 0.01 * num_epochs
        while time.process_time() < end:
            pass
        return 2 * num_epochs

    assert measure_cases({"cases": {"a": {}}}, lambda case: run)()["a"] == pytest.approx(0.005, abs=0.003)


def test_a_pass_that_loses_images_is_refused():
    with pytest.raises(RuntimeError, match="1 passes gave 4 images and 3 gave 6"):
        seconds_per_image({1: 4, 3: 6}.get)()


def test_photos_have_their_size_and_differ(tmp_path):
    paths = write_photos(tmp_path / "photos", PHOTOS, num_images=15, size=(40, 30))
    assert {Image.open(path).size for path in paths} == {(40, 30)}
    assert len({Path(path).read_bytes() for path in paths}) == 15
    worse = write_photos(tmp_path / "worse", PHOTOS, num_images=15, size=(40, 30), quality=40)
    assert all(Path(a).stat().st_size < Path(b).stat().st_size for a, b in zip(worse, paths, strict=True))
    assert bits_per_pixel(paths[:1], (40, 30)) == 8 * len(Path(paths[0]).read_bytes()) / 1200


def test_a_repeated_shard_is_read_under_each_name(tmp_path):
    given = small_set(tmp_path)
    assert len(read_index(index_path(given["shards"][0])).captions(0)) == 5
    repeat_shard(given["shards"][0], tmp_path / "many", 3)
    data = find_data([str(tmp_path / "many")], progress=False)
    assert data.plan_sources[0].num_samples == (8, 8, 8)


def test_our_readers_are_measured(tmp_path):
    given = small_set(tmp_path)
    for part in ("tf", "csv", "decoder"):
        with Worker(sys.executable, OURS, given | {"part": part}) as worker:
            assert_seconds_per_image(worker.measure())
        assert set(worker.about["versions"]) == {"tensorflow"}


def test_memory_start_and_indexing_are_measured(tmp_path):
    given = small_set(tmp_path) | {"part": "tf", "num_images": 8}
    with Worker(sys.executable, RUNS, given | {"what": "memory"}) as worker:
        assert 50 < worker.measure()["memory_mb"] < 10_000
    with Worker(sys.executable, RUNS, given | {"what": "first_batch"}) as worker:
        assert worker.measure() | {"peak_mb": 0} == worker.measure() | {"peak_mb": 0}  # there is one first
    with Worker(sys.executable, RUNS, given | {"what": "indexing"}) as worker:
        assert_seconds_per_image(worker.measure())


@pytest.mark.parametrize(
    "peer", ["tf.data", *(pytest.param(peer, marks=pytest.mark.oracle) for peer in OPENCV_PEERS)]
)
def test_peers_are_measured(peer, tmp_path):
    for package in OPENCV_PEERS.get(peer, ()):
        pytest.importorskip(package)
    with Worker(sys.executable, PEERS, small_set(tmp_path) | {"part": peer}) as worker:
        assert_seconds_per_image(worker.measure())


@pytest.mark.dali
@pytest.mark.parametrize(("module", "part"), [(OURS, "dali"), (PEERS, "DALI")])
def test_dali_is_measured(module, part, tmp_path):
    for package in DALI:
        pytest.importorskip(package)
    with Worker(sys.executable, module, small_set(tmp_path) | {"part": part}) as worker:
        assert_seconds_per_image(worker.measure())


def test_impossible_sizes_and_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`sides` must be .* received sides=\(0,\)"):
        BenchmarkDataCommand(sides=(0,))
    with pytest.raises(ValueError, match="`epochs` must be at least 2"):
        BenchmarkDataCommand(epochs=1)
    with pytest.raises(ValueError, match="`num_photos` must be a multiple of 4"):
        BenchmarkDataCommand(num_photos=100)
    with pytest.raises(UsageError, match=r"must end in \.md"):
        benchmark_data(BenchmarkDataCommand(output="data.txt"))
    with pytest.raises(UsageError, match="must be a folder with"):
        benchmark_data(BenchmarkDataCommand(photos=str(tmp_path)))
