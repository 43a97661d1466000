"""All scores of one network: of each data set, and of all together, with intervals."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix

from raysys.evaluate.calibration import (
    NUM_BINS,
    best_temperature,
    calibrated,
    calibration_error,
    cooled,
    fit_probability,
    reliability,
    spread_of_times,
)
from raysys.evaluate.intervals import Statistic, Sums, interval, replicate
from raysys.evaluate.scores import Tables, class_probabilities, residuals, statistics_of
from raysys.evaluate.tasks import SPLITS
from raysys.evaluate.thresholds import Thresholds, choose_thresholds

ALL = "all"
EDGES_S = np.round(np.arange(-0.5, 0.501, 0.02), 2)
"""Of the histogram of residuals."""
NAN = float("nan")
Events = dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Summary:
    """The scores of one network.

    Attributes:
        told: what goes into evaluation.json beside metrics: thresholds, temperature, odds, spread of times, residuals, reliability, confusion.
        metrics: data set, or `ALL` -> metric -> value, low, high, count.
        drawn: the test metrics of `ALL` (columns) of the events as they are and of each resample (rows).
    """

    told: dict[str, Any]
    metrics: dict[str, dict[str, dict[str, float]]]
    drawn: pd.DataFrame
    events: tuple[str, ...]
    """Those that were drawn: networks can be paired where they are the same."""


def summarize(
    tables: dict[str, Tables],
    events: dict[str, Events],
    task: str,
    classes: tuple[str, ...] = (),
    resamples: int = 1000,
) -> Summary:
    """Returns the scores of a network.

    The thresholds of P and S and the temperature are those of dev of all data sets together, as somebody sets them who runs
    one network everywhere. Thresholds of the benchmark's tasks are, as there, chosen for each data set by its own dev split.

    Args:
        tables: data set -> what `raysys.evaluate.predictions.read_dataset` returns.
        events: data set -> split -> the events to draw from.
        task: "pick", "detect" or "classify".
        classes: of a classifier.
        resamples: of the bootstrap.
    """
    tables = tables | {ALL: joined(list(tables.values()))}
    events = events | {ALL: {split: [one for of in events.values() for one in of[split]] for split in SPLITS}}
    common = choose_thresholds(tables[ALL])
    odds = {wave: _odds(tables[ALL].get("dev_picks", pd.DataFrame()), wave) for wave in "PS"}
    temperature = _temperature(tables[ALL].get("dev_windows", pd.DataFrame())) if task == "pick" else NAN
    told: dict[str, Any] = {"residuals": {}, "reliability": {}, "confusion": {}}
    metrics, drawn, drawn_from = {}, pd.DataFrame(), ()
    for name, mine in tables.items():
        chosen = dataclasses.replace(choose_thresholds(mine, common), p=common.p, s=common.s)
        metrics[name] = _chosen(chosen, task)
        for split in SPLITS:
            mine, names = _with_units(mine, split, events[name][split], task)
            statistics = _statistics(mine, split, task, chosen, temperature, odds)
            numbers = replicate(statistics, len(names), resamples) if statistics else pd.DataFrame()
            metrics[name] |= {
                metric: interval(numbers[metric].to_numpy()) | {"count": one.count}
                for metric, one in statistics.items()
            }
            if (name, split) == (ALL, "test"):
                drawn, drawn_from = numbers, tuple(names)
        for key, what in _pictures(mine, task, chosen, temperature, classes).items():
            told[key][name] = what
    _fill(metrics)
    letters = {"P": common.p, "S": common.s, "det": common.det, "phase": common.phase}
    spread = {
        wave: _spread(tables[ALL].get("dev_picks", pd.DataFrame()), wave, threshold)
        for wave, threshold in (("P", common.p), ("S", common.s))
    }
    return Summary(
        {"thresholds": letters, "temperature": temperature, "odds": odds, "spread": spread} | told,
        _named(metrics, classes),
        drawn,
        drawn_from,
    )


def joined(parts: list[Tables]) -> Tables:
    """Returns the tables of several data sets as one."""
    out: Tables = {}
    for name in parts[0]:
        tables, first = [], 0
        for part in parts:
            table = part[name]
            if name.endswith("_picks"):
                table = table.assign(window=table["window"] + first) if len(table) else table
                first += len(part[name.replace("_picks", "_windows")])
            tables.append(table)
        filled = [table for table in tables if len(table)]
        out[name] = pd.concat(filled, ignore_index=True) if filled else tables[0]
    return out


def calibration_statistic(windows: pd.DataFrame, picks: pd.DataFrame, peak: np.ndarray) -> Sums:
    """Returns the expected calibration error of picks as sums over windows: for each bin picks, probabilities and right ones.

    Args:
        windows: with `unit`.
        picks: those that count (`counted`).
        peak: the probability of each.
    """
    which = np.clip(np.digitize(peak, np.linspace(0, 1, NUM_BINS + 1)[1:-1], right=True), 0, NUM_BINS - 1)
    terms = np.zeros((len(picks), 3, NUM_BINS))
    right = picks["late_0.5s"].notna().to_numpy(float)
    for k, column in enumerate((np.ones(len(picks)), peak, right)):
        terms[np.arange(len(picks)), k, which] = column
    unit = windows["unit"].to_numpy()[picks["window"].to_numpy(int)]
    return Sums(unit, terms.reshape(len(picks), 3 * NUM_BINS), _ece, len(picks))


def counted(picks: pd.DataFrame) -> pd.DataFrame:
    """Returns the picks that are right, and those at places whose label is known."""
    return picks[picks["late_0.5s"].notna() | picks["known"]] if len(picks) else picks


def _ece(sums: np.ndarray) -> np.ndarray:
    count, probability, right = np.moveaxis(sums.reshape(len(sums), 3, NUM_BINS), 1, 0)
    return np.abs(probability - right).sum(axis=1) / count.sum(axis=1)


def _temperature(windows: pd.DataFrame) -> float:
    columns = sorted((c for c in windows if c.startswith("loss_")), key=lambda c: int(c[5:]))
    return best_temperature(windows[columns].to_numpy()) if len(columns) else NAN


def _odds(picks: pd.DataFrame, wave: str) -> tuple[float, float]:
    """`fit_probability` of the picks of a wave on dev."""
    mine = counted(picks)
    mine = mine[mine["wave"] == wave] if len(mine) else mine
    if not len(mine):
        return NAN, NAN
    return fit_probability(mine[wave.lower()].to_numpy(), mine["late_0.5s"].notna().to_numpy())


def _calibrated(picks: pd.DataFrame, odds: dict[str, tuple[float, float]]) -> np.ndarray:
    """The probability of each pick that it is right."""
    p, s = (calibrated(picks[wave.lower()].to_numpy(), *odds[wave]) for wave in "PS")
    return np.where(picks["wave"] == "P", p, s)


def _spread(picks: pd.DataFrame, wave: str, threshold: float) -> float:
    """`spread_of_times` of the picks of a wave on dev, those that the threshold takes."""
    if not len(picks) or not np.isfinite(threshold):
        return NAN
    mine = picks[(picks["wave"] == wave) & (picks[wave.lower()] > threshold)]
    return spread_of_times(mine["late_0.5s"].to_numpy(float), mine["width_s"].to_numpy(float))


def _peaks(picks: pd.DataFrame, temperature: float | None = None) -> np.ndarray:
    """The probability of each pick's own wave, as it is or at a temperature."""
    probability = picks[list("psn")].to_numpy(float)
    probability = probability if temperature is None else cooled(probability, temperature)
    return np.where(picks["wave"] == "P", probability[:, 0], probability[:, 1])


