"""What can set one data set apart from another: numbers (`Twin`), phase labels, and the final form of its metadata."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from raysys.miniature.network import Region

EVENT_SPLITS = ("train", "test", "train", "dev", "train", "test", "train", "train", "test", "train")
"""Split of event i is entry i modulo 10: 60 / 10 / 30 %, each split present from four events on."""


@dataclass(frozen=True, kw_only=True)
class Twin:
    """How the miniature of one data set is made; every field is a property of the real one unless it says otherwise."""

    name: str
    network: str
    """Network code of the stations."""
    region: Region
    spans: tuple[tuple[str, str], ...]
    """Periods of the events (start, end), taken in turn: event i lies in period i modulo their number."""
    rates_hz: dict[float, float]
    """Sampling rate -> share of the stations."""
    length_s: tuple[float, float]
    """Shortest and longest trace. A fixed-length set has num_samples instead."""
    num_samples: int | None = None
    lead_s: tuple[float, float]
    """Time from the start of the trace to the first onset."""
    dtype: type = np.float32
    component_order: str = "ZNE"
    gain: float
    """Stored units per m/s."""
    unit: str
    offset: float = 0.0
    """Scatter of the constant offset of a component, in stored units."""
    integer: bool = False
    """Raw counts: stored as whole numbers."""
    demean: bool = False
    """Gaps are filled with zeros and the mean is removed afterwards, so that gaps are constant but not zero."""
    snr_db: tuple[float, float]
    """Range of 20 log10(peak of the signal / rms of the noise). What physics puts outside is drawn uniformly within."""
    noise_share: float = 0.0
    """Fraction of traces without an earthquake."""
    s_share: float = 1.0
    """Fraction of S onsets that carry a label."""
    fractional: bool = False
    """Onsets are stored between samples."""
    defects: dict[str, float]
    """Kind of defect -> fraction of the traces; at least one trace has each."""
    label: Callable[[Twin, pd.DataFrame, np.ndarray, np.random.Generator], dict[str, np.ndarray]]
    """(twin, table, onsets (B, A) in samples, rng) -> column prefix such as trace_Pg -> samples (B,), NaN where none."""
    publish: Callable[[pd.DataFrame, np.random.Generator], pd.DataFrame]
    """Gives the columns and the order of the rows their final form."""


def first_onsets(p_name: str, s_name: str) -> Callable:
    """A labeller that knows the first P and the first S only."""

    def label(twin: Twin, table: pd.DataFrame, onset: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        is_s = np.array([name.startswith("S") for name in twin.region.phases])
        picks = {}
        for name, chosen, share in ((p_name, ~is_s, 1.0), (s_name, is_s, twin.s_share)):
            first = np.nanmin(np.where(np.isnan(onset), np.inf, onset)[:, chosen], axis=1)
            picks[f"trace_{name}"] = np.where(np.isinf(first) | (rng.random(len(first)) >= share), np.nan, first)
        return picks

    return label


def crustal_onsets(
    twin: Twin, table: pd.DataFrame, onset: np.ndarray, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Pn, Pg, Sn, Sg by their names; one in six of the first onsets is called just P or S; second onsets seldom."""
    out = {}
    for refracted, direct, plain, share in ((0, 1, "P", 1.0), (2, 3, "S", twin.s_share)):
        labelled = rng.random(len(onset)) < share
        generic = rng.random(len(onset)) < 1 / 6
        second = rng.random(len(onset)) < 0.3
        has_refracted = ~np.isnan(onset[:, refracted])
        first = np.where(has_refracted, onset[:, refracted], onset[:, direct])
        out[f"trace_{plain}"] = np.where(labelled & generic, first, np.nan)
        named = labelled & ~generic
        out[f"trace_{plain}n"] = np.where(named & has_refracted, onset[:, refracted], np.nan)
        out[f"trace_{plain}g"] = np.where(named & (~has_refracted | second), onset[:, direct], np.nan)
    return out


