"""`captioner caption` with a captioner that says how bright an image is."""

import io
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from tiny_captioner import tiny_captioner

from captioner.resources import DEFAULT_PRESET
from captioner.sampling import DecodingSettings
from tools import read_ahead
from tools.caption import CaptionCommand, caption, resized
from tools.decoding_flags import DecodingFlags
from tools.errors import UsageError
from tools.inputs import ImageInput


class BrightnessCaptioner:
    """Captions an image with its mean value; remembers what it was asked."""

    def __init__(self, calibration=None):
        self.calibration = calibration
        self.calls = []
        self.presets = []

    def load(self, preset):
        self.presets.append(preset)
        return self

    def caption(self, images, sampler, num_captions, batch_size):
        self.calls.append((len(images), sampler, num_captions))
        return [
            [
                SimpleNamespace(
                    text=f"brightness {image.mean():.0f}",
                    log_prob=-2.0 * rank,
                    score=-0.5 * rank,
                    confidence=self.calibration and float(image.mean()) / 40 / rank,
                )
                for rank in range(1, num_captions + 1)
            ]
            for image in images
        ]


@pytest.fixture
def model():
    return BrightnessCaptioner()


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Five photos of brightness 0, 10 ... 40, the third one broken."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(5):
        Image.fromarray(np.full((3, 4, 3), 10 * number, "uint8")).save(folder / f"{number}.png")
    (folder / "2.png").write_bytes(b"no image")
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_caption_and_its_score_are_printed(photos, model, capsys):
    assert caption(CaptionCommand(inputs=("photos/3.png",)), model.load) == 0
    assert capsys.readouterr().out == "photos/3.png: brightness 30 (score -0.50)\n"
    assert model.presets == [DEFAULT_PRESET]


def test_several_captions_are_printed_in_order(photos, model, capsys):
    assert caption(CaptionCommand(inputs=("photos/3.png",), num_captions=2), model.load) == 0
    assert capsys.readouterr().out.splitlines() == [
        "photos/3.png:",
        "  1. brightness 30 (score -0.50)",
        "  2. brightness 30 (score -1.00)",
    ]


def test_a_bad_image_is_named_and_the_others_are_captioned(photos, model, capsys):
    assert caption(CaptionCommand(inputs=("photos", "gone.jpg"), batch_size=2), model.load) == 1
    out, err = capsys.readouterr()
    assert [line.split(" (")[0] for line in out.splitlines()] == [
        f"photos/{number}.png: brightness {10 * number}" for number in (0, 1, 3, 4)
    ]
    assert "gone.jpg: no such file" in err and "photos/2.png: not a readable" in err
    assert "2 images could not be captioned" in err
    assert [size for size, *_ in model.calls] == [2, 1, 1]


def test_names_that_no_table_or_file_can_have_cost_no_other_image(photos, model, capsys):
    Path("photos/a\nb.png").write_bytes(Path("photos/0.png").read_bytes())
    Path("list.txt").write_text("photos/1.png\n" + "x" * 5000 + "\nphotos/nul\0.png\nphotos/3.png\n")
    inputs = ("photos/a\nb.png", "list.txt")
    assert caption(CaptionCommand(inputs=inputs, output="out.csv"), model.load) == 1
    assert Path("out.csv").read_text().count("brightness") == 2
    err = capsys.readouterr().err
    assert "the line break in its name; choose a .jsonl --output; skipped" in err
    assert err.count("no such file") == 2 and "3 images could not be captioned" in err


def test_the_model_is_not_loaded_when_nothing_can_be_read(photos, model, capsys):
    assert caption(CaptionCommand(inputs=("gone.jpg",)), model.load) == 1
    assert model.presets == []


def test_an_interrupted_file_is_finished_without_repeats(photos, model, capsys):
    output = "out.jsonl"
    assert caption(CaptionCommand(inputs=("photos/0.png", "photos/1.png"), output=output), model.load) == 0
    assert caption(CaptionCommand(inputs=("photos",), output=output), model.load) == 1
    with open(output, encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    assert [row["image"] for row in rows] == [f"photos/{number}.png" for number in (0, 1, 3, 4)]
    assert [size for size, *_ in model.calls] == [2, 2]
    assert "2 of 5 images are in out.jsonl already" in capsys.readouterr().err


def test_the_model_is_not_loaded_when_the_file_has_every_image(photos, model):
    command = CaptionCommand(inputs=("photos/0.png",), output="out.csv")
    assert [caption(command, model.load), caption(command, model.load)] == [0, 0]
    assert len(model.presets) == 1


def test_what_was_captioned_before_ctrl_c_is_in_the_file(photos, model):
    answer = model.caption

    def interrupted(images, **kwargs):
        if model.calls:
            raise KeyboardInterrupt
        return answer(images, **kwargs)

    model.caption = interrupted
    with pytest.raises(KeyboardInterrupt):
        caption(CaptionCommand(inputs=("photos",), output="out.jsonl", batch_size=2), model.load)
    with open("out.jsonl", encoding="utf-8") as lines:
        assert [json.loads(line)["image"] for line in lines] == ["photos/0.png", "photos/1.png"]


def test_paths_come_from_standard_input(photos, model, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("photos/4.png\nphotos/0.png\n"))
    assert caption(CaptionCommand(inputs=("-",)), model.load) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == [
        "photos/4.png",
        "photos/0.png",
    ]


def test_no_more_is_decoded_while_large_photos_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(read_ahead, "MAX_BATCH_PIXELS", 20)
    decoded = []
    monkeypatch.setattr(
        read_ahead, "read_image", lambda path: decoded.append(path) or np.zeros((3, 4, 3), "uint8")
    )
    images = [ImageInput(str(number), tmp_path / str(number)) for number in range(30)]
    with read_ahead.reading_ahead(images, ahead=16) as reading:
        time.sleep(0.3)
        # Two have 24 pixels; each thread may have begun another before.
        assert 2 <= len(decoded) <= 2 + read_ahead.NUM_READERS
        assert [image.name for image, _ in reading] == [image.name for image in images]
    assert len(decoded) == 30
    with read_ahead.reading_ahead(images, ahead=16):  # threads that wait end with the block
        time.sleep(0.1)


def test_a_batch_of_large_photos_ends_early(photos, model, monkeypatch):
    monkeypatch.setattr("tools.read_ahead.MAX_BATCH_PIXELS", 20)  # each photo has 12
    caption(CaptionCommand(inputs=("photos/0.png", "photos/1.png", "photos/3.png")), model.load)
    assert [size for size, *_ in model.calls] == [2, 1]


def test_nothing_to_caption_is_a_usage_error(model):
    with pytest.raises(UsageError, match=r"captioner caption photo\.jpg"):
        caption(CaptionCommand(inputs=()), model.load)


@pytest.mark.parametrize("name", ["num_captions", "batch_size"])
def test_counts_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}=0"):
        CaptionCommand(inputs=("a.jpg",), **{name: 0})


