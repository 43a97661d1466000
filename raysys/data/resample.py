"""Resampling to 100 Hz: a zero-phase polyphase low-pass, computed as matrix products of frames.

A frame is a stretch of the trace that begins at a fixed multiple of input samples, and one matrix maps it to its
output samples. Frames lie on the same grid whichever window is cut, and every product has the same shape, so that a
sample of the result has the same bits in every window that holds it.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np

RATE_HZ = 100.0
"""Sampling rate of every window."""
SAMPLES_VERSION = 1
"""Of the samples that a stored trace becomes at 100 Hz: of resampling, cutting and flags. Raise it when they change.

Shards of another version are not read (`raysys.data.index`). A test pins samples of this version.
"""
SLOWEST_HZ, FASTEST_HZ = 1.0, 50_000.0
"""Rates that are resampled; beyond them a trace would be mostly made up, or mostly thrown away."""
_FRAME = 64
"""Output samples of a frame, about: the shortest that keeps matrix products at full speed."""
_PRODUCT_ROWS = 256


@lru_cache(maxsize=256)
def ratio(rate_hz: float) -> tuple[int, int]:
    """Returns 100 Hz over a rate as a fraction; rates within 0.1 % of each other count as equal."""
    near = Fraction(RATE_HZ / rate_hz).limit_denominator(100)
    if abs(float(near) * rate_hz / RATE_HZ - 1) > 1e-3 or not near:
        near = Fraction(RATE_HZ / rate_hz).limit_denominator(10_000)
    return near.numerator, near.denominator


def read_rates(rates_hz: np.ndarray) -> np.ndarray:
    """Returns the rates at which traces are taken when they are resampled, so that picks move as their samples do.

    They are the stated ones but for those near a round one (`ratio`), and for those out of range, which stay.
    """
    known, inverse = np.unique(rates_hz, return_inverse=True)
    for i in np.flatnonzero((known >= SLOWEST_HZ) & (known <= FASTEST_HZ)):
        up, down = ratio(float(known[i]))
        known[i] = RATE_HZ * down / up
    return known[inverse]


@lru_cache(maxsize=64)
def low_pass(up: int, down: int) -> np.ndarray:
    """Returns the taps of the low-pass; every phase has unit gain at 0 Hz, so that an offset leaves no ripple."""
    half = 10 * max(up, down)
    taps = np.sinc(np.arange(-half, half + 1) / max(up, down)) * np.kaiser(2 * half + 1, 5.0)
    for phase in range(up):
        taps[phase::up] /= taps[phase::up].sum()
    return taps


@dataclass(frozen=True, slots=True)
class Resampler:
    """Resampling by up / down, frame by frame.

    Attributes:
        step_in: input samples between the beginnings of two frames.
        step_out: output samples of a frame.
        before: input samples that a frame needs before its beginning.
        matrix: (input samples of a frame, output samples padded to a multiple of 16) float64.
    """

    step_in: int
    step_out: int
    before: int
    matrix: np.ndarray

    @property
    def frame(self) -> int:
        """Input samples of a frame."""
        return self.matrix.shape[0]

    def frames(self, window: int) -> int:
        """Returns how many frames hold a window, wherever it begins."""
        return (window - 2) // self.step_out + 2

    def span(self, start: np.ndarray, window: int) -> tuple[np.ndarray, int]:
        """Returns the first input sample that each window needs, possibly below 0, and how many it needs."""
        first = start // self.step_out * self.step_in - self.before
        return first, (self.frames(window) - 1) * self.step_in + self.frame

    def __call__(self, stored: np.ndarray, start: np.ndarray, window: int) -> np.ndarray:
        """Returns (n, C, window) output samples from `start` (n,) on, float64.

        Args:
            stored: (n, C, samples) float64, the input samples that `span` asks for. Is changed: a sample that is not
                finite makes NaN of the output samples within reach of the filter, and of no others.
            start: first output sample of each window, counted from the beginning of its trace.
            window: output samples.
        """
        bad = ~np.isfinite(stored)
        holes = bad.any()
        if holes:
            stored[bad] = 0.0
        out = self._apply(stored, self.matrix, window)
        if holes:
            reached = self._apply(bad.astype(np.float64), (self.matrix != 0).astype(np.float64), window)
            out[reached > 0.5] = np.nan
        skip = start % self.step_out
        return np.stack([one[:, k : k + window] for one, k in zip(out, skip.tolist(), strict=True)])

    def _apply(self, stored: np.ndarray, matrix: np.ndarray, window: int) -> np.ndarray:
        num, components = stored.shape[:2]
        frames = np.lib.stride_tricks.sliding_window_view(stored, self.frame, axis=-1)[:, :, :: self.step_in]
        rows = num * components * self.frames(window)
        padded = np.zeros((-(-rows // _PRODUCT_ROWS) * _PRODUCT_ROWS, self.frame))
        padded[:rows].reshape(frames.shape)[...] = frames
        product = padded.reshape(-1, _PRODUCT_ROWS, self.frame) @ matrix
        return product.reshape(-1, matrix.shape[1])[:rows, : self.step_out].reshape(num, components, -1)


@lru_cache(maxsize=64)
def resampler(up: int, down: int) -> Resampler:
    """Returns the resampler by up / down."""
    taps = low_pass(up, down)
    half = len(taps) // 2
    repeats = max(1, round(_FRAME / up))
    step_in, step_out, before = down * repeats, up * repeats, half // up
    last = ((step_out - 1) * down + half) // up
    # Input sample k - before meets output sample r at this tap, if there is one:
    tap = np.arange(step_out) * down - (np.arange(before + last + 1)[:, None] - before) * up + half
    matrix = np.where((tap >= 0) & (tap < len(taps)), taps[np.clip(tap, 0, len(taps) - 1)], 0.0)
    padding = -step_out % 16
    return Resampler(step_in, step_out, before, np.ascontiguousarray(np.pad(matrix, ((0, 0), (0, padding)))))
