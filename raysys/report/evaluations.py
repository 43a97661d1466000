"""Evaluations: models on the same test data, read into tables, and what the tables say."""

import io
import math
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from raysys.location import Location

EVALUATION_FILE = "evaluation.json"
ALL = "all"
"""Stands for all data sets together."""
WAVES = ("P", "S")
HITS = tuple(f"test_{wave}_hit_{tolerance}s" for wave in WAVES for tolerance in ("0.1", "0.5"))
MAIN = "test_P_hit_0.5s"
"""By which models are put in order where there is room for a few."""
HEADLINES = {
    "test_P_hit_0.1s": "P within 0.1 s",
    "test_P_hit_0.5s": "P within 0.5 s",
    "test_S_hit_0.1s": "S within 0.1 s",
    "test_S_hit_0.5s": "S within 0.5 s",
    "test_P_f1_0.5s": "P F1 at 0.5 s",
    "test_S_f1_0.5s": "S F1 at 0.5 s",
    "test_event_auc": "event AUC",
    "test_phase_mcc": "phase MCC",
    "test_P_residual_mae_s": "P MAE (s)",
    "test_S_residual_mae_s": "S MAE (s)",
    "test_det_auc": "detection AUC",
    "test_det_f1": "detection F1",
    "test_accuracy": "accuracy",
    "test_mean_recall": "mean recall",
}
"""Metric -> its heading, in the order of tables."""
OF_TASK = {
    "pick": tuple(HEADLINES)[:10],
    "detect": ("test_event_auc", "test_det_auc", "test_det_f1"),
    "classify": ("test_accuracy", "test_mean_recall"),
}
"""Task -> the metrics that its models are compared by."""
_SCORES = ("model", "dataset", "metric", "value", "low", "high", "count")
_DIFFERENCES = ("a", "b", "dataset", "metric", "value", "low", "high")