def test_captions_below_the_confidence_are_left_out_and_counted(photos, capsys):
    model = BrightnessCaptioner(calibration=True)
    command = CaptionCommand(
        inputs=("photos/0.png", "photos/1.png", "photos/3.png", "photos/4.png"),
        num_captions=2,
        min_confidence=0.5,
        output="out.jsonl",
    )
    assert caption(command, model.load) == 0
    with open("out.jsonl", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    assert [(row["image"], row["rank"], row["confidence"]) for row in rows] == [
        ("photos/3.png", 1, 0.75),
        ("photos/4.png", 1, 1.0),
        ("photos/4.png", 2, 0.5),
    ]
    assert "5 captions left out, their confidence is below 0.5" in capsys.readouterr().err


def test_the_confidence_is_printed_and_an_image_without_a_caption_is_not(photos, capsys):
    model = BrightnessCaptioner(calibration=True)
    assert (
        caption(CaptionCommand(inputs=("photos/0.png", "photos/3.png"), min_confidence=0.4), model.load) == 0
    )
    assert capsys.readouterr().out == "photos/3.png: brightness 30 (score -0.50, confidence 0.75)\n"


def test_a_confidence_that_the_preset_does_not_give_is_refused_with_the_way_out(photos, model):
    command = CaptionCommand(inputs=("photos/0.png",), min_confidence=0.4, preset="mine")
    with pytest.raises(UsageError, match=r"captioner evaluate .* --preset mine --calibrate"):
        caption(command, model.load)


def test_consensus_draws_captions_and_takes_the_one_that_agrees_most(photos, model, capsys):
    texts = ["a red bike", "a dog runs", "a dog runs fast", "the dog runs"]
    model.caption = lambda images, sampler, num_captions, batch_size: [
        [
            SimpleNamespace(text=text, log_prob=-1.0, score=-1.0, confidence=None)
            for text in texts[:num_captions]
        ]
        for _ in images
        if sampler == DecodingSettings(sampler="nucleus", temperature=0.5, seed=3)
    ]
    command = CaptionCommand(
        inputs=("photos/0.png",), consensus=4, num_captions=2, decoding=DecodingFlags(seed=3)
    )
    assert caption(command, model.load) == 0
    assert [line.strip() for line in capsys.readouterr().out.splitlines()[1:]] == [
        "1. a dog runs (score -1.00)",
        "2. a dog runs fast (score -1.00)",
    ]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"consensus": 1}, "--consensus must be at least 2"),
        ({"consensus": 3, "num_captions": 4}, "--consensus must be at least 2 and --num-captions 4"),
        (
            {"consensus": 5, "decoding": DecodingFlags(sampler="beam")},
            "--consensus draws captions with --sampler nucleus",
        ),
        ({"consensus": 5, "decoding": DecodingFlags(num_beams=3)}, "--num-beams belongs to --sampler beam"),
        ({"min_confidence": 1.5}, "--min-confidence must be from 0 to 1"),
    ],
)
def test_impossible_choices_of_captions_are_a_usage_error(photos, model, flags, says):
    with pytest.raises(UsageError, match=says):
        caption(CaptionCommand(inputs=("photos/0.png",), **flags), model.load)


def test_another_image_size_is_that_of_the_model_that_captions(photos, capsys):
    model = tiny_captioner()
    assert resized(model, None) is model
    assert resized(model, 18).backbone.image_size == (18, 18)
    words = {"inputs": ("photos/3.png",), "decoding": DecodingFlags(max_length=3), "image_size_px": 18}
    assert caption(CaptionCommand(**words), lambda preset: model) == 0
    assert capsys.readouterr().out.startswith("photos/3.png: ")


def test_the_presets_own_decoding_settings_hold_where_no_flag_says_otherwise(photos, model):
    own = {"num_beams": 4, "length_penalty": 1.0, "max_length": 15}
    model.preprocessor = SimpleNamespace(decoding=own)
    flags = ({}, {"max_length": 9}, {"sampler": "greedy"})
    for given in flags:
        caption(CaptionCommand(inputs=("photos/3.png",), decoding=DecodingFlags(**given)), model.load)
    caption(CaptionCommand(inputs=("photos/3.png",), num_captions=5), model.load)
    assert [sampler for _, sampler, _ in model.calls] == [
        DecodingSettings(**own),
        DecodingSettings(**own | {"max_length": 9}),
        DecodingSettings(sampler="greedy"),
        DecodingSettings(**own | {"num_beams": 5}),
    ]
