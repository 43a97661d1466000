"""Picks out of probabilities, and which of them lie at an onset."""

import numpy as np
import torch
from torch import Tensor

from raysys.data.windows import RATE_HZ

APART_SAMPLES = 50
"""Two picks of one wave lie further apart; the more probable one stays."""
LEAST_PROBABILITY = 0.05
"""Of a pick: no threshold is lower."""
MOST_PICKS = 16
"""Of one wave in a window."""


def find_peaks(probability: Tensor, num_valid: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the samples (B, K) int64 and values (B, K) of the highest peaks of probabilities (B, T), by falling value.

    K is `MOST_PICKS`; a window with fewer peaks has values of 0 at the end. Of equal samples beside each other the first is one.
    """
    t = torch.arange(probability.shape[-1], device=probability.device)
    inside = torch.where(t < num_valid[:, None], probability, 0)
    size = 2 * APART_SAMPLES + 1
    _, highest = torch.nn.functional.max_pool1d(inside[:, None], size, 1, APART_SAMPLES, return_indices=True)
    peak = torch.where((highest[:, 0] == t) & (inside >= LEAST_PROBABILITY), inside, 0)
    value, sample = peak.topk(min(MOST_PICKS, peak.shape[-1]), dim=-1)
    return sample, value


def peak_widths_s(curves: np.ndarray, peaks: np.ndarray) -> np.ndarray:
    """Returns the standard deviations in seconds (n, K) of curves (n, T) around their peaks (n, K), as if they were densities of onsets.

    `APART_SAMPLES` on each side are looked at. Samples that are NaN have no weight.
    """
    near = np.arange(-APART_SAMPLES, APART_SAMPLES + 1)
    place = peaks[:, :, None] + near
    inside = (place >= 0) & (place < curves.shape[1])
    values = curves[np.arange(len(curves))[:, None, None], np.clip(place, 0, curves.shape[1] - 1)]
    weight = np.where(inside, np.nan_to_num(values), 0).astype(np.float64)
    total = weight.sum(axis=-1)
    return np.sqrt((weight * near**2).sum(axis=-1) / np.where(total > 0, total, np.nan)) / RATE_HZ


def match(sample: np.ndarray, there: np.ndarray, onsets: np.ndarray, tolerance_s: float) -> np.ndarray:
    """Returns how many seconds after its onset each pick lies, (n, K), NaN where it has none.

    The most probable pick takes the nearest onset within the tolerance, then the next one of those that are left. So the
    onset of a pick does not depend on less probable picks, and holds for every threshold.

    Args:
        sample: (n, K) samples of picks by falling probability.
        there: (n, K) bool, which of them are picks.
        onsets: (n, M) samples of onsets, NaN where there is none.
        tolerance_s: largest distance.
    """
    late = np.full(sample.shape, np.nan)
    if not onsets.shape[1]:
        return late
    left, window = np.where(np.isnan(onsets), np.inf, onsets), np.arange(len(sample))
    for k in range(sample.shape[1]):
        distance = np.abs(sample[:, k, None] - left)
        nearest = distance.argmin(axis=1)
        hit = there[:, k] & (distance[window, nearest] <= tolerance_s * RATE_HZ)
        late[hit, k] = (sample[hit, k] - left[window, nearest][hit]) / RATE_HZ
        left[window[hit], nearest[hit]] = np.inf
    return late
