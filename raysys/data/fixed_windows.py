"""Windows that stay the same for a whole project: validation and probe sets, with their picks."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.data.windows import RATE_HZ, Traces, read_windows

_MARGIN = 0.1
"""Picks lie at least this fraction of a window away from its ends, where the trace allows it."""


@dataclass(frozen=True, slots=True)
class FixedWindows:
    """n windows of T samples with their picks.

    Attributes:
        waveform: (n, 3, T) float32, not normalised.
        num_valid: (n,) samples that are data.
        p_sample: (n,) P onset in samples of the window, NaN where there is none in it.
        s_sample: (n,) S onset.
        noise: (n,) True where the whole trace is known to be noise.
        dataset: (n,) number of the data set in `datasets`.
        datasets: names.
    """

    waveform: np.ndarray
    num_valid: np.ndarray
    p_sample: np.ndarray
    s_sample: np.ndarray
    noise: np.ndarray
    dataset: np.ndarray
    datasets: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.num_valid)

    def take(self, ids: slice | np.ndarray) -> "FixedWindows":
        """Returns some of the windows."""
        columns = (self.waveform, self.num_valid, self.p_sample, self.s_sample, self.noise, self.dataset)
        return FixedWindows(*(column[ids] for column in columns), self.datasets)


def fixed_windows(table: pa.Table, count: int, window: int, seed: int = 0, *, labelled: bool = False) -> FixedWindows:
    """Returns `count` windows (fewer if there are fewer traces), a pure function of the table and the seed.

    Args:
        table: index rows of one split.
        count: windows, spread evenly over the rows and so over the data sets.
        window: samples of a window.
        seed: of the choice of traces and crops.
        labelled: only traces with a pick, and traces that are known to be noise.
    """
    noise = _is_noise(table)
    rows = np.arange(len(table))
    if labelled:
        picked = ~np.isnan(table["p_s"].to_numpy()) | ~np.isnan(table["s_s"].to_numpy())
        rows = rows[picked | noise]
    rng = np.random.default_rng((seed, len(rows)))
    offset = rng.random()
    rows = rows[((np.arange(min(count, len(rows))) + offset) * len(rows) / max(1, min(count, len(rows)))).astype(int)]
    traces = Traces.from_table(table)
    starts = _starts(traces, rows, window, rng)
    waveform, num_valid = read_windows(traces, rows, starts, window)
    inside = []
    for onset in (traces.p_s, traces.s_s):
        sample = onset[rows] * RATE_HZ - starts
        inside.append(np.where((sample >= 0) & (sample < num_valid), sample, np.nan))
    return FixedWindows(waveform, num_valid, *inside, noise[rows], traces.dataset[rows], traces.datasets)


def _is_noise(table: pa.Table) -> np.ndarray:
    category = pc.utf8_lower(table["category"])
    noise = pc.match_substring(category, "noise").to_numpy(zero_copy_only=False)
    return noise & np.isnan(table["p_s"].to_numpy()) & np.isnan(table["s_s"].to_numpy())


def _starts(traces: Traces, rows: np.ndarray, window: int, rng) -> np.ndarray:
    """First samples: a random place, but one that holds a pick where there is one, P and S in turn."""
    room = np.maximum(0, traces.output_samples(rows) - window)
    draw = rng.random(len(rows))
    p, s = traces.p_s[rows] * RATE_HZ, traces.s_s[rows] * RATE_HZ
    pick = np.where(np.isnan(s) | (~np.isnan(p) & (rng.random(len(rows)) < 0.5)), p, s)
    low = np.clip(np.nan_to_num(pick - (1 - _MARGIN) * window, nan=0.0), 0, room)
    high = np.clip(np.nan_to_num(pick - _MARGIN * window, nan=np.inf), low, room)
    return np.floor(low + draw * (high - low)).astype(np.int64)
