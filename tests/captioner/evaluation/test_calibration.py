"""Confidence is fitted to what it shall say, on captions whose truth is known."""

import numpy as np
import pytest
from PIL import Image

from captioner.evaluation.calibration import Reliability, fit_calibration, plot_reliability, reliability


def drawn_captions(count, seed=0):
    """Captions whose probability to be good is a logistic curve: `(log_probs, num_tokens, ciders, probabilities)`."""
    generator = np.random.default_rng(seed)
    num_tokens = generator.integers(4, 20, count)
    mean_log_probs = generator.normal(-1.0, 0.5, count)
    probabilities = 1 / (1 + np.exp(-(4.0 + 3.0 * mean_log_probs - 0.1 * num_tokens)))
    ciders = np.where(generator.random(count) < probabilities, 0.9, 0.1)
    return mean_log_probs * num_tokens, num_tokens, ciders, probabilities


def test_the_curve_that_made_the_captions_is_found():
    log_probs, num_tokens, ciders, probabilities = drawn_captions(20_000)
    calibration, measured = fit_calibration(log_probs, num_tokens, ciders)
    assert calibration.bias == pytest.approx(4.0, abs=0.2)
    assert calibration.mean_log_prob_weight == pytest.approx(3.0, abs=0.15)
    assert calibration.num_tokens_weight == pytest.approx(-0.1, abs=0.02)
    found = [
        calibration(*caption) for caption in zip(log_probs[:500], num_tokens[:500].tolist(), strict=True)
    ]
    np.testing.assert_allclose(found, probabilities[:500], atol=0.03)
    assert measured.expected_calibration_error < 0.02
    assert sum(measured.counts) == 20_000


def test_confidence_without_information_is_the_share_of_good_captions():
    generator = np.random.default_rng(1)
    ciders = (generator.random(2_000) < 0.3).astype(float)
    calibration, _ = fit_calibration(generator.normal(-9, 1, 2_000), np.full(2_000, 9), ciders)
    assert calibration(-9.0, 9) == pytest.approx(ciders.mean(), abs=0.02)


def test_a_feature_that_separates_good_from_bad_gives_finite_weights_and_confidences():
    log_probs = np.linspace(-30, -1, 40)
    calibration, _ = fit_calibration(log_probs, np.full(40, 5), (log_probs > -15).astype(float))
    assert 0.0 < calibration(-100.0, 5) < 0.01 < 0.99 < calibration(-0.1, 5) <= 1.0
    assert 0.0 <= calibration(-1e9, 1) < 1e-9


def test_held_out_captions_are_not_in_the_fit():
    """With few captions and no signal, a confidence fitted on itself would look calibrated by construction."""
    held_out, own = [], []
    for seed in range(20):
        generator = np.random.default_rng(seed)
        log_probs, num_tokens = generator.normal(-9, 3, 40), generator.integers(3, 20, 40)
        ciders = (generator.random(40) < 0.5).astype(float)
        calibration, measured = fit_calibration(log_probs, num_tokens, ciders)
        confidences = [calibration(*caption) for caption in zip(log_probs, num_tokens.tolist(), strict=True)]
        held_out.append(measured.expected_calibration_error)
        own.append(reliability(np.array(confidences), ciders).expected_calibration_error)
    assert np.mean(held_out) > np.mean(own) + 0.03


def test_the_calibration_error_is_that_of_the_formula():
    measured = reliability(np.array([0.05, 0.15, 0.15, 1.0]), np.array([0, 1, 0, 1]))
    assert (measured.counts, measured.shares) == ((1, 2, 1), (0.0, 0.5, 1.0))
    np.testing.assert_allclose(measured.confidences, (0.05, 0.15, 1.0))
    assert measured.expected_calibration_error == pytest.approx((0.05 + 2 * 0.35 + 0.0) / 4)


@pytest.mark.parametrize("ciders", [[0.9] * 30, [0.1] * 30, [0.1, 0.9] * 5])
def test_too_few_captions_or_only_one_kind_are_refused(ciders):
    with pytest.raises(ValueError, match="at least 20 captions, good ones and others; received"):
        fit_calibration([-5.0] * len(ciders), [5] * len(ciders), ciders)


def test_the_plot_is_a_png(tmp_path):
    measured = Reliability(confidences=(0.2, 0.7), shares=(0.3, 0.6), counts=(10, 20))
    plot_reliability(measured, 0.5, tmp_path / "plot.png")
    assert Image.open(tmp_path / "plot.png").format == "PNG"
