"""Fits and checks the confidence of captions. Axes: N captions, one for each image; F features."""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from captioner.files import atomic_path
from captioner.model.calibration import Calibration

DEFAULT_MIN_CIDER = 0.5
"""About what a caption gets that names the same things as people's captions do, in part with other words."""
MIN_CAPTIONS = 20
NUM_FOLDS = 10
NUM_BINS = 10
_RIDGE = 1e-3  # keeps the fit finite where a feature separates good from bad


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reliability:
    """How far confidence and truth agree on captions that were held out of the fit."""

    confidences: tuple[float, ...]
    """Mean confidence of each bin, in rising order; empty bins are left out."""
    shares: tuple[float, ...]
    """Share of good captions in each bin."""
    counts: tuple[int, ...]
    """Captions in each bin."""

    @property
    def expected_calibration_error(self) -> float:
        """Mean distance between confidence and share of good captions, weighted by the captions of a bin.

        References:
            - [Guo et al., 2017](https://arxiv.org/abs/1706.04599), section 2
        """
        gaps = np.abs(np.subtract(self.confidences, self.shares))
        return float(np.average(gaps, weights=self.counts))


def fit_calibration(
    log_probs: Sequence[float],
    num_tokens: Sequence[int],
    ciders: Sequence[float],
    min_cider: float = DEFAULT_MIN_CIDER,
) -> tuple[Calibration, Reliability]:
    """Fits the confidence of captions to their CIDEr, by logistic regression.

    Args:
        log_probs: N floats. The log-probability of each caption.
        num_tokens: N ints. Its tokens, the end token included.
        ciders: N floats. Its own CIDEr against the references of its image.
        min_cider: float. A caption counts as good from this CIDEr on.

    Returns:
        The calibration, fitted to all captions, and its reliability, measured by tenfold cross-validation: each caption's
        confidence there comes from a fit to the other nine tenths.

    Raises:
        ValueError: If there are fewer than 20 captions, or all of them are good, or none is.
    """
    num_tokens = np.asarray(num_tokens, dtype="float64")
    features = np.stack([np.ones_like(num_tokens), np.asarray(log_probs) / num_tokens, num_tokens], axis=1)
    good = (np.asarray(ciders) >= min_cider).astype("float64")
    if len(good) < MIN_CAPTIONS or not 0 < good.sum() < len(good):
        raise ValueError(
            f"Calibration needs at least {MIN_CAPTIONS} captions, good ones and others; received {len(good)}, of which "
            f"{int(good.sum())} have a CIDEr of {min_cider} or more. Give more images, or another `min_cider`."
        )
    folds = np.random.default_rng(0).permutation(len(good)) % NUM_FOLDS
    held_out = np.zeros(len(good))
    for fold in range(NUM_FOLDS):
        weights = _logistic_regression(features[folds != fold], good[folds != fold])
        held_out[folds == fold] = _sigmoid(features[folds == fold] @ weights)
    bias, mean_log_prob_weight, num_tokens_weight = _logistic_regression(features, good).tolist()
    calibration = Calibration(
        min_cider=float(min_cider),
        bias=bias,
        mean_log_prob_weight=mean_log_prob_weight,
        num_tokens_weight=num_tokens_weight,
    )
    return calibration, reliability(held_out, good)


def reliability(confidences: np.ndarray, good: np.ndarray) -> Reliability:
    """Groups captions into ten bins of confidence.

    Args:
        confidences: float array `(N,)` in 0..1.
        good: array `(N,)` of 0 and 1.
    """
    bins = np.minimum((confidences * NUM_BINS).astype(int), NUM_BINS - 1)
    filled = sorted(set(bins.tolist()))
    return Reliability(
        confidences=tuple(float(confidences[bins == number].mean()) for number in filled),
        shares=tuple(float(good[bins == number].mean()) for number in filled),
        counts=tuple(int((bins == number).sum()) for number in filled),
    )


def plot_reliability(measured: Reliability, min_cider: float, path: str | os.PathLike) -> None:
    """Draws the share of good captions over the confidence, and how many captions each point stands for, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="grey", linestyle="--", label="perfectly calibrated")
    axes.plot(measured.confidences, measured.shares, marker="o", label="held-out captions")
    for x, y, count in zip(measured.confidences, measured.shares, measured.counts, strict=True):
        axes.annotate(str(count), (x, y), xytext=(4, -12), textcoords="offset points", fontsize=8)
    axes.set(
        xlim=(0, 1),
        ylim=(0, 1),
        xlabel="confidence",
        ylabel=f"share of captions with a CIDEr of {min_cider:g} or more",
        title=f"expected calibration error {measured.expected_calibration_error:.3f}",
    )
    axes.legend(loc="upper left")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=90)


def _logistic_regression(features: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Weights `(F,)` of the largest likelihood, by Newton's method on standardised features."""
    means, deviations = features.mean(axis=0), features.std(axis=0)
    means[0], deviations[0] = 0.0, 1.0  # the constant
    deviations = np.where(deviations > 0, deviations, 1.0)
    scaled = (features - means) / deviations
    weights, ridge = np.zeros(features.shape[1]), _RIDGE * np.eye(features.shape[1])
    for _ in range(100):
        probabilities = _sigmoid(scaled @ weights)
        curvature = (scaled * (probabilities * (1 - probabilities))[:, None]).T @ scaled + ridge
        step = np.linalg.solve(curvature, scaled.T @ (probabilities - targets) + ridge @ weights)
        weights = weights - step
        if np.abs(step).max() < 1e-9:
            break
    unscaled = weights / deviations
    unscaled[0] -= (unscaled[1:] * means[1:]).sum()
    return unscaled


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))
