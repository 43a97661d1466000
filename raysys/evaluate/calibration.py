"""Whether a probability of 0.8 is right eight times of ten, and what mends it: a temperature of all samples (Guo et al. 2017), and a line
through the odds of picks (Platt 1999)."""

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from scipy.optimize import minimize_scalar
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from torch import Tensor

TEMPERATURES = np.geomspace(0.1, 10, 49)
"""At which the loss is known; the best lies on a spline through them."""
NUM_BINS = 15
LEAST_PICKS = 20
"""From which the spread of times is measured."""
NAN = float("nan")
_LEAST, _SURE = 1e-12, 1e-6


def soft_label_losses(probability: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Returns the negative log likelihood of soft labels in each window at every one of `TEMPERATURES`, (B, 49) float64.

    Args:
        probability: (B, 3, T) of P, S and noise.
        target: (B, 3, T) soft labels.
        weight: (B, T) of each sample, 0 where the label is unknown.
    """
    logs = probability.clamp_min(_LEAST).log()
    losses = []
    for temperature in TEMPERATURES.tolist():
        cooled = (logs / temperature).log_softmax(dim=1)
        losses.append(-((cooled * target).sum(dim=1) * weight).sum(dim=-1, dtype=torch.float64))
    return torch.stack(losses, dim=1)


def best_temperature(losses: np.ndarray) -> float:
    """Returns the temperature with the lowest sum of the losses (windows, 49); NaN without windows."""
    total = losses.sum(axis=0)
    if not len(losses) or not np.isfinite(total).all():
        return NAN
    place = np.log(TEMPERATURES)
    spline, at = CubicSpline(place, total), int(total.argmin())
    bounds = place[max(0, at - 1)], place[min(len(place) - 1, at + 1)]
    return float(np.exp(minimize_scalar(spline, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x))


def cooled(probability: np.ndarray, temperature: float) -> np.ndarray:
    """Returns probabilities (n, 3) with their logarithms divided by a temperature."""
    logs = np.log(np.clip(probability, _LEAST, None)) / temperature
    powers = np.exp(logs - logs.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def fit_probability(probability: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    """Returns slope and offset that make, out of the logarithms of the odds of picks, those of being right (Platt 1999).

    NaN where fewer than `LEAST_PICKS` are right, or none is wrong.

    Args:
        probability: (n,) of picks.
        right: (n,) bool.
    """
    if right.sum() < LEAST_PICKS or right.all():
        return NAN, NAN
    fit = LogisticRegression(C=np.inf).fit(log_odds(probability)[:, None], right)
    return float(fit.coef_[0, 0]), float(fit.intercept_[0])


def calibrated(probability: np.ndarray, slope: float, offset: float) -> np.ndarray:
    """Returns probabilities (n,) of being right, by what `fit_probability` has found."""
    return expit(slope * log_odds(probability) + offset)


def log_odds(probability: np.ndarray) -> np.ndarray:
    """Returns log(p / (1 - p)), finite at 0 and 1 too."""
    p = np.clip(np.asarray(probability, np.float64), _SURE, 1 - _SURE)
    return np.log(p / (1 - p))


def spread_of_times(late_s: np.ndarray, width_s: np.ndarray) -> float:
    """Returns the number that makes one standard deviation of the error in time out of the width of a peak: 68 % of errors are smaller.

    NaN with fewer than `LEAST_PICKS`.

    Args:
        late_s: (n,) seconds between picks and their onsets.
        width_s: (n,) widths of their peaks (`raysys.evaluate.tolerance.peak_widths_s`).
    """
    known = np.isfinite(late_s) & (width_s > 0)
    return float(np.quantile(np.abs(late_s[known]) / width_s[known], 0.6827)) if known.sum() >= LEAST_PICKS else NAN


def reliability(probability: np.ndarray, right: np.ndarray) -> dict[str, list]:
    """Returns, of `NUM_BINS` bins of equal width, edges, counts, mean probability and share of those that are right (NaN without any)."""
    edges = np.linspace(0, 1, NUM_BINS + 1)
    which = np.clip(np.digitize(probability, edges[1:-1], right=True), 0, NUM_BINS - 1)
    count = np.bincount(which, minlength=NUM_BINS)
    with np.errstate(invalid="ignore"):
        mean, share = (np.bincount(which, x, minlength=NUM_BINS) / count for x in (probability, right.astype(float)))
    return {
        "edges": edges.tolist(),
        "counts": count.tolist(),
        "confidence": mean.tolist(),
        "accuracy": share.tolist(),
    }


def calibration_error(table: dict[str, list]) -> float:
    """Returns the expected calibration error of a reliability table; NaN without any pick."""
    count = np.array(table["counts"])
    gap = np.abs(np.array(table["confidence"]) - np.array(table["accuracy"]))
    return float(np.nansum(gap * count) / count.sum()) if count.sum() else NAN
