"""What a labelled window teaches, sample by sample. Shapes: B windows, K onsets, T samples, F places."""

from typing import NamedTuple

import torch
from torch import Tensor

GUARD_WIDTHS = 2.5
"""A label counts this many of its standard deviations around an onset, even where what follows is unknown."""
OTHER_PHASE_SAMPLES = 50
"""Samples on each side of an onset of another phase (Pn after Pg, a second event) that have no label."""
CODA = 1.4
"""An event lasts this many S - P times beyond its S (Mousavi et al. 2020)."""
SURE_SAMPLES = 100
"""A lone onset is followed by waves for at least a second."""


class Labels(NamedTuple):
    """What is known of B windows; onsets in samples from the first of the window, those outside of it too."""

    p: Tensor
    """(B, K) onsets of P in rising order, NaN behind them."""
    s: Tensor
    """(B, K') onsets of S."""
    other: Tensor
    """(B, K'') onsets of phases that are neither."""
    noise: Tensor
    """(B,) bool, whether the whole trace is known to be noise."""
    group: Tensor
    """(B,) int64, class of the trace, -1 where it is unknown."""


def may_hide_an_onset(p: Tensor, s: Tensor, at: Tensor) -> Tensor:
    """Returns at which places (B, F) an onset may lie that nobody picked: behind a P without an S, or before an S without a P.

    An S belongs to the last P before it, and a P to the first S behind it.

    Args:
        p: (B, K) onsets of P in rising order, NaN behind them.
        s: (B, K') onsets of S.
        at: (F,) the places, in the same unit.
    """
    next_p, last_s, lone_p, lone_s = _lone(p, s)
    behind = (at > lone_p[:, :, None]) & (at < next_p[:, :, None])
    before = (at > last_s[:, :, None]) & (at < lone_s[:, :, None])
    return behind.any(dim=1) | before.any(dim=1)


def pick_targets(labels: Labels, num_valid: Tensor, num_samples: int, width: float) -> tuple[Tensor, Tensor]:
    """Returns the probabilities (B, 3, T) of P, S and noise that a picker should give, and the weight (B, T) of each sample.

    Onsets are Gaussians (Zhu & Beroza 2019), the rest is noise; the three sum to 1. No weight have the padding, samples where an
    onset may hide, earthquake records without picks, and the surroundings of other phases.

    Args:
        labels: of the windows.
        num_valid: (B,) samples before the padding.
        num_samples: T.
        width: standard deviation of the Gaussians in samples.
    """
    t = torch.arange(num_samples, device=num_valid.device)
    p, s = (_gaussian(onset, t, width) for onset in (labels.p, labels.s))
    noise = (1 - p - s).clamp_min(0)
    targets = torch.stack([p, s, noise], dim=1)
    guard = GUARD_WIDTHS * width
    near = _near(labels.p, t, guard) | _near(labels.s, t, guard)
    other = _near(labels.other, t, OTHER_PHASE_SAMPLES)
    known = near | ~(may_hide_an_onset(labels.p, labels.s, t) | other)
    known = known & _says_something(labels)[:, None] & (t < num_valid[:, None])
    return targets / targets.sum(dim=1, keepdim=True), known.float()


def event_targets(labels: Labels, num_valid: Tensor, num_samples: int) -> tuple[Tensor, Tensor]:
    """Returns whether samples (B, 1, T) lie within the waves of an earthquake, 1 or 0, and the weight (B, T) of each.

    An event lasts from its P to `CODA` (S - P) beyond its S. Of a P without an S, or an S without a P, only the second behind it is
    certain; what follows has no weight until the next P, and nothing has before such an S.

    Args: those of `pick_targets`.
    """
    t = torch.arange(num_samples, device=num_valid.device)
    p, s = labels.p, labels.s
    next_p, last_s, lone_p, lone_s = _lone(p, s)
    follows = (s[:, None] >= p[:, :, None]) & (s[:, None] < next_p[:, :, None])
    of_p = torch.where(follows, s[:, None], torch.inf).amin(dim=2)
    end = torch.where(of_p.isinf(), p + SURE_SAMPLES, of_p + CODA * (of_p - p))
    inside = _between(t, p, end) | _between(t, lone_s, lone_s + SURE_SAMPLES)
    p_behind = torch.where(p[:, None] > lone_s[:, :, None], p[:, None], torch.inf).amin(dim=2)
    unknown = _between(t, lone_p, next_p) | _between(t, last_s, lone_s) | _between(t, lone_s, p_behind)
    unknown = unknown | _near(labels.other, t, OTHER_PHASE_SAMPLES)
    known = (inside | ~unknown) & _says_something(labels)[:, None] & (t < num_valid[:, None])
    return inside[:, None].float(), known.float()


def _lone(p: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The next P of each P and the last S before each S, infinite where there is none; P without S and S without P, NaN elsewhere."""
    end = p.new_full((len(p), 1), torch.inf)
    next_p = torch.cat([torch.where(p[:, 1:].isnan(), torch.inf, p[:, 1:]), end], dim=1)
    last_s = torch.cat([-end, s[:, :-1]], dim=1)
    follows = (s[:, None] >= p[:, :, None]) & (s[:, None] < next_p[:, :, None])
    precedes = (p[:, None] <= s[:, :, None]) & (p[:, None] > last_s[:, :, None])
    lone_p = torch.where(follows.any(dim=2), torch.nan, p)
    lone_s = torch.where(precedes.any(dim=2), torch.nan, s)
    return next_p, last_s, lone_p, lone_s


def _says_something(labels: Labels) -> Tensor:
    """Which windows (B,) are of a trace with an onset, or of one known to be noise."""
    return labels.noise | ~labels.p.isnan().all(dim=1) | ~labels.s.isnan().all(dim=1)


def _gaussian(onset: Tensor, t: Tensor, width: float) -> Tensor:
    """The highest of the Gaussians around onsets (B, K) at every sample (B, T)."""
    return torch.exp(-(((t - onset[:, :, None]) / width) ** 2) / 2).nan_to_num(nan=0.0).amax(dim=1)


def _near(onset: Tensor, t: Tensor, samples: float) -> Tensor:
    return ((t - onset[:, :, None]).abs() <= samples).any(dim=1)


def _between(t: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Which samples (B, T) lie in any of the intervals (B, K); one that begins or ends at NaN holds none."""
    return ((t >= first[:, :, None]) & (t <= last[:, :, None])).any(dim=1)
