"""`captioner evaluate` from files to files."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from captioner.evaluation import java
from captioner.model.calibration import Calibration
from tools import evaluate as command_module
from tools.decoding_flags import DecodingFlags
from tools.errors import UsageError
from tools.evaluate import EvaluateCommand, evaluate

CAPTIONS = {"a.png": "a dog runs", "b.png": "two red bikes", "c.png": "a man sleeps"}


@pytest.fixture
def table(tmp_path):
    rows = "".join(f"{name},{text} now\n{name},{text}\n" for name, text in CAPTIONS.items())
    (tmp_path / "dev.csv").write_text(f"file_name,caption\n{rows}")
    for name in CAPTIONS:
        Image.fromarray(np.zeros((4, 6, 3), "uint8")).save(tmp_path / name)
    return tmp_path / "dev.csv"


@pytest.fixture
def without_java(monkeypatch):
    """For tests that are not about METEOR, which takes seconds to start."""
    monkeypatch.setattr(java, "find_java", lambda: None)


def write_results(path, captions):
    path.write_text(json.dumps([{"image_id": name, "caption": text} for name, text in captions.items()]))
    return path


def test_predictions_are_scored_into_a_table_a_json_file_and_a_contact_sheet(table, tmp_path, capsys):
    results = write_results(tmp_path / "results.json", CAPTIONS)
    output, sheet = tmp_path / "out" / "scores.json", tmp_path / "sheet.png"
    assert evaluate(EvaluateCommand(csv=table, predictions=results, output=output, contact_sheet=sheet)) == 0
    content = json.loads(output.read_text())
    assert content["scores"]["BLEU-3"] == pytest.approx(1.0) and content["scores"]["METEOR"] > 0.9
    assert [Path(entry["image"]).name for entry in content["captions"]] == list(CAPTIONS)
    assert content["settings"]["predictions"] == str(results)
    assert Image.open(sheet).width > 700
    assert f"CIDEr    {content['scores']['CIDEr']:.4f}" in capsys.readouterr().out


def test_a_limit_leaves_out_the_predictions_of_the_other_images(table, tmp_path, without_java):
    results = write_results(tmp_path / "results.json", CAPTIONS)
    output = tmp_path / "scores.json"
    assert evaluate(EvaluateCommand(csv=table, predictions=results, limit=2, output=output)) == 0
    assert len(json.loads(output.read_text())["captions"]) == 2


def test_an_image_without_prediction_is_an_error_and_no_file_is_written(table, tmp_path, without_java):
    results = write_results(tmp_path / "results.json", {"a.png": "a dog"})
    with pytest.raises(ValueError, match=r"no prediction for .*b\.png"):
        evaluate(EvaluateCommand(csv=table, predictions=results, output=tmp_path / "scores.json"))
    assert not (tmp_path / "scores.json").exists()


class FakeModel:
    def __init__(self):
        self.calls = []

    def caption(self, images, sampler, batch_size):
        self.calls.append((len(images), sampler))
        best = type("Caption", (), {"text": "a dog runs"})
        return [[best] for _ in images]


def test_a_model_captions_the_images_in_batches_and_a_bad_image_is_named_and_left_out(
    table, tmp_path, monkeypatch, capsys, without_java
):
    (tmp_path / "b.png").write_bytes(b"no photo")
    model = FakeModel()
    monkeypatch.setattr(command_module, "load_captioner", lambda preset, dtype: model)
    command = EvaluateCommand(
        csv=table, decoding=DecodingFlags(num_beams=2), batch_size=2, output=tmp_path / "scores.json"
    )
    assert evaluate(command) == 1
    assert [size for size, _ in model.calls] == [1, 1]
    assert model.calls[0][1].num_beams == 2
    assert "b.png" in capsys.readouterr().err
    content = json.loads((tmp_path / "scores.json").read_text())
    assert [Path(entry["image"]).name for entry in content["captions"]] == ["a.png", "c.png"]
    assert content["settings"]["num_beams"] == 2 and content["settings"]["failed_images"] == 1


def test_the_presets_own_decoding_settings_hold_where_no_flag_says_otherwise(
    table, monkeypatch, without_java
):
    model = FakeModel()
    model.preprocessor = SimpleNamespace(decoding={"num_beams": 4, "length_penalty": 1.0})
    monkeypatch.setattr(command_module, "load_captioner", lambda preset, dtype: model)
    assert evaluate(EvaluateCommand(csv=table, decoding=DecodingFlags(length_penalty=0.0))) == 0
    assert (model.calls[0][1].num_beams, model.calls[0][1].length_penalty) == (4, 0.0)


def test_wrong_usage_says_which_flag(table, tmp_path):
    with pytest.raises(UsageError, match="the table must be a file"):
        evaluate(EvaluateCommand(csv=tmp_path / "absent.csv"))
    with pytest.raises(UsageError, match="`--limit` must be at least 1"):
        EvaluateCommand(csv=table, limit=0)
    with pytest.raises(UsageError, match="`--num-beams` is for a model"):
        EvaluateCommand(csv=table, predictions=table, decoding=DecodingFlags(num_beams=3))


def test_calibration_is_written_into_the_preset_and_the_rest_of_it_stays(
    tmp_path, monkeypatch, capsys, without_java
):
    rows = [f"{number}.png,{text}" for number in range(30) for text in ("a dog runs", f"a red bike {number}")]
    (tmp_path / "dev.csv").write_text("\n".join(["file_name,caption", *rows]) + "\n")
    for number in range(30):
        Image.fromarray(np.full((4, 6, 3), number, "uint8")).save(tmp_path / f"{number}.png")
    preset = tmp_path / "preset"
    preset.mkdir()
    (preset / "config.json").write_text("{}")
    (preset / "task.json").write_text('{"config": {"name": "mine"}}')

    class Model:
        """Right on even images, and surer of those."""

        def caption(self, images, sampler, batch_size):
            numbers = [int(image.mean()) for image in images]
            return [
                [
                    SimpleNamespace(
                        text=f"a red bike {number}" if number % 2 == 0 else "nothing",
                        log_prob=-1.0 - 3 * (number % 2) - number % 7,
                        token_ids=(1, 2, 3),
                    )
                ]
                for number in numbers
            ]

    monkeypatch.setattr(command_module, "load_captioner", lambda preset, dtype: Model())
    plot = tmp_path / "docs" / "plot.png"
    command = EvaluateCommand(
        csv=tmp_path / "dev.csv",
        preset=str(preset),
        calibrate=True,
        calibration_cider=0.7,
        reliability_plot=plot,
    )
    assert evaluate(command) == 0
    config = json.loads((preset / "task.json").read_text())["config"]
    calibration = Calibration(**config["calibration"])
    assert config["name"] == "mine" and calibration.min_cider == 0.7
    assert calibration(-1.0, 3) > 0.8 > 0.2 > calibration(-10.0, 3)
    assert sorted(path.name for path in preset.iterdir()) == ["config.json", "task.json"]
    assert Image.open(plot).width > 100
    said = capsys.readouterr().out
    assert "probability of a CIDEr of 0.7 or more; expected calibration error 0." in said
    assert "on 30 held-out captions" in said


@pytest.mark.parametrize("flag", [{"preset": "mine"}, {"dtype": "bfloat16"}, {"image_size_px": 64}])
def test_flags_of_a_model_do_not_go_with_predictions(table, flag):
    with pytest.raises(UsageError, match=f"`--{next(iter(flag)).replace('_', '-')}` is for a model"):
        EvaluateCommand(csv=table, predictions=Path("results.json"), **flag)


def test_missing_metrics_are_said_before_a_photo_is_captioned(table, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocoevalcap.bleu.bleu", None)
    monkeypatch.setattr(command_module, "load_captioner", lambda *_: pytest.fail("the model was loaded"))
    with pytest.raises(ImportError, match=r"captioner\[eval\]"):
        evaluate(EvaluateCommand(csv=table))


def test_calibration_flags_need_a_model_and_each_other(table):
    with pytest.raises(UsageError, match="`--calibrate` is for a model"):
        EvaluateCommand(csv=table, predictions=table, calibrate=True)
    with pytest.raises(UsageError, match="belong to `--calibrate`"):
        EvaluateCommand(csv=table, calibration_cider=0.3)
