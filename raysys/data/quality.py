"""What can be wrong with a seismogram, and how it is told."""

import numpy as np

FLAGS = {
    "not finite": 1,
    "dead": 2,
    "dead component": 4,
    "clipped": 8,
    "gap": 16,
    "short": 32,
}
"""Reason -> bit. "dead" means that all components are constant, "dead component" that some are."""

_CLIP_SHARE = 0.005
"""A trace is clipped when at least this share of its samples sits in runs at its largest or smallest value."""
_GAP_S = 1.0
"""A gap is a stretch at least this long in which every live component stands still."""
_SHORT_S = 5.0


def trace_flags(waveform: np.ndarray, rate_hz: float = 100.0) -> int:
    """Returns the flags of one trace, a sum of `FLAGS`.

    Args:
        waveform: (components, samples), any unit.
        rate_hz: sampling rate.
    """
    flags = 0
    finite = np.isfinite(waveform)
    if not finite.all():
        flags |= FLAGS["not finite"]
        waveform = np.where(finite, waveform, 0.0)
    if waveform.shape[-1] < _SHORT_S * rate_hz:
        flags |= FLAGS["short"]
    low, high = waveform.min(axis=-1), waveform.max(axis=-1)
    live = high > low
    if not live.any():
        return flags | FLAGS["dead"]
    if not live.all():
        flags |= FLAGS["dead component"]
    still = np.diff(waveform[live], axis=-1) == 0
    if _longest_run(still.all(axis=0)) >= _GAP_S * rate_hz:
        flags |= FLAGS["gap"]
    at_rail = (waveform[live] == low[live, None]) | (waveform[live] == high[live, None])
    if ((at_rail[:, 1:] & still).mean(axis=-1) > _CLIP_SHARE).any():
        flags |= FLAGS["clipped"]
    return flags


def reasons(flags: np.ndarray) -> dict[str, int]:
    """Returns how many traces carry each flag, reasons without any left out."""
    counts = {reason: int(((flags & bit) != 0).sum()) for reason, bit in FLAGS.items()}
    return {reason: count for reason, count in counts.items() if count}


def _longest_run(mask: np.ndarray) -> int:
    """Length of the longest run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return int((edges[1::2] - edges[::2]).max(initial=0))
