"""The decoding benchmark: its table, its files, its workers, and the length that it forces."""

import json
import sys

import numpy as np
import pytest
from fake_worker import FakeWorker
from tiny_captioner import random_images, tiny_captioner

from captioner.resources import DEFAULT_PRESET, bundled_preset
from tools import benchmark
from tools.benchmark import MODELS, BenchmarkDecodeCommand, benchmark_decode
from tools.benchmarks import measure
from tools.benchmarks.ours import decode_forced, weight_shapes
from tools.benchmarks.worker import Worker
from tools.errors import UsageError


class DecodeWorker(FakeWorker):
    """Answers at once: the peer takes 6 seconds, ours 2, and a step's products 0.05."""

    num_tokens = None

    def measure(self):
        if self.configuration["part"] == "floor":
            return {"step_seconds": 0.05, "peak_mb": 1.0}
        seconds = 6.0 if self.module == measure.PEER else 2.0
        num_tokens = self.num_tokens or self.configuration["num_tokens"]
        return {
            "decode_seconds": seconds, "encode_seconds": 1.0, "num_tokens": num_tokens, "peak_mb": 7.0,
        }  # fmt: skip


def test_every_size_and_dtype_is_in_the_report_with_hardware_versions_and_command(
    monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(measure, "Worker", DecodeWorker)
    monkeypatch.setattr(benchmark, "python_with", lambda *modules, given: given)
    monkeypatch.setattr(sys, "argv", ["captioner", "benchmark", "decode", "--model", "tiny"])
    command = BenchmarkDecodeCommand(
        model="tiny", output=str(tmp_path / "decode.md"), peer_python="another python", repetitions=2
    )
    assert benchmark_decode(command) == 0
    text = (tmp_path / "decode.md").read_text()
    report = json.loads((tmp_path / "decode.json").read_text())
    assert capsys.readouterr().out == text
    assert [(row["batch_size"], row["num_beams"]) for row in report["table"]] == [
        (1, 1), (1, 5), (4, 1), (4, 5), (16, 1), (16, 5),
    ]  # fmt: skip
    assert all(set(row["ours"]) == {"float32", "bfloat16"} for row in report["table"])
    # 16 captions in 2 + 1 seconds, beside 6 + 1; a step of 2 / 20 seconds, beside 0.05 and 6 / 20.
    assert "| 16 | 5 | bfloat16 | 5.33 | 8.00 | 67% | 7 | 2.29 | 7 | 2.3 |" in text
    assert "| 16 | 5 | float32 | 100.0 | 50.0 | TensorFlow | 50% | 300.0 | 3.0 |" in text
    assert "captioner benchmark decode --model tiny" in text
    assert report["versions"].keys() == {"python", "ours", "peer"}
    assert report["hardware"]["num_cores"] >= 1
    grown = [(row["num_beams"], row["num_tokens"], row["num_image_tokens"]) for row in report["growth"]]
    assert grown == [(5, 20, 5), (10, 20, 5), (20, 20, 5), (5, 40, 5), (5, 80, 5), (5, 20, 10), (5, 20, 20)]


def test_without_a_peer_the_table_says_so(monkeypatch, capsys):
    monkeypatch.setattr(measure, "Worker", DecodeWorker)
    monkeypatch.setattr(benchmark, "python_with", lambda *modules, given: None)
    assert benchmark_decode(BenchmarkDecodeCommand(model="tiny", quick=True)) == 0
    assert "| 1 | 5 | float32 | 0.33 | 0.50 | 67% | 7 | - | - | - |" in capsys.readouterr().out


def test_a_folder_of_photos_is_measured_when_it_is_given(monkeypatch, tmp_path, capsys):
    photos = {"batch_size": 16, "preset": "bundled", "folder": {}, "first_captions": {}}
    photos["idle_rows"] = {"idle_share": 0.5, "whole_idle_share": 0.75, "num_photos": 4}
    asked = []
    monkeypatch.setattr(measure, "Worker", DecodeWorker)
    monkeypatch.setattr(benchmark, "measure_photos", lambda common, **others: asked.append(common) or photos)
    with pytest.raises(UsageError, match="holds no file"):
        benchmark_decode(BenchmarkDecodeCommand(model="tiny", quick=True, photos=str(tmp_path)))
    (tmp_path / "photo.jpg").touch()
    benchmark_decode(BenchmarkDecodeCommand(model="tiny", quick=True, photos=str(tmp_path)))
    assert f"The preset {DEFAULT_PRESET} in batches of 16" in capsys.readouterr().out
    assert [(common["photos"], common["num_photos"]) for common in asked] == [(str(tmp_path), 32)]
    assert [common["preset"] for common in asked] == [str(bundled_preset(DEFAULT_PRESET))]


def test_another_preset_is_measured_on_the_photos_from_any_folder(monkeypatch, tmp_path, capsys):
    photos = {"batch_size": 16, "folder": {}, "first_captions": {}}
    photos["idle_rows"] = {"idle_share": 0.5, "whole_idle_share": 0.75, "num_photos": 4}
    asked = []
    monkeypatch.setattr(measure, "Worker", DecodeWorker)
    monkeypatch.setattr(benchmark, "measure_photos", lambda common, **others: asked.append(common) or photos)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.jpg").touch()
    mine = {"model": "tiny", "quick": True, "photos": ".", "preset": "runs/mine"}
    with pytest.raises(FileNotFoundError, match="'runs/mine' is neither a folder nor a bundled preset"):
        benchmark_decode(BenchmarkDecodeCommand(**mine))
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "config.json").touch()
    benchmark_decode(BenchmarkDecodeCommand(**mine))
    assert "The preset runs/mine in batches of 16" in capsys.readouterr().out
    assert asked[0]["preset"] == str(tmp_path / "runs" / "mine")
    with pytest.raises(ValueError, match="`preset` is for --photos, which is not given"):
        BenchmarkDecodeCommand(preset="runs/mine")


