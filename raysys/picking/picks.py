"""Picks out of probabilities: where a curve rises above a threshold, when, how sure, how large."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from model.picker import LABELS
from model.preprocess import RATE_HZ
from raysys.evaluate.calibration import calibrated
from raysys.evaluate.tolerance import peak_widths_s
from raysys.picking.record import Record

COLUMNS = {
    **dict.fromkeys(("network", "station", "location", "instrument", "phase"), "str"),
    **dict.fromkeys(("peak_time", "start_time", "end_time"), "datetime64[ns, UTC]"),
    **dict.fromkeys(("probability", "time_uncertainty_s", "amplitude"), "float64"),
    **{"amplitude_unit": "str", "snr_db": "float64", "model": "str"},
}
"""Of a table of picks."""
AMPLITUDE_S, SIGNAL_S, NOISE_S = 2.0, 1.0, 2.0
"""Behind an onset: where the amplitude is looked for, and the signal; before it: the noise."""
UNCALIBRATED = 0.3
"""The threshold where dev has chosen none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """What dev said about a picker (`raysys.evaluate`).

    Attributes:
        p_threshold, s_threshold: least probabilities of a pick, as the network gives them.
        p_odds, s_odds: slope and offset that make, out of the logarithm of a pick's odds, that of being right (Platt 1999).
        p_spread, s_spread: one standard deviation of the error in time, over the width of the peak; None: not measured.
    """

    p_threshold: float = UNCALIBRATED
    s_threshold: float = UNCALIBRATED
    p_odds: tuple[float, float] = (1.0, 0.0)
    s_odds: tuple[float, float] = (1.0, 0.0)
    p_spread: float | None = None
    s_spread: float | None = None


def triggers(curve: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns where a curve (T,) reaches a threshold, the last samples before it falls below half of it, and the highest ones between.

    This is ObsPy's `trigger_onset` as SeisBench uses it. NaN is below everything; of equal samples the first is the highest.
    """
    above = np.concatenate([[False], np.nan_to_num(curve, nan=-1.0) >= threshold / 2, [False]])
    edges = np.flatnonzero(above[1:] != above[:-1]).reshape(-1, 2)
    peaks = np.array([first + curve[first:end].argmax() for first, end in edges], np.int64)
    high = curve[peaks] >= threshold
    begins = [first + (curve[first:end] >= threshold).argmax() for first, end in edges[high]]
    return np.array(begins, np.int64), edges[high, 1] - 1, peaks[high]


def find_picks(probability: np.ndarray, record: Record, calibration: Calibration, model: str) -> pd.DataFrame:
    """Returns the picks in a record, one row each (`COLUMNS`), by time.

    Args:
        probability: (3, T) of P, S and noise.
        record: that was read.
        calibration: of the picker.
        model: its name.
    """
    tables = []
    of_p = calibration.p_threshold, calibration.p_odds, calibration.p_spread
    of_s = calibration.s_threshold, calibration.s_odds, calibration.s_spread
    for row, (phase, (threshold, odds, spread)) in enumerate(zip(LABELS, (of_p, of_s), strict=False)):
        curve = probability[row]
        first, last, peak = triggers(curve, threshold)
        width = peak_widths_s(curve[None], peak[None])[0]
        amplitude, snr = _size(record.samples, peak)
        columns = {
            **{name: getattr(record, name) for name in ("network", "station", "location", "instrument")},
            "phase": phase,
            **{
                name: pd.to_datetime(record.time_ns(sample), utc=True)
                for name, sample in (("peak_time", peak), ("start_time", first), ("end_time", last))
            },
            "probability": calibrated(curve[peak], *odds),
            "time_uncertainty_s": width * spread if spread is not None else np.nan,
            "amplitude": amplitude,
            "snr_db": snr,
            "amplitude_unit": "counts",
            "model": model,
        }
        tables.append(pd.DataFrame(columns, index=range(len(peak))))
    return in_order(pd.concat(tables))


def in_order(picks: pd.DataFrame) -> pd.DataFrame:
    """Returns picks with the types of `COLUMNS`, sorted by station, time and phase."""
    picks = picks.astype(COLUMNS)[list(COLUMNS)]
    return picks.sort_values(["network", "station", "location", "peak_time", "phase"], ignore_index=True)


def no_picks() -> pd.DataFrame:
    """Returns a table without rows."""
    return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in COLUMNS.items()})


def _size(samples: np.ndarray, peak: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Largest amplitude behind each onset, of any component, and signal over noise in dB; NaN where there is too little record."""
    amplitude, snr = np.full(len(peak), np.nan), np.full(len(peak), np.nan)
    before, behind, signal = (round(s * RATE_HZ) for s in (NOISE_S, AMPLITUDE_S, SIGNAL_S))
    for k, at in enumerate(peak.tolist()):
        noise, wave = samples[:, max(0, at - before) : at], samples[:, at : at + behind]
        level = _mean(noise)
        if not np.isfinite(wave).any() or not np.isfinite(level).any():
            continue
        level = np.where(np.isfinite(level), level, _mean(wave))
        amplitude[k] = np.nanmax(np.abs(wave - level[:, None]))
        power = [np.nansum(_mean((part - level[:, None]) ** 2)) for part in (wave[:, :signal], noise)]
        if min(power) > 0:
            snr[k] = 10 * np.log10(power[0] / power[1])
    return amplitude, snr


def _mean(samples: np.ndarray) -> np.ndarray:
    """Means (C,) of what is finite; NaN without any."""
    there = np.isfinite(samples)
    with np.errstate(invalid="ignore"):
        return np.where(there, samples, 0).sum(axis=1, dtype=np.float64) / there.sum(axis=1)
