"""All metrics of one network: of each data set, and of all together."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from raysys.evaluate.calibration import NUM_BINS, Reliability, fit_temperature
from raysys.evaluate.classes import class_metrics, confusion
from raysys.evaluate.intervals import Estimate, estimates
from raysys.evaluate.readings import Readings
from raysys.evaluate.scores import benchmark_metrics, event_auc, pick_threshold, whole_metrics
from raysys.evaluate.tasks import SPLITS

ALL = "all"
NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a network says of one data set, or of several.

    Attributes:
        tables: "dev_task1" and the like -> targets with predictions.
        table_events: of the same keys, the event of each row.
        readings: split -> readings of whole windows.
        reading_events: split -> the event of each window.
    """

    tables: dict[str, pd.DataFrame]
    table_events: dict[str, np.ndarray]
    readings: dict[str, Readings]
    reading_events: dict[str, np.ndarray]

    @classmethod
    def of(cls, tables: dict[str, pd.DataFrame], readings: dict[str, Readings], event: np.ndarray):
        """Returns the predictions of a data set, given the event of every row of its table."""
        table_events = {key: event[table["row"].to_numpy(np.int64)] for key, table in tables.items()}
        return cls(tables, table_events, readings, {split: event[one.row] for split, one in readings.items()})

    @classmethod
    def joined(cls, parts: list["Predictions"]):
        """Returns those of several data sets as one; an event of one is none of another."""
        apart = 1 + max((int(e.max(initial=0)) for part in parts for e in part._all_events()), default=0)
        tables = {key: pd.concat([part.tables[key] for part in parts], ignore_index=True) for key in parts[0].tables}
        readings = {split: Readings.joined([part.readings[split] for part in parts]) for split in parts[0].readings}

        def shifted(name: str) -> dict[str, np.ndarray]:
            of = [getattr(part, name) for part in parts]
            return {key: np.concatenate([one[key] + k * apart for k, one in enumerate(of)]) for key in of[0]}

        return cls(tables, shifted("table_events"), readings, shifted("reading_events"))

    def _all_events(self) -> list[np.ndarray]:
        return [*self.table_events.values(), *self.reading_events.values()]


@dataclass(frozen=True, slots=True)
class Summary:
    """The scores of one network.

    Attributes:
        told: what goes into evaluation.json: thresholds, temperature, residuals, reliability, confusion.
        metrics: data set, or `ALL` -> metric -> estimate.
    """

    told: dict[str, Any]
    metrics: dict[str, dict[str, Estimate]]


def summarize(task: str, classes: tuple[str, ...], of: dict[str, Predictions], resamples: int) -> Summary:
    """Returns the scores of a network.

    The thresholds of P and S and the temperature are those of dev of all data sets together, as somebody sets them who
    runs one network everywhere. The benchmark's thresholds are, as there, those of each data set, and of all together.

    Args:
        task: "pick", "detect" or "classify".
        classes: of a classifier.
        of: data set -> predictions.
        resamples: of the bootstrap.
    """
    of = of | {ALL: Predictions.joined(list(of.values()))}
    dev = of[ALL].readings["dev"]
    told: dict[str, Any] = {"thresholds": {}, "temperature": NAN, "residuals": {}, "reliability": {}}
    if task == "pick":
        told["thresholds"] = {wave: pick_threshold(dev, k) for k, wave in enumerate("PS")}
        told["temperature"] = fit_temperature(dev)
    metrics: dict[str, dict[str, Estimate]] = {}
    for name, one in of.items():
        metrics[name] = {}
        if task != "classify":
            metrics[name] |= benchmark_metrics(one.tables, one.table_events, resamples, phases=task == "pick")
        for split in SPLITS:
            metrics[name] |= _of_windows(task, classes, split, name, one, told, resamples)
    if task != "classify":
        told["thresholds"]["det"] = metrics[ALL]["det_threshold"].value
    if task == "pick":
        told["thresholds"]["phase"] = metrics[ALL]["phase_threshold"].value
    return Summary(told, metrics)


def _of_windows(task, classes, split: str, name: str, one: Predictions, told, resamples: int) -> dict[str, Estimate]:
    """Metrics of whole windows; adds to what is told of them, for test."""
    readings, events = one.readings[split], one.reading_events[split]
    if task == "classify":
        if split == "test":
            told.setdefault("confusion", {})[name] = confusion(readings, classes)
        return estimates(class_metrics(split, readings, classes), events, resamples)
    if task == "detect":
        return estimates({f"{split}_event_auc": event_auc(readings)}, events, resamples)
    whole = whole_metrics(split, readings, told["thresholds"], told["temperature"])
    if split == "test":
        told["residuals"][name] = whole.residuals
        told["reliability"][name] = _told(whole.reliability)
    return estimates(whole.metrics, events, resamples)


def _told(reliability: dict[str, Reliability]) -> dict[str, Any]:
    edges = np.linspace(0, 1, NUM_BINS + 1).round(4).tolist()
    return {"edges": edges} | {name: one.to_dict() for name, one in reliability.items()}
