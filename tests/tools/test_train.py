"""`captioner train csv`: what a user types, sees and interrupts."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools.commands import COMMANDS
from tools.main import load, main, parse
from trainers import csv_trainer
from trainers.csv_settings import CsvTrainSettings

COMMAND = next(command for command in COMMANDS if command.words == ("train", "csv"))
NEEDED = ("--csv", "table.csv", "--run-dir", "run")


def parsed(*words) -> CsvTrainSettings:
    return parse(COMMAND, load(COMMAND)[0], [*NEEDED, *words])


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with photos, their table and a tiny preset to fine-tune."""
    import keras

    from captioner.model import CaptionerBackbone, ImageCaptioner, ImageCaptionerPreprocessor
    from captioner.text import train_tokenizer

    folder = tmp_path_factory.mktemp("workplace")
    images = keras.Input((9, 15, 3))
    tokenizer = train_tokenizer(["a dog runs"] * 2, 262)
    backbone = CaptionerBackbone(
        keras.Model(images, keras.layers.Conv2D(5, 3, strides=3)(images)),
        image_size=(9, 15),
        vocabulary_size=tokenizer.vocabulary_size() - tokenizer.num_special_tokens,
        num_special_tokens=tokenizer.num_special_tokens,
        hidden_dim=6,
        num_heads=2,
        num_image_layers=0,
        num_layers=1,
        max_sequence_length=11,
    )
    preprocessor = ImageCaptionerPreprocessor(tokenizer, (9, 15), sequence_length=9)
    ImageCaptioner(backbone, preprocessor).save_to_preset(str(folder / "tiny"))
    rows = ["image,caption"]
    for index in range(4):
        pixels = np.random.default_rng(index).integers(0, 256, (9, 15, 3), dtype="uint8")
        Image.fromarray(pixels).save(folder / f"{index}.png")
        rows.append(f"{index}.png,a dog runs")
    (folder / "table.csv").write_text("\n".join(rows) + "\n")
    return folder


def command(folder: Path, run_dir: str, *words) -> list[str]:
    sizes = ("--batch-size", "2", "--max-length", "9", "--validation-split", "0.5", "--validation-beams", "1")
    paths = ("--csv", str(folder / "table.csv"), "--preset", str(folder / "tiny"))
    return [
        *COMMAND.words,
        *paths,
        *sizes,
        "--cache-dir",
        str(folder / "cache"),
        "--run-dir",
        run_dir,
        *words,
    ]


def start(words, folder) -> subprocess.Popen:
    environment = {k: v for k, v in os.environ.items() if k not in ("TF_CPP_MIN_LOG_LEVEL", "PYTHONWARNINGS")}
    code = "import sys; from tools.main import main; sys.exit(main())"
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, "-c", code, *words], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_a_run_says_what_it_trains_where_the_preset_is_and_how_to_use_it_and_nothing_else(workplace):
    process = start(command(workplace, "runs/my run", "--epochs", "2"), workplace)
    out, err = process.communicate()
    assert process.returncode == 0, err
    best, preset, use = out.splitlines()
    assert best.startswith("Best epoch: ") and "val_cider" in best
    assert preset == f"Preset: {Path('runs/my run/preset')}"
    assert use == "Use it: captioner caption --preset 'runs/my run' photo.jpg"
    lines = [line for line in err.replace("\r", "\n").splitlines() if line.strip()]
    expected = (
        "Checking images", f"{workplace / 'table.csv'}: 4 images with 4 captions", "Training ", "Epoch 1/2", "Epoch 2/2",
        "epoch=1 loss=", "epoch=2 loss=", f"  {workplace}",
    )  # fmt: skip
    assert [line for line in lines if not line.startswith(expected)] == []
    (training,) = [line for line in lines if line.startswith("Training")]
    trained, total = (int(training.split()[i].replace(",", "")) for i in (1, 3))
    assert total - trained == 3 * 3 * 3 * 5 + 5  # the frozen image encoder
    assert training.endswith("parameters on 2 images; the run folder is runs/my run.")
    assert "image/s" in err


@pytest.mark.skipif(os.name == "nt", reason="sends a signal")
def test_ctrl_c_keeps_the_last_checkpoint_says_one_line_and_the_run_goes_on(workplace):
    folder = workplace / "interrupted"
    words = command(workplace, str(folder), "--epochs", "2000", "--num-validation-captions", "1")
    process = start(words, workplace)
    wait_until(lambda: list(folder.glob("checkpoints/step-*.h5")) or process.poll() is not None)
    out, err = interrupt(process)
    assert process.returncode == 130, err
    assert out == "" and "Traceback" not in err
    assert err.splitlines()[-1] == "captioner: stopped by Ctrl-C."
    assert not list(folder.rglob(".*.h5"))
    done = len((folder / "metrics.jsonl").read_text().splitlines())
    process = start([*words, "--resume"], workplace)
    wait_until(
        lambda: len((folder / "metrics.jsonl").read_text().splitlines()) > done or process.poll() is not None
    )
    process.kill()
    _, err = process.communicate()
    assert "Resuming after epoch" in err, err