def _with_units(tables: Tables, split: str, events: list[str], task: str) -> tuple[Tables, list[str]]:
    """The tables with the number of each row's event, and the events that there are to draw from."""
    mine = {name: table for name, table in tables.items() if name.startswith(split) and "event" in table}
    if task == "classify":  # its traces need no onsets
        events = sorted({event for table in mine.values() for event in table["event"]})
    number = {event: k for k, event in enumerate(events)}
    coded = {name: table.assign(unit=table["event"].map(number).to_numpy(int)) for name, table in mine.items()}
    return tables | coded, events


def _statistics(
    tables: Tables,
    split: str,
    task: str,
    thresholds: Thresholds,
    temperature: float,
    odds: dict[str, tuple[float, float]],
) -> dict[str, Statistic]:
    mine = statistics_of(tables, task, thresholds, (split,))
    windows, picks = (tables.get(f"{split}_{name}", pd.DataFrame()) for name in ("windows", "picks"))
    picks = counted(picks)
    if len(picks):
        mine[f"{split}_ece"] = calibration_statistic(windows, picks, _peaks(picks))
        if np.isfinite(temperature):
            mine[f"{split}_ece_cooled"] = calibration_statistic(windows, picks, _peaks(picks, temperature))
        if np.isfinite([*odds.values()]).all():
            mine[f"{split}_ece_calibrated"] = calibration_statistic(windows, picks, _calibrated(picks, odds))
    return mine