@dataclass(frozen=True, kw_only=True, slots=True)
class Examples:
    """n windows of T samples that every model has read, the data sets in turn.

    Attributes:
        waveform: (n, 3, T) Z, N, E in any unit.
        num_valid: (n,) samples before the padding.
        p: (n, K) P onsets in samples of the window, NaN behind them.
        s: (n, K) S onsets.
        dataset: (n,) names.
        trace: (n,) names.
        probability: model -> (n, 3, T) of P, S and noise.
    """

    waveform: np.ndarray
    num_valid: np.ndarray
    p: np.ndarray
    s: np.ndarray
    dataset: np.ndarray
    trace: np.ndarray
    probability: dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Models on the same test data.

    Attributes:
        path: its folder or URL.
        data: what they were tested on.
        models: name -> what is told of it in evaluation.json, but for its metrics.
        scores: one row a number: model, dataset ("all": together), metric, value, low, high, count.
        differences: one row a pair and metric: a, b, dataset, metric, value (a - b), low, high.
        examples: None where there are none.
        notes: what could not be read.
    """

    path: Location
    data: dict[str, Any]
    models: dict[str, dict[str, Any]]
    scores: pd.DataFrame
    differences: pd.DataFrame
    examples: Examples | None
    notes: tuple[str, ...]

    def task_of(self, model: str) -> str:
        """Returns what a model was made for."""
        return self.models[model].get("task") or "pick"

    def named(self, task: str) -> list[str]:
        """Returns the models of a task."""
        return [name for name in self.models if self.task_of(name) == task]

    def kind(self, model: str) -> tuple[str, float]:
        """Returns what a model began with and its share of the labels, NaN for one that was not fine-tuned here.

        Models of one kind differ by their seed.
        """
        told = self.models[model]
        fraction = told.get("label_fraction")
        return init_name(told) or model, math.nan if fraction is None else float(fraction)

    def of(self, metric: str, dataset: str = ALL) -> pd.DataFrame:
        """Returns value, low, high and count of the models that have a metric on a data set; larger values are not always better."""
        rows = self.scores[(self.scores["metric"] == metric) & (self.scores["dataset"] == dataset)]
        return rows.dropna(subset=["value"]).set_index("model")[["value", "low", "high", "count"]]

    def datasets(self) -> list[str]:
        """Returns the data sets that were tested on, without `ALL`."""
        return [name for name in self.scores["dataset"].unique() if name != ALL]

    def foremost(self, count: int) -> list[str]:
        """Returns the pickers to show where there is room for a few: the best of every start first, then the best of every kind."""
        values = self.of(MAIN)["value"] if len(self.scores) else pd.Series(dtype=float)
        order = sorted(self.named("pick"), key=lambda name: -values.get(name, -math.inf))
        starts, kinds = {}, {}
        for name in order:
            init, fraction = self.kind(name)
            starts.setdefault(init, name)
            kinds.setdefault((init, str(fraction)), name)
        chosen = list(dict.fromkeys([*starts.values(), *kinds.values(), *order]))[:count]
        return [name for name in order if name in chosen]

    def starts(self) -> list[str]:
        """Returns what the pickers began with, that of the best picker first."""
        return list(dict.fromkeys(self.kind(name)[0] for name in self.foremost(len(self.models))))


def evaluation_of(path: Location, content: dict[str, Any], notes: list[str]) -> Evaluation:
    """Returns the evaluation in a folder.

    Args:
        path: of the folder.
        content: of its evaluation.json; may be empty.
        notes: what could not be read; more is added.
    """
    models = content.get("models") if isinstance(content, dict) else None
    if not isinstance(models, dict):
        notes.append(f"{EVALUATION_FILE} names no models")
        content, models = {}, {}
    return Evaluation(
        path=path,
        data=content.get("data") or {},
        models={name: {k: v for k, v in told.items() if k != "metrics"} for name, told in models.items()},
        scores=_scores(models),
        differences=_numbers(pd.DataFrame(content.get("differences") or [], columns=list(_DIFFERENCES))),
        examples=_examples(path / "examples.npz", tuple(models), notes),
        notes=tuple(notes),
    )


def _scores(models: dict[str, dict[str, Any]]) -> pd.DataFrame:
    rows = [
        {"model": model, "dataset": dataset, "metric": metric, **estimate}
        for model, told in models.items()
        for dataset, metrics in (told.get("metrics") or {}).items()
        for metric, estimate in metrics.items()
    ]
    return _numbers(pd.DataFrame(rows, columns=list(_SCORES)))


def _numbers(frame: pd.DataFrame) -> pd.DataFrame:
    for name in ("value", "low", "high", "count"):
        if name in frame:
            frame[name] = pd.to_numeric(frame[name], errors="coerce").astype(float)
    return frame


def _examples(file: Location, models: tuple[str, ...], notes: list[str]) -> Examples | None:
    if not file.exists():
        notes.append(f"{file.name} is missing")
        return None
    try:
        with np.load(io.BytesIO(file.read()), allow_pickle=False) as content:
            names = ("waveform", "num_valid", "p", "s", "dataset", "trace")
            probability = {m: content[f"probability/{m}"] for m in models if f"probability/{m}" in content.files}
            order = _in_turn(content["dataset"])
            probability = {model: curves[order] for model, curves in probability.items()}
            return Examples(**{name: content[name][order] for name in names}, probability=probability)
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        notes.append(f"{file.name} is damaged ({error})")
        return None


def _in_turn(dataset: np.ndarray) -> np.ndarray:
    """The order in which windows of every data set come before a second of any."""
    return np.argsort(pd.Series(dataset).groupby(dataset).cumcount().to_numpy(), kind="stable")


def init_name(told: dict[str, Any]) -> str:
    """Returns what a model began with, short: "scratch", a network's name, or the name of a run; empty where it is not known."""
    return str(told.get("init") or "").rstrip("/").split("/")[-1]
