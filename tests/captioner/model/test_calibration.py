"""Confidence goes with the captioner: into captions, and through presets."""

import json
import math

import pytest
from tiny_captioner import random_images, tiny_captioner

from captioner.model import ImageCaptioner
from captioner.model.calibration import Calibration, save_calibration
from captioner.sampling import DecodingSettings

CALIBRATION = Calibration(min_cider=0.5, bias=1.0, mean_log_prob_weight=0.5, num_tokens_weight=-0.25)
IMAGES = random_images(2)
SAMPLER = DecodingSettings(num_beams=2, max_length=6)


def test_confidence_is_the_logistic_curve_of_mean_log_probability_and_length():
    assert CALIBRATION(-8.0, 4) == pytest.approx(1 / (1 + math.exp(-(1.0 + 0.5 * -2.0 - 0.25 * 4))))
    assert CALIBRATION(-4.0, 4) > CALIBRATION(-8.0, 4)


def test_numbers_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="`bias` must be finite; received nan"):
        Calibration(min_cider=0.5, bias=math.nan, mean_log_prob_weight=1.0, num_tokens_weight=0.0)


def test_a_calibration_is_kept_by_presets_and_gives_captions_a_confidence(tmp_path):
    model = tiny_captioner()
    before = model.caption(IMAGES, SAMPLER, 2)
    assert {caption.confidence for captions in before for caption in captions} == {None}
    model.save_to_preset(str(tmp_path / "preset"))
    assert save_calibration(tmp_path / "preset", CALIBRATION) == tmp_path / "preset" / "task.json"
    loaded = ImageCaptioner.from_preset(str(tmp_path / "preset"))
    loaded.save_to_preset(str(tmp_path / "again"))
    assert ImageCaptioner.from_preset(str(tmp_path / "again")).calibration == CALIBRATION
    after = loaded.caption(IMAGES, SAMPLER, 2)
    scored = loaded.score(IMAGES, after)
    for old, new, again in zip(before, after, scored, strict=True):
        for one, two, three in zip(old, new, again, strict=True):
            assert one.token_ids == two.token_ids
            assert two.confidence == pytest.approx(CALIBRATION(two.log_prob, len(two.token_ids)))
            assert three.confidence == pytest.approx(two.confidence, abs=1e-4)


def test_a_prompt_that_is_not_scored_does_not_count_for_the_confidence():
    tiny = tiny_captioner()
    model = ImageCaptioner(tiny.backbone, tiny.preprocessor, CALIBRATION)
    given = len(model.preprocessor.tokenizer.tokenize("a red dog"))
    [[caption]] = model.caption(
        IMAGES[:1], DecodingSettings(num_beams=2, max_length=12, prompt="a red dog", score_prompt=False)
    )
    num_scored = len(caption.token_ids) - given
    assert caption.confidence == pytest.approx(CALIBRATION(caption.log_prob, num_scored))


def test_a_preset_without_its_task_or_on_a_hub_cannot_be_calibrated(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({}))
    with pytest.raises(FileNotFoundError, match=r"has no task\.json"):
        save_calibration(tmp_path, CALIBRATION)
    with pytest.raises(ValueError, match="must be a folder to be written to"):
        save_calibration("hf://someone/model", CALIBRATION)