def _chosen(thresholds: Thresholds, task: str) -> dict[str, dict[str, float]]:
    names = {"det_threshold": thresholds.det} if task in ("pick", "detect") else {}
    if task == "pick":
        names |= {"phase_threshold": thresholds.phase, "phase_threshold_mcc": thresholds.phase_mcc}
    return {name: {"value": value, "low": NAN, "high": NAN, "count": 0} for name, value in names.items()}


def _pictures(tables: Tables, task: str, thresholds: Thresholds, temperature: float, classes) -> dict[str, Any]:
    """Histograms of residuals, tables of reliability and the confusion of classes, on test."""
    windows, picks = (tables.get(f"test_{name}", pd.DataFrame()) for name in ("windows", "picks"))
    if task == "classify":
        given, taken = (windows["group"], class_probabilities(windows).argmax(axis=1)) if len(windows) else ([], [])
        labels = range(len(classes))
        counts = confusion_matrix(given, taken, labels=labels) if len(windows) else np.zeros((len(classes),) * 2, int)
        return {"confusion": {"classes": list(classes), "counts": counts.tolist()}}
    if task != "pick":
        return {}
    histograms = {}
    for wave, threshold in (("P", thresholds.p), ("S", thresholds.s)):
        counts, _ = np.histogram(residuals(picks, wave, threshold), EDGES_S)
        histograms[wave] = {"edges": EDGES_S.tolist(), "counts": counts.tolist()}
    picks = counted(picks)
    right = picks["late_0.5s"].notna().to_numpy() if len(picks) else np.zeros(0, bool)
    stages = {"before": None} | ({"after": temperature} if np.isfinite(temperature) else {})
    told = {}
    for stage, cooling in stages.items():
        table = reliability(_peaks(picks, cooling) if len(picks) else np.zeros(0), right)
        told[stage] = table | {"ece": calibration_error(table)}
    return {"residuals": histograms, "reliability": told}


def _fill(metrics: dict[str, dict[str, dict[str, float]]]) -> None:
    """Gives every data set every metric that any has; NaN says that it has nothing for it."""
    names = dict.fromkeys(name for of in metrics.values() for name in of)
    for of in metrics.values():
        of |= {name: {"value": NAN, "low": NAN, "high": NAN, "count": 0} for name in names if name not in of}


def _named(metrics: dict[str, dict], classes: tuple[str, ...]) -> dict[str, dict]:
    """The metrics of classes under the names of these."""
    names = {f"{split}_auc_{k}": f"{split}_auc_{name}" for split in SPLITS for k, name in enumerate(classes)}
    return {dataset: {names.get(key, key): value for key, value in of.items()} for dataset, of in metrics.items()}
