"""The training benchmark: its table, its workers, what it does without a peer, and what it refuses."""

import json
import sys

import numpy as np
import pytest
from fake_worker import FakeWorker

from tools import benchmark_train as command_module
from tools.benchmark import MODELS
from tools.benchmark_train import BenchmarkTrainCommand, benchmark_train
from tools.benchmarks import measure_train, train_ours
from tools.benchmarks.measure import PEER
from tools.benchmarks.worker import Worker


class TrainWorker(FakeWorker):
    """Answers at once: a step takes the peer 6 seconds, JAX 3 and others 2, with half the work of the peer."""

    def __init__(self, python, module, configuration):
        super().__init__(python, module, configuration)
        self.is_peer = module == PEER
        self.about = {"versions": {configuration["backend"]: python}}

    def measure(self):
        if self.configuration["part"] == "peak":
            return {"gflops": 50.0 if self.is_peer else 100.0}
        if self.configuration["part"] == "cached":
            return {"captions_per_second": 200.0, "waiting_share": 0.0125}
        seconds = 6.0 if self.is_peer else {"jax": 3.0}.get(self.configuration["backend"], 2.0)
        return {
            "step_seconds": seconds, "processor_seconds": 1.5 * seconds, "first_step_seconds": 30.0,
            "first_step_processor_seconds": 45.0,
            "flops": 2e11 if self.is_peer else 1e11, "peak_mb": 9.0 if self.is_peer else 7.0,
        }  # fmt: skip


def test_every_library_dtype_and_encoder_is_in_the_report_beside_the_peer(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(measure_train, "Worker", TrainWorker)
    monkeypatch.setattr(command_module, "python_with", lambda *modules, given=None: given)
    monkeypatch.setattr(command_module, "can_import", lambda python, *modules: True)
    monkeypatch.setattr(sys, "argv", ["captioner", "benchmark", "train", "--model", "tiny"])
    command = BenchmarkTrainCommand(
        model="tiny", output=str(tmp_path / "train.md"), peer_python="another python", repetitions=2
    )
    assert benchmark_train(command) == 0
    text = (tmp_path / "train.md").read_text()
    report = json.loads((tmp_path / "train.json").read_text())
    assert capsys.readouterr().out == text
    assert len(report["steps"]) == 2 * 2 * 2 * 2 + 2
    # 40 captions in 2 seconds of 6; 1e11 operations in 2 seconds, of 100e9 a second.
    assert (
        "| ViT | 5 | TensorFlow | float32 | - | yes | 20.00 | 2.00 | 3.0 | 50% | 7 | 30 (45) | 6.67 | 9.0 | 9 | 3.0 | 3.0 |"
        in text
    )
    assert (
        "| efficientnet_lite0 | 1 | JAX | bfloat16 | - | yes | 2.67 | 3.00 | 4.5 | 33% | 7 | 30 (45) | "
        "1.33 | 9.0 | 9 | 2.0 | 2.0 |" in text
    )
    assert "| ViT | 1 | the peer | bfloat16 | - | - | 1.33 | 6.00 |" in text
    assert "| float32 | PyTorch | 50 |" in text
    assert "| bfloat16 | 200 | 1.2% |" in text
    assert "captioner benchmark train --model tiny" in text


def test_without_a_peer_the_table_says_so(monkeypatch, capsys):
    monkeypatch.setattr(measure_train, "Worker", TrainWorker)
    monkeypatch.setattr(command_module, "python_with", lambda *modules, given=None: None)
    assert benchmark_train(BenchmarkTrainCommand(model="tiny", quick=True)) == 0
    text = capsys.readouterr().out
    assert (
        "| ViT | 1 | TensorFlow | float32 | - | yes | 4.00 | 2.00 | 3.0 | 50% | 7 | 30 (45) | - | - | - | - | - |"
        in text
    )
    assert "JAX" not in text


def test_what_saves_memory_is_measured_where_it_is_asked_for(monkeypatch, capsys):
    monkeypatch.setattr(measure_train, "Worker", TrainWorker)
    monkeypatch.setattr(command_module, "python_with", lambda *modules, given=None: None)
    sizes = {"captions_per_image": (1,), "dtypes": ("float32",)}
    savings = {"gradient_checkpointing": ("no", "yes"), "clipping": ("yes", "no")}
    command = BenchmarkTrainCommand(model="tiny", quick=True, **savings, **sizes)
    assert benchmark_train(command) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ViT")]
    assert [row.split(" | ")[4:6] for row in rows] == [["-", "yes"], ["-", "-"], ["yes", "yes"], ["yes", "-"]]


def test_a_worker_measures_a_step_of_the_trainers_and_its_own_memory():
    configuration = MODELS["tiny"] | {
        "backend": "tensorflow", "part": "step", "encoder": "vit", "dtype": "bfloat16", "batch_size": 2,
        "num_captions": 3, "num_tokens": 4, "num_threads": 1, "gradient_checkpointing": True, "clipping": False,
    }  # fmt: skip
    with Worker(sys.executable, measure_train.OURS, configuration) as worker:
        answer = worker.measure()
    assert answer["first_step_seconds"] > answer["step_seconds"] > 0
    assert answer["processor_seconds"] > 0
    assert answer["flops"] > 0
    assert 50 < answer["peak_mb"] < 10_000


def test_our_captioner_with_the_vit_has_the_peers_image_tokens_and_all_parts_trained():
    configuration = MODELS["tiny"] | {
        "encoder": "vit",
        "batch_size": 2,
        "num_captions": 3,
        "num_tokens": 4,
    }
    captioner = train_ours.build_captioner(configuration, "float32")
    x, targets, sample_weight = train_ours.random_batch(configuration, captioner.backbone.image_size)
    assert captioner.backbone.encode_images(x["images"]).shape == (2, 5, 8)
    assert captioner(x).shape == (*targets.shape, 50) == (*sample_weight.shape, 50)
    assert {v.path for v in captioner.trainable_variables} == {
        v.path for v in captioner.variables if v.dtype == "float32" and "seed" not in v.path
    }


def test_training_from_cached_features_says_how_long_steps_wait(monkeypatch):
    monkeypatch.setattr(train_ours, "NUM_CACHED_IMAGES", 70)  # three batches of 32, the last one short
    trained = []
    build = train_ours._cached_epochs

    def counted(settings, captioner, split):
        epoch = build(settings, captioner, split)
        batches = [targets.shape for _, targets, _ in epoch()]
        trained.extend(batches)
        return epoch

    monkeypatch.setattr(train_ours, "_cached_epochs", counted)
    answer = train_ours._cached({"dtype": "float32"})()
    assert [tuple(shape) for shape in trained] == [(32, 5, 20), (32, 5, 20), (6, 5, 20)]
    assert answer["captions_per_second"] > 0
    assert 0 < answer["waiting_share"] < 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"libraries": ()}, "`libraries` must name at least one"),
        ({"captions_per_image": (5, 0)}, r"`captions_per_image` must be at least 1; received .*\(5, 0\)"),
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
    ],
)
def test_impossible_sizes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        BenchmarkTrainCommand(**changes)


def test_random_batches_stay_within_the_vocabulary():
    configuration = MODELS["tiny"] | {"batch_size": 40, "num_captions": 3, "num_tokens": 7}
    x, targets, _ = train_ours.random_batch(configuration, (32, 32))
    for token_ids in (x["token_ids"], targets):
        assert np.min(token_ids) == 0 and np.max(token_ids) == 49