def test_captions_of_another_length_are_refused(monkeypatch):
    monkeypatch.setattr(measure, "Worker", DecodeWorker)
    monkeypatch.setattr(DecodeWorker, "num_tokens", 3)
    with pytest.raises(RuntimeError, match=r"must have 20 tokens.*they have 3"):
        benchmark_decode(BenchmarkDecodeCommand(model="tiny"))


@pytest.mark.parametrize("num_beams", [1, 3])
def test_no_token_ends_a_caption(num_beams):
    model = tiny_captioner()
    image_tokens = model.backbone.encode_images(random_images(2).astype("float32"))
    tokens = decode_forced(model.backbone.decoder, image_tokens, num_beams, 6)
    assert np.array(tokens.lengths).tolist() == [[6], [6]]
    # Each of the tokens it chooses would be an end for a captioner, if any were.
    assert np.array(tokens.token_ids).shape == (2, 1, 7)
    assert np.array(tokens.token_log_probs)[:, :, 1:].all()


def test_a_worker_measures_the_forced_length_and_its_own_memory():
    configuration = MODELS["tiny"] | {
        "batch_size": 2, "num_beams": 3, "num_tokens": 4, "num_threads": 1, "dtype": "bfloat16",
        "part": "caption", "with_encoder": True,
    }  # fmt: skip
    with Worker(sys.executable, measure.OURS, configuration) as worker:
        answer = worker.measure()
    assert answer["num_tokens"] == 4
    assert answer["decode_seconds"] > 0
    assert answer["encode_seconds"] > 0
    assert 50 < answer["peak_mb"] < 10_000
    assert set(worker.about["versions"]) == {"tensorflow", "keras"}


def test_a_worker_that_fails_says_why():
    with pytest.raises(ChildProcessError, match=r"ended without an answer: (?s:.*)KeyError: 'num_threads'"):
        Worker(sys.executable, measure.OURS, {"part": "floor"})


def test_the_floor_has_all_the_weights_of_the_decoder_but_those_of_the_images():
    decoder = tiny_captioner(intermediate_dim=None).backbone.decoder
    matrices = sorted(
        tuple(variable.shape)
        for block in decoder.blocks
        for variable in block.trainable_variables
        if "kernel" in variable.path and "cross_attention_key_value" not in variable.path
    )
    width, num_tokens = decoder.hidden_dim, 100
    expected = sorted(weight_shapes(width, decoder.num_layers, num_tokens))
    assert sorted([*matrices, (width, num_tokens)]) == expected


def test_impossible_sizes_and_files_are_refused():
    with pytest.raises(ValueError, match=r"`batch_sizes` must be .* received batch_sizes=\(4, 0\)"):
        BenchmarkDecodeCommand(batch_sizes=(4, 0))
    for name in ("repetitions", "num_photos"):
        with pytest.raises(ValueError, match=f"`{name}` must be at least 1"):
            BenchmarkDecodeCommand(**{name: 0})
    with pytest.raises(UsageError, match=r"must end in \.md"):
        benchmark_decode(BenchmarkDecodeCommand(output="decode.txt"))