def distant_onsets(
    twin: Twin, table: pd.DataFrame, onset: np.ndarray, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """P nearly always (Pn below 1,500 km), pP and S seldom."""
    near = table.distance_km.values < 1500
    shares = {"P": ~near, "Pn": near, "pP": rng.random(len(onset)) < 0.2, "S": rng.random(len(onset)) < twin.s_share}
    column = {"P": 0, "Pn": 0, "pP": 1, "S": 2}
    return {f"trace_{name}": np.where(keep, onset[:, column[name]], np.nan) for name, keep in shares.items()}


def split_by_date(first_dev: str, first_test: str, *, polarity: bool = False) -> Callable:
    """Splits by origin time: train before `first_dev`, dev before `first_test`; adds completeness and spike columns."""

    def publish(table: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
        time = table.source_origin_time
        split = np.where(time < first_dev, "train", np.where(time < first_test, "dev", "test"))
        if polarity:
            up = np.where(table.p_up, "positive", "negative")
            table = table.assign(
                **{f"trace_{p}_polarity": np.where(table[f"trace_{p}_status"].notna(), up, None) for p in ("Pn", "Pg")}
            )
        return table.assign(
            split=split,
            trace_completeness=np.where(
                table.trace_defect == "gap", 0.9, np.where(table.trace_defect == "missing", 1 / 3, 1)
            ),
            trace_has_spikes=table.trace_defect == "spike",
            path_back_azimuth_deg=np.degrees(table.arrival_azimuth - np.pi) % 360,
        )

    return publish


def publish_stead(table: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Noise traces have no source; signal-to-noise in brackets; a random test set and every 18th of the rest as dev."""
    split = np.full(len(table), "train", object)
    test = rng.random(len(table)) < 0.1
    split[test] = "test"
    split[np.flatnonzero(~test)[::18]] = "dev"
    noise = table.is_noise.values
    table = blank_sources(table, noise).assign(
        split=split,
        trace_category=np.where(noise, "noise", "earthquake_local"),
        trace_snr_db=[
            None if quiet else f"[{' '.join(map(str, db))}]" for quiet, db in zip(noise, _snr(table), strict=True)
        ],
        path_ep_distance_km=np.where(noise, np.nan, table.distance_km),
        source_distance_deg=np.where(noise, np.nan, table.distance_km / 111.2),
    )
    return table.iloc[rng.permutation(len(table))]


def publish_instance(table: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Split by event; signal-to-noise one column a component."""
    snr = np.array(_snr(table))
    columns = {f"trace_{component}_snr_db": snr[:, i] for i, component in enumerate("ZNE")}
    return table.assign(split=[EVENT_SPLITS[event % 10] for event in table.event], **columns)


def publish_mlaapde(table: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """One chunk a month, in order of time; no split."""
    month = table.source_origin_time.str.slice(0, 7).str.replace("-", "")
    return table.assign(chunk="_" + month).sort_values("chunk", kind="stable")


def publish_iquique(table: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """A random split by trace, 60 / 10 / 30 %."""
    order = rng.permutation(len(table)) / len(table)
    return table.assign(split=np.where(order < 0.6, "train", np.where(order < 0.7, "dev", "test")))


def publish_pnw(table: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Event id under another name, signal-to-noise as a|b|c with nan for a dead component, no split."""
    names = {
        "source_id": "event_id",
        "source_magnitude": "preferred_source_magnitude",
        "trace_channel": "station_channel_code",
    }
    missing = table.trace_defect.map({"dead": 1, "missing": 2}).fillna(0).astype(int)
    return table.rename(columns=names).assign(
        source_type="earthquake",
        trace_snr_db=["|".join("nan" if np.isnan(x) else f"{x:.3f}" for x in db) for db in _snr(table)],
        trace_missing_channel=missing,
    )


def publish_obst(table: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """All earthquakes first, then all noise; every source column empty; no split."""
    return blank_sources(table, np.ones(len(table), bool)).sort_values("is_noise", kind="stable")


def blank_sources(table: pd.DataFrame, rows: np.ndarray) -> pd.DataFrame:
    """Returns the table with NaN in the source columns of `rows`."""
    columns = [name for name in table.columns if name.startswith("source_")]
    return table.assign(**{name: table[name].astype(object).where(~rows, np.nan) for name in columns})


def _snr(table: pd.DataFrame) -> list[list[float]]:
    return np.round(table[["snr_Z", "snr_N", "snr_E"]].values.astype(float), 3).tolist()
