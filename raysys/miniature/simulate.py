"""From the description of a twin to its rows and waveforms, in memory."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pandas as pd

from raysys.miniature import network, physics
from raysys.miniature.quirks import Twin

BATCH = 24
"""Traces synthesised at a time: keeps the spectra within some tens of MB."""

QUIETEST_MS = 1e-8
"""Lowest rms noise of a site, m/s. Signals too weak for it are enlarged: nobody would have picked them."""


def simulate(twin: Twin, traces: int, rng: np.random.Generator) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """Returns the metadata in final order and form, and the waveforms (C, T); row label i of the table is waveform i."""
    sites = network.stations(twin.region, twin.network, rng)
    rates = list(twin.rates_hz)
    sites["rate_hz"] = rng.permutation([rates[i] for i in _shares(list(twin.rates_hz.values()), len(sites))])
    num_events = math.ceil(traces / network.TRACES_PER_EVENT)
    quakes = network.events(twin.region, num_events, twin.spans, twin.name.lower()[:4], rng)
    table = network.records(twin.region, quakes, sites, traces, rng)
    times, motions = network.travel(twin.region, table)
    lead = rng.uniform(*twin.lead_s, traces)
    start = np.nanmin(times, axis=1) - lead
    onset_s = times - start[:, None]
    lengths = np.round(rng.uniform(*twin.length_s, traces) * table.rate_hz.values).astype(int) + 1
    table["num_samples"] = twin.num_samples or lengths
    table["is_noise"] = rng.permutation(traces) < round(twin.noise_share * traces)
    table["trace_defect"] = _assign_defects(twin, table.is_noise.values, rng)
    table["p_up"] = motions[:, twin.region.phases.index("P" if twin.region.distant else "Pg"), 0] > 0
    table = table.assign(**_stamps(twin, table, start), **_picks(twin, table, onset_s, rng))
    waves = _waveforms(twin, table, times, onset_s, motions, rng)
    snr = [snr_db(wave, lead[i], table.rate_hz[i]) for i, wave in enumerate(waves)]
    table[["snr_Z", "snr_N", "snr_E"]] = np.where(table.is_noise.values[:, None], np.nan, snr)
    return twin.publish(table, rng), [store(twin, wave) for wave in waves]


def store(twin: Twin, wave: np.ndarray) -> np.ndarray:
    """Returns a waveform (ZNE) as the real file holds it: mean, whole numbers, component order, dtype."""
    if twin.demean:
        live = np.ptp(wave, axis=1) > 0
        wave = np.where(live[:, None], wave - wave.mean(axis=1, keepdims=True, dtype=np.float64), 0)
    if twin.integer:
        wave = np.round(wave)
    return np.ascontiguousarray(wave[["ZNE".index(c) for c in twin.component_order]], dtype=twin.dtype)


def snr_db(wave: np.ndarray, onset_s: float, rate_hz: float) -> np.ndarray:
    """Returns 20 log10 of the standard deviation 5 s after over 5 s before the onset, (C,); NaN for a dead component."""
    at, span = int(onset_s * rate_hz), int(5 * rate_hz)
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)
        ratio = np.nanstd(wave[:, at : at + span], axis=1) / np.nanstd(wave[:, max(at - span, 0) : at], axis=1)
        return 20 * np.log10(np.where(np.isfinite(ratio) & (ratio > 0), ratio, np.nan))


def damage(kind: str, wave: np.ndarray, rate_hz: float, rng: np.random.Generator) -> None:
    """Gives a waveform (C, T) one defect, in place.

    Kinds: dead (one component zero), missing (both horizontals zero), spike (three single samples), gap (2 to 8 s of zeros on
    all components), clip (limited to half of the peak), nonfinite (NaN for half a second of one component).
    """
    num = wave.shape[1]
    if kind == "dead":
        wave[rng.integers(3)] = 0
    elif kind == "missing":
        wave[1:] = 0
    elif kind == "spike":
        where = rng.integers(num, size=3)
        wave[rng.integers(3), where] += rng.uniform(3, 30) * np.abs(wave).max() * np.where(rng.random(3) < 0.5, -1, 1)
    elif kind == "gap":
        at = int(rng.integers(num // 2))
        wave[:, at : at + int(rng.uniform(2, 8) * rate_hz)] = 0
    elif kind == "clip":
        middle = np.median(wave, axis=1, keepdims=True)
        limit = np.abs(wave - middle).max(axis=1, keepdims=True) / 2
        np.clip(wave, middle - limit, middle + limit, out=wave)
    elif kind == "nonfinite":
        at = int(rng.integers(num - int(rate_hz)))
        wave[rng.integers(3), at : at + int(rate_hz / 2)] = np.nan


def _shares(shares: list[float], num: int) -> np.ndarray:
    """Indices (num,) that repeat entry i about shares[i] * num times, each at least once where num allows it."""
    counts = np.maximum(np.round(np.array(shares) * num).astype(int), 1)
    return np.resize(np.repeat(np.arange(len(shares)), counts), num)


def _assign_defects(twin: Twin, is_noise: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Kind of defect of each trace, '' for none; second events only where there is a first."""
    kinds = np.full(len(is_noise), "", object)
    for kind, share in twin.defects.items():
        free = np.flatnonzero((kinds == "") & ~(is_noise & (kind == "second event")))
        count = min(max(1, round(share * len(kinds))), len(free) // 2)
        kinds[rng.choice(free, count, replace=False)] = kind
    return kinds


def _stamps(twin: Twin, table: pd.DataFrame, start_s: np.ndarray) -> dict:
    def iso(seconds: np.ndarray) -> list[str]:
        return list(
            pd.to_datetime(table.time_ms * 1000 + np.round(seconds * 1e6), unit="us").dt.strftime(
                "%Y-%m-%dT%H:%M:%S.%fZ"
            )
        )

    return {
        "source_origin_time": iso(np.zeros(len(table))),
        "trace_start_time": iso(start_s),
        "trace_sampling_rate_hz": table.rate_hz,
        "trace_npts": table.num_samples,
        "trace_name": table.source_id + "_" + table.station_network_code + "." + table.station_code + "..",
    }


def _picks(twin: Twin, table: pd.DataFrame, onset_s: np.ndarray, rng: np.random.Generator) -> dict:
    """Arrival and status columns; onsets outside the trace and those of noise carry no label."""
    columns = {}
    for prefix, sample in twin.label(twin, table, onset_s * table.rate_hz.values[:, None], rng).items():
        sample = np.round(sample, 3 if twin.fractional else 0)
        inside = (sample >= 0) & (sample < table.num_samples.values - 1) & ~table.is_noise.values
        columns[f"{prefix}_arrival_sample"] = np.where(inside, sample, np.nan)
        columns[f"{prefix}_status"] = np.where(inside, "manual", None)
    return columns


def _waveforms(twin, table, times, onset_s, motions, rng) -> list[np.ndarray]:
    """Stored-unit waveforms (C, T) in ZNE order, damaged where the table says so."""
    waves: list[np.ndarray] = [np.empty(0)] * len(table)
    for rate in sorted(twin.rates_hz):
        rows = np.flatnonzero(table.rate_hz.values == rate)
        for part in np.array_split(rows, max(1, math.ceil(len(rows) / BATCH))):
            if len(part):
                for row, wave in zip(
                    part, _batch(twin, table.iloc[part], times[part], onset_s[part], motions[part], rng), strict=True
                ):
                    waves[row] = wave[:, : table.num_samples[row]].copy()
    for row in np.flatnonzero(table.trace_defect != ""):
        damage(table.trace_defect[row], waves[row], table.rate_hz[row], rng)
    return waves


def _batch(twin, table, times, onset_s, motions, rng) -> np.ndarray:
    """Stored-unit waveforms (B, C, T) of rows of one sampling rate, ZNE, undamaged."""
    region, rate, length = twin.region, table.rate_hz.iloc[0], table.num_samples.max()
    stations = physics.Stations(**{name: table[name].values for name in physics.Stations.__dataclass_fields__})
    first = np.nanmin(times, axis=1)
    decay = 2 + 0.4 * np.minimum(first, 60)
    arrivals = physics.Arrivals(
        onset_s=onset_s,
        motion=motions,
        is_s=np.array([name.startswith("S") for name in region.phases]),
        corner_hz=physics.corner_frequency(
            table.source_magnitude.values, region.v0 + region.gradient * table.source_depth_km.values
        ),
        t_star_s=np.stack([first, 2 * physics.VP_VS * first], axis=1) / region.quality,
        coda_s=np.stack([decay / 2, decay], axis=1),
    )
    signal = physics.seismograms(arrivals, stations, rate_hz=rate, num_samples=length, rng=rng)
    for i in np.flatnonzero(table.trace_defect == "second event"):
        late = int(rng.uniform(0.3, 0.6) * length)
        signal[i, :, late:] += rng.uniform(0.3, 1.0) * signal[i, :, :-late]
    peak = np.abs(signal).max(axis=(1, 2))
    low, high = twin.snr_db
    snr = 20 * np.log10(peak / table.noise_ms.values)
    snr = np.where((snr < low) | (snr > high), rng.uniform(low, high, len(snr)), snr)
    quiet = table.is_noise.values
    level = np.where(quiet, table.noise_ms, np.maximum(peak / 10 ** (snr / 20), QUIETEST_MS))
    signal *= np.where(quiet, 0, level * 10 ** (snr / 20) / peak).astype(np.float32)[:, None, None]
    noise = physics.background(stations, rate_hz=rate, num_samples=length, rng=rng)
    gain = (twin.gain * table.gain_factor.values).astype(np.float32)[:, None, None]
    shift = (twin.offset * rng.standard_normal((len(table), 3, 1))).astype(np.float32)
    return (signal + level.astype(np.float32)[:, None, None] * noise) * gain + shift