def interrupt(process, seconds: float = 120) -> tuple[str, str]:
    """Presses Ctrl-C, and again like a person would: Python drops one that meets a finalizer."""
    end = time.monotonic() + seconds
    while True:
        process.send_signal(signal.SIGINT)
        try:
            return process.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            assert time.monotonic() < end, "the run did not stop"


def wait_until(condition, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_flags_become_settings():
    settings = parsed(
        "--train-parts", "image_encoder", "decoder", "--frozen-until", "block_7", "--lowercase", "--cache-features",
        "--min-crop-area", "0.6", "--cache-views", "4", "--dtype", "mixed_bfloat16", "--validation-csv", "dev.tsv",
    )  # fmt: skip
    assert settings.train_parts == ("image_encoder", "decoder") and settings.frozen_until == "block_7"
    assert settings.lowercase is True and settings.cache_features is True and settings.resume is False
    assert (settings.cache_views, settings.augmentation.min_crop_area) == (4, 0.6)
    assert settings.validation_csv == Path("dev.tsv") and settings.dtype == "mixed_bfloat16"


def test_numbers_of_parts_are_written_as_name_and_number(capsys):
    settings = parsed(
        "--train-parts", "image_encoder", "decoder", "--rate-scales", "image_encoder=0.1", "decoder=0.5",
        "--weight-decays", "decoder=0",
    )  # fmt: skip
    assert settings.rate_scales == {"image_encoder": 0.1, "decoder": 0.5}
    assert settings.weight_decays == {"decoder": 0.0} and parsed().rate_scales == {}
    for words in (["image_encoders=0.1"], ["image_encoder"], ["image_encoder=much"]):
        with pytest.raises(SystemExit) as stopped:
            parsed("--train-parts", "image_encoder", "--rate-scales", *words)
        assert stopped.value.code == 2 and words[0].split("=")[0] in capsys.readouterr().err


def test_cross_validation_prints_mean_and_spread_of_each_metric(tmp_path, capsys, monkeypatch):
    losses = (1.0, 2.0, 4.5)
    monkeypatch.setattr(
        csv_trainer,
        "train_csv",
        lambda run: {"epoch": 1, "loss": 9.0, "val_loss": losses[run.fold - 1], "val_cider": 0.25},
    )
    words = ["--csv", "table.csv", "--run-dir", str(tmp_path / "run"), "--folds", "3"]
    assert main([*COMMAND.words, *words]) == 0
    # The mean is 7.5 / 3; the squares of -1.5, -0.5 and 2 add up to 6.5, and the root of 6.5 / 2 is 1.80.
    assert capsys.readouterr().out.splitlines() == [
        "val_loss 2.5 +- 1.8",
        "val_cider 0.25 +- 0",
        f"Runs: {tmp_path / 'run'}, one for each of 3 folds",
    ]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--epochs", "0"), 2, "`epochs` must be at least 1; received epochs=0."),
        (("--train-parts", "decoders"), 2, "decoders"),
        (("--epoch", "3"), 2, "epochs"),
        ((), 1, "table.csv"),
    ],
)
def test_a_call_that_cannot_be_followed_ends_before_anything_is_written(
    words, code, says, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main([*COMMAND.words, *NEEDED, *words]) == code
    assert says in capsys.readouterr().err
    assert "Traceback" not in capsys.readouterr().err


def test_the_flags_of_shards_reach_the_settings():
    (shards,) = [command for command in COMMANDS if command.words == ("train", "webdataset")]
    words = [
        "--shards",
        "cc3m/{00000..00331}.tar",
        "coco",
        "--shard-weights",
        "3",
        "1",
        "--engine",
        "tf",
        "--run-dir",
        "run",
    ]
    settings = parse(
        shards, load(shards)[0], [*words, "--shuffle-buffer", "500", "--validation-csv", "val.json"]
    )
    assert settings.shards == ("cc3m/{00000..00331}.tar", "coco") and settings.shard_weights == (3.0, 1.0)
    assert (settings.engine, settings.shuffle_buffer, settings.max_bad_fraction) == ("tf", 500, 0.1)
    assert settings.validation_csv == Path("val.json")


def test_shards_that_are_not_there_end_in_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "webdataset", "--shards", "gone.tar", "--run-dir", "run"]) == 1
    assert "'gone.tar' is no shard that could be found" in capsys.readouterr().err


def test_folds_under_a_cluster_of_several_processes_are_refused(monkeypatch, tmp_path, capsys):
    cluster = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "node1", "MASTER_PORT": "12345"}
    for name, value in cluster.items():
        monkeypatch.setenv(name, value)
    words = ["--csv", "table.csv", "--run-dir", str(tmp_path / "run"), "--folds", "3"]
    assert main(["train", "csv", *words]) == 1
    assert "`folds` must be trained one by one with several processes" in capsys.readouterr().err
