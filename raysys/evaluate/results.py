"""The result of an evaluation as evaluation.json, as a long table, and as a matrix of networks and data sets."""

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd

from raysys.config import DataConfig, RunConfig
from raysys.evaluate.intervals import interval
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
    origins: dict[str, dict[str, Any]], summaries: dict[str, Summary], materials: list[Material], data: dict[str, Any]
) -> dict[str, Any]:
    """Returns everything as plain values, with None in place of NaN.

    "models" has for each network where it comes from (`origin_of`), "thresholds", "temperature", "metrics" by data set and
    "all" (value, low, high, count), and of the picks of test by data set "residuals" (histograms) and "reliability" ("before"
    and "after" the temperature). "differences" are those of two networks, a - b, in the metrics of all test data together.

    Args:
        origins: of each network.
        summaries: of each network.
        materials: of the data sets.
        data: what else decides the numbers.
    """
    datasets = {one.name: one.sizes() | {"fingerprint": one.fingerprint} for one in materials}
    models = {name: origins[name] | one.told | {"metrics": one.metrics} for name, one in summaries.items()}
    apart = [one for a, b in itertools.combinations(summaries, 2) for one in _differences(a, b, summaries)]
    told = {"format": FORMAT, "data": data | {"datasets": datasets}, "models": models, "differences": apart}
    return _without_nan(told)


def origin_of(loaded, task: str) -> dict[str, Any]:
    """Returns where a network comes from, and what it has learnt from: source, checkpoint, task, init, label_fraction and so on.

    Args:
        loaded: `raysys.networks.Loaded`.
        task: that it does.
    """
    told = {"source": loaded.source, "checkpoint": loaded.checkpoint, "task": task}
    config: RunConfig | None = loaded.config
    if config is None:
        weights = loaded.source.partition(":")[2]
        return told | {"init": None, "label_fraction": None, "seed": None, "trained_on": [weights] if weights else []}
    return told | {
        **{"init": config.finetune.init, "label_fraction": config.finetune.label_fraction, "seed": config.train.seed},
        "trained_on": _trained_on(loaded.checkpoint) or list(config.data.datasets),
    }


def common_data(data: DataConfig, loaded: list) -> DataConfig:
    """Returns the data with the split seed of the runs: with another one, test would hold traces they have learnt from.

    Raises:
        ValueError: runs with several split seeds.
    """
    seeds = {one.config.data.split_seed: one.source for one in loaded if one.config}
    if len(seeds) > 1:
        told = ", ".join(f"{seed} in {source}" for seed, source in seeds.items())
        raise ValueError(f"the runs split the data in different ways, data.split_seed is {told}: evaluate them apart")
    return DataConfig(root=data.root, datasets=data.datasets, cache=data.cache, split_seed=next(iter(seeds), 0))


def long_table(result: dict[str, Any]) -> pd.DataFrame:
    """Returns one row a network, data set and metric."""
    rows = [
        {"model": model, "trained_on": " ".join(told["trained_on"]), "dataset": dataset, "metric": metric} | number
        for model, told in result["models"].items()
        for dataset, metrics in told["metrics"].items()
        for metric, number in metrics.items()
    ]
    return pd.DataFrame(rows)


def matrix(result: dict[str, Any], metric: str) -> pd.DataFrame:
    """Returns a metric of every network (rows, with what it was trained on) on every data set (columns), "all" last."""
    values = {
        model: {name: metrics.get(metric, {}).get("value") for name, metrics in told["metrics"].items()}
        for model, told in result["models"].items()
    }
    table = pd.DataFrame.from_dict(values, orient="index").astype(float)
    table.insert(0, "trained on", [" ".join(result["models"][name]["trained_on"]) for name in table.index])
    return table


def headline(result: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """Returns of each network the metrics that are told first: those of test, of all data sets together."""
    return {
        name: {key: told["metrics"][ALL][key]["value"] for key in _HEADLINE if key in told["metrics"][ALL]}
        for name, told in result["models"].items()
    }


def _differences(a: str, b: str, summaries: dict[str, Summary]) -> list[dict[str, Any]]:
    """The same events were drawn for both, so that the rows of both belong together."""
    first, second = summaries[a].drawn, summaries[b].drawn
    if len(first) != len(second):
        return []
    return [
        {"a": a, "b": b, "metric": metric} | interval((first[metric] - second[metric]).to_numpy())
        for metric in first
        if metric in second
    ]


def _trained_on(checkpoint: str) -> list[str]:
    """The data sets that the record of a run names, as "all" may have meant others then; empty without a record."""
    if not checkpoint:
        return []
    folder = Location(checkpoint)
    for file in (folder / "record.json", folder.parent / "record.json"):
        if file.exists():
            labels = (file.read_json().get("data") or {}).get("labels") or {}
            return list(labels.get("by_dataset") or ())
    return []


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _without_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
