"""The result of an evaluation as evaluation.json, as a long table, and as a matrix of networks and data sets."""

import itertools
import math
from dataclasses import asdict, is_dataclass
from typing import Any

import numpy as np
import pandas as pd

from raysys.config import DataConfig
from raysys.evaluate.intervals import LEVEL, difference
from raysys.evaluate.material import Material
from raysys.evaluate.summary import ALL, Summary
from raysys.location import Location

FORMAT = 1
_HEADLINE = (
    *("test_P_hit_0.1s", "test_P_hit_0.5s", "test_S_hit_0.1s", "test_S_hit_0.5s", "test_P_f1_0.5s", "test_S_f1_0.5s"),
    *("test_event_auc", "test_det_auc", "test_phase_mcc", "test_P_mae_s", "test_S_mae_s"),
    *("test_accuracy", "test_mean_recall"),
)


def evaluation_json(
    entries: list, summaries: dict[str, Summary], materials: list[Material], data: DataConfig, targets, resamples: int
) -> dict[str, Any]:
    """Returns everything as plain values, with None in place of NaN.

    "models" has for each network what it is, "thresholds", "temperature", "metrics" by data set and "all" (value, low, high,
    count), "residuals" (histograms of test by data set), and "reliability" (of the picks of test by data set: "edges" and,
    "before" and "after" the temperature, "count", "confidence" and "right" of each bin). "differences" are those of a
    and b in metrics of all test data together, a - b, with the interval of the paired draws.
    """
    told = {
        **{"root": str(data.root), "targets": targets, "resamples": resamples, "level": LEVEL},
        "datasets": {one.name: _about(one) for one in materials},
    }
    models = {}
    for entry in entries:
        summary = summaries[entry.name]
        metrics = {
            name: {key: _plain(estimate) for key, estimate in of.items()} for name, of in summary.metrics.items()
        }
        models[entry.name] = _origin(entry) | summary.told | {"metrics": metrics}
    differences = []
    for a, b in itertools.combinations(summaries, 2):
        first, second = (summaries[name].metrics[ALL] for name in (a, b))
        for metric in first:
            if metric.startswith("test_") and metric in second:
                apart = _plain(difference(first[metric], second[metric]))
                differences.append({"a": a, "b": b, "metric": metric} | {k: apart[k] for k in ("value", "low", "high")})
    return _without_nan({"format": FORMAT, "data": told, "models": models, "differences": differences})


def long_table(result: dict[str, Any]) -> pd.DataFrame:
    """Returns one row a network, data set and metric."""
    rows = [
        {"model": model, "trained_on": " ".join(told["trained_on"]), "dataset": dataset, "metric": metric} | estimate
        for model, told in result["models"].items()
        for dataset, metrics in told["metrics"].items()
        for metric, estimate in metrics.items()
    ]
    return pd.DataFrame(rows)


def matrix(result: dict[str, Any], metric: str) -> pd.DataFrame:
    """Returns a metric of every network (rows) on every data set (columns), "all" last."""
    values = {
        model: {name: metrics.get(metric, {}).get("value") for name, metrics in told["metrics"].items()}
        for model, told in result["models"].items()
    }
    return pd.DataFrame.from_dict(values, orient="index").astype(float)


def matrix_text(result: dict[str, Any], metric: str) -> str:
    """Returns the matrix to be read, each network with what it was trained on."""
    table = matrix(result, metric)
    table.insert(0, "trained on", [" ".join(result["models"][name]["trained_on"]) for name in table.index])
    return table.to_string(float_format=lambda value: f"{value:.3f}")


def headline(result: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """Returns the metrics of each network that are told first: those of test, of all data sets together."""
    return {
        name: {key: told["metrics"][ALL][key]["value"] for key in _HEADLINE if key in told["metrics"][ALL]}
        for name, told in result["models"].items()
    }


def _about(material: Material) -> dict[str, Any]:
    splits = material.table["split"].to_numpy(zero_copy_only=False)
    return {
        **{"dev": int((splits == "dev").sum()), "test": int((splits == "test").sum())},
        **{
            "targets": {key: len(frame) for key, frame in material.targets.items()},
            "fingerprint": material.fingerprint,
        },
    }


def _origin(entry) -> dict[str, Any]:
    """Where a network comes from, and what it has learnt from."""
    config, loaded = entry.config, entry.loaded
    told = {"source": loaded.source, "checkpoint": loaded.checkpoint, "task": entry.task}
    if config is None:
        weights = loaded.source.partition(":")[2]
        return told | {"init": None, "label_fraction": None, "seed": None, "trained_on": [weights] if weights else []}
    return told | {
        **{"init": config.finetune.init, "label_fraction": config.finetune.label_fraction, "seed": config.train.seed},
        "trained_on": _trained_on(loaded) or list(config.data.datasets),
    }


def _trained_on(loaded) -> list[str]:
    """The data sets that the record of a run names, as "all" may have meant others then; empty without a record."""
    if not loaded.checkpoint:
        return []
    folder = Location(loaded.checkpoint)
    for file in (folder / "record.json", folder.parent / "record.json"):
        if file.exists():
            data = file.read_json().get("data") or {}
            if labels := (data.get("labels") or {}).get("by_dataset"):
                return list(labels)
    return []


def _plain(estimate) -> dict[str, Any]:
    return {name: getattr(estimate, name) for name in ("value", "low", "high", "count")}


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _without_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    if is_dataclass(value):
        return _without_nan(asdict(value))
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
