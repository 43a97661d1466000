"""Picks of probability curves, and which of them are right. Shapes: B windows, C curves, T samples, K onsets."""

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from raysys.config import ProbeConfig
from raysys.data.fixed_windows import FixedWindows
from raysys.data.windows import RATE_HZ
from raysys.evaluate.dev_scores import TOLERANCES_S
from raysys.evaluate.probe import IGNORED, frame_labels

FLOOR = 0.05
"""Probability below which nothing is a pick, whatever the threshold."""
APART = RATE_HZ // 2
"""A pick is the highest within so many samples on either side."""
STEP = RATE_HZ // 10
"""Samples of which one is asked whether its label is known."""
_SURE_S = 1.0
"""A pick this near to an onset of its own wave counts, right or wrong."""


@dataclass(frozen=True, slots=True)
class Picks:
    """m picks of n windows.

    Attributes:
        window: (m,) number of the window.
        wave: (m,) 0 for P, 1 for S.
        sample: (m,) in the window.
        probability: (m, 3) of P, S and noise at that sample.
        known: (m,) False where an onset nobody picked may lie, so that a pick there is neither right nor wrong.
        right: (m, tolerances) matched with an onset of its wave, one to one, within each of `TOLERANCES_S`.
        residual_s: (m,) pick minus onset of those that are right within the largest tolerance, else NaN.
    """

    window: np.ndarray
    wave: np.ndarray
    sample: np.ndarray
    probability: np.ndarray
    known: np.ndarray
    right: np.ndarray
    residual_s: np.ndarray

    def __len__(self) -> int:
        return len(self.window)

    @property
    def peak(self) -> np.ndarray:
        """(m,) the probability of the pick's own wave."""
        return self.probability[np.arange(len(self)), self.wave]

    @classmethod
    def joined(cls, parts: list[tuple[Self, int]]) -> Self:
        """Returns the picks of several sets of windows, each given with how many windows it has."""
        first = np.cumsum([0, *(count for _, count in parts)])
        columns = {f.name: [getattr(part, f.name) for part, _ in parts] for f in fields(cls)}
        columns["window"] = [window + k for window, k in zip(columns["window"], first[:-1], strict=True)]
        return cls(**{name: np.concatenate(column) for name, column in columns.items()})


def judged_picks(windows: FixedWindows, probability: Tensor) -> Picks:
    """Returns the picks of windows, each compared with the onsets.

    Args:
        windows: n of them.
        probability: (n, 3, T) of P, S and noise, on any device.
    """
    window, wave, sample = peaks(probability[:, :2], torch.tensor(windows.num_valid, device=probability.device))
    at = probability[window, :, sample].float().cpu().numpy()
    window, wave, sample = (x.cpu().numpy() for x in (window, wave, sample))
    onsets = windows.onsets()[:2]
    peak = at[np.arange(len(wave)), wave]
    right, residual = np.zeros((len(wave), len(TOLERANCES_S)), bool), np.full(len(wave), np.nan)
    known = _known(windows, window, sample)
    for k in range(2):
        mine = np.flatnonzero(wave == k)
        for t, tolerance in enumerate(TOLERANCES_S):
            apart = match(window[mine], sample[mine], peak[mine], onsets[k], tolerance * RATE_HZ)
            right[mine, t] = ~np.isnan(apart)
            residual[mine] = apart / RATE_HZ  # the last tolerance is the largest
        if len(mine):
            distance = np.abs(onsets[k][window[mine]] - sample[mine, None])
            known[mine] |= (distance <= _SURE_S * RATE_HZ).any(axis=1)
    return Picks(window, wave, sample, at, known, right, residual)


def peaks(curves: Tensor, num_valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns window, curve and sample of the highest values within `APART` samples, at least `FLOOR`; the first of equal ones.

    A threshold above the floor leaves of them what it would find itself.

    Args:
        curves: (B, C, T).
        num_valid: (B,) samples before the padding, where nothing is picked.
    """
    inside = torch.arange(curves.shape[-1], device=curves.device) < num_valid[:, None, None]
    curves = torch.where(inside, curves, -1.0)
    around = F.max_pool1d(curves, 2 * APART + 1, stride=1, padding=APART)
    window, curve, sample = ((curves == around) & (curves >= FLOOR)).nonzero(as_tuple=True)
    again = (window[1:] == window[:-1]) & (curve[1:] == curve[:-1]) & (sample[1:] - sample[:-1] <= APART)
    first = torch.cat([torch.ones_like(again[:1]), ~again]) if len(again) else torch.ones_like(window, dtype=torch.bool)
    return window[first], curve[first], sample[first]


def match(window: np.ndarray, sample: np.ndarray, peak: np.ndarray, onset: np.ndarray, tolerance: float) -> np.ndarray:
    """Returns pick minus onset in samples, (m,), NaN for a pick without an onset.

    Picks choose in the order of their probability, each the nearest onset within the tolerance that is still free. So the
    picks above a threshold are matched in the same way without those below it.

    Args:
        window: of each of m picks.
        sample: of each pick.
        peak: its probability.
        onset: (n, K) in samples, NaN for none.
        tolerance: in samples.
    """
    out, free = np.full(len(window), np.nan), onset.copy()
    order = np.lexsort((sample, -peak, window))
    first = np.searchsorted(window[order], window[order])
    rank = np.arange(len(order)) - first
    for k in range(int(rank.max(initial=-1)) + 1):
        turn = order[rank == k]
        distance = np.abs(free[window[turn]] - sample[turn, None])
        distance = np.where(np.isnan(distance), np.inf, distance)
        nearest = distance.argmin(axis=1) if onset.shape[1] else np.zeros(len(turn), int)
        found = (distance <= tolerance).any(axis=1)
        turn, nearest = turn[found], nearest[found]
        out[turn] = sample[turn] - onset[window[turn], nearest]
        free[window[turn], nearest] = np.nan
    return out


def known_frames(windows: FixedWindows) -> np.ndarray:
    """Returns at every `STEP`th sample whether the label is known, (n, frames) bool: the rule of `frame_labels`."""
    center = np.arange(STEP // 2, windows.waveform.shape[-1], STEP)
    return frame_labels(windows, center, ProbeConfig(before_s=TOLERANCES_S[-1], after_s=TOLERANCES_S[-1])) != IGNORED


def _known(windows: FixedWindows, window: np.ndarray, sample: np.ndarray) -> np.ndarray:
    frames = known_frames(windows)
    return frames[window, np.minimum(sample // STEP, frames.shape[1] - 1)] if len(window) else np.zeros(0, bool)
