"""Windows that stay the same for a whole project: validation and probe sets, with their picks."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from raysys.data.onsets import Onsets
from raysys.data.plan import one_onset, onset_starts
from raysys.data.windows import RATE_HZ, Traces, read_windows


@dataclass(frozen=True, slots=True)
class FixedWindows:
    """n windows of T samples with their picks.

    Attributes:
        waveform: (n, 3, T) float32, not normalised.
        num_valid: (n,) samples that are data.
        p_sample: (n,) first P onset in samples of the window, NaN where there is none in it.
        s_sample: (n,) first S onset.
        noise: (n,) True where the whole trace is known to be noise.
        dataset: (n,) number of the data set in `datasets`.
        datasets: names.
        further: (n, 3, K) later onsets of P and of S in the window, and all of other phases; NaN pads. None: there are none.
        row: (n,) number of the row of the table that a window was cut from.
        start: (n,) its first sample there.
    """

    waveform: np.ndarray
    num_valid: np.ndarray
    p_sample: np.ndarray
    s_sample: np.ndarray
    noise: np.ndarray
    dataset: np.ndarray
    datasets: tuple[str, ...]
    further: np.ndarray | None = None
    row: np.ndarray | None = None
    start: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.num_valid)

    def take(self, ids: slice | np.ndarray) -> "FixedWindows":
        """Returns some of the windows."""
        columns = (self.waveform, self.num_valid, self.p_sample, self.s_sample, self.noise, self.dataset)
        optional = (None if column is None else column[ids] for column in (self.further, self.row, self.start))
        return FixedWindows(*(column[ids] for column in columns), self.datasets, *optional)

    def batches(self, size: int) -> Iterator["FixedWindows"]:
        """Yields the windows in order, `size` at a time."""
        for first in range(0, len(self), size):
            yield self.take(slice(first, first + size))

    def onsets(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns all onsets of P, of S and of other phases, (n, any number) each, in order and padded with NaN."""
        further = np.empty((len(self), 3, 0)) if self.further is None else self.further
        p, s = (np.column_stack([first, further[:, k]]) for k, first in enumerate((self.p_sample, self.s_sample)))
        return p, s, further[:, 2]


def fixed_windows(table: pa.Table, count: int, window: int, seed: int = 0, *, labelled: bool = False) -> FixedWindows:
    """Returns `count` windows (fewer if there are fewer traces), a pure function of the table and the seed.

    Args:
        table: index rows of one split.
        count: windows, spread evenly over the rows and so over the data sets.
        window: samples of a window.
        seed: of the choice of traces and crops.
        labelled: only traces with a pick, and traces that are known to be noise.
    """
    onsets = Onsets.from_table(table)
    rows = np.flatnonzero(onsets.labelled) if labelled else np.arange(len(table))
    rng = np.random.default_rng((seed, len(rows)))
    offset = rng.random()
    rows = rows[((np.arange(min(count, len(rows))) + offset) * len(rows) / max(1, min(count, len(rows)))).astype(int)]
    traces = Traces.from_table(table)
    starts = _starts(traces, rows, window, rng)
    waveform, num_valid = read_windows(traces, rows, starts, window)
    inside = onsets.take(rows).inside(starts, num_valid)
    p, s, other = inside.p, inside.s, inside.other
    width = max(p.shape[1] - 1, s.shape[1] - 1, other.shape[1])
    further = np.full((len(rows), 3, width), np.nan)
    for k, later in enumerate((p[:, 1:], s[:, 1:], other)):
        further[:, k, : later.shape[1]] = later
    columns = (waveform, num_valid, p[:, 0], s[:, 0], inside.noise, traces.dataset[rows], traces.datasets)
    return FixedWindows(*columns, further if np.isfinite(further).any() else None, rows, starts)


def _starts(traces: Traces, rows: np.ndarray, window: int, rng) -> np.ndarray:
    """First samples: a random place, but one that holds a pick where there is one, P and S in turn."""
    room = np.maximum(0, traces.output_samples(rows) - window)
    place, wave = rng.random(len(rows)), rng.random(len(rows))
    onset = one_onset(traces.p_s[rows], traces.s_s[rows], wave) * RATE_HZ
    return onset_starts(room, onset, window, place)
