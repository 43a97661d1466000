"""Folders and URLs of runs, sweeps, evaluations and picks, read into memory. What is missing or damaged becomes a note, never a crash."""

import io
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from raysys.location import Location
from raysys.report.evaluations import EVALUATION_FILE, Evaluation, evaluation_of
from raysys.report.picked import PICKED_FILE, Picked, read_picked
from raysys.train.storage import best_checkpoint, whole_checkpoints
from raysys.tune.ranking import REPEAT_OF

logging.getLogger("tensorboard").setLevel(logging.WARNING)  # it announces the end of every file

RUN_FILES = ("metrics.jsonl", "record.json")
SWEEP_FILES = ("trials.csv", "history.csv", "best.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A run of pretraining or fine-tuning.

    Attributes:
        path: its folder or URL.
        config: the resolved configuration, nested as in config.json.
        record: what it ran on (`raysys.record`).
        metrics: one column a metric, indexed by optimiser step; NaN where a step has no value.
        usage: step -> frames of the validation set that took each code, (G, V).
        checkpoint: of those that are whole the newest, after fine-tuning the one with the best score; None where there is none.
        notes: what could not be read.
    """

    path: Location
    config: dict[str, Any]
    record: dict[str, Any]
    metrics: pd.DataFrame
    usage: dict[int, np.ndarray]
    checkpoint: Location | None
    notes: tuple[str, ...]

    @property
    def task(self) -> str:
        """What was learnt: "pretrain", "pick", "detect" or "classify"."""
        return self.config.get("task", "pretrain")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """A hyperparameter search.

    Attributes:
        path: its folder or URL.
        config: the base configuration, nested, with its "search" part.
        record: what it ran on.
        trials: one row a trial, with its outcome, tuned values and last metrics.
        repeats: the same of the trials that repeat the best with other seeds; may be empty.
        history: one row a report of a trial.
        best: content of best.json; may be empty.
        notes: what could not be read.
    """

    path: Location
    config: dict[str, Any]
    record: dict[str, Any]
    trials: pd.DataFrame
    repeats: pd.DataFrame
    history: pd.DataFrame
    best: dict[str, Any]
    notes: tuple[str, ...]

    @property
    def task(self) -> str:
        """What the trials learnt: "pretrain", "pick", "detect" or "classify"."""
        return self.config.get("task", "pretrain")


def read_folder(directory: str | Path | Location) -> Run | Sweep | Evaluation | Picked:
    """Returns what a folder or URL holds.

    Raises:
        ValueError: the folder does not exist or is no run, sweep, evaluation or picks; the message names the files looked for.
    """
    path = Location(directory).refresh()
    if not path.is_dir():
        raise ValueError(f"{directory} is no folder: give the folder or URL of a run, a sweep, an evaluation or picks")
    if (path / EVALUATION_FILE).exists():
        notes: list[str] = []
        return evaluation_of(path, _json(path / EVALUATION_FILE, {}, notes), notes)
    if any((path / name).exists() for name in SWEEP_FILES):
        return _read_sweep(path)
    if (path / PICKED_FILE).exists():
        return read_picked(path)
    if (path / "state.json").exists():
        raise ValueError(f"{directory} is a checkpoint: give the folder of its run, {path.parent}")
    if any((path / name).exists() for name in RUN_FILES):
        return _read_run(path)
    raise ValueError(
        f"{directory} is neither a run (looked for {' and '.join(RUN_FILES)}) nor a sweep (looked for "
        f"{', '.join(SWEEP_FILES)}) nor an evaluation (looked for {EVALUATION_FILE}) nor picks (looked for {PICKED_FILE}): give the "
        "folder that jobs.pretrain, jobs.finetune, jobs.sweep, jobs.evaluate or jobs.pick wrote"
    )


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns dotted key -> value of a nested dictionary; an empty dictionary is a value."""
    out = {}
    for key, value in tree.items():
        out |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {prefix + key: value}
    return out


def _read_run(path: Location) -> Run:
    notes: list[str] = []
    config = _json(path / "config.json", {}, notes)
    return Run(
        path=path,
        config=config,
        record=_json(path / "record.json", {}, notes),
        metrics=_metrics(path / "metrics.jsonl", notes),
        usage=_usage(path / "tensorboard"),
        checkpoint=_checkpoint(path, config, notes),
        notes=tuple(notes),
    )


def _checkpoint(path: Location, config: dict[str, Any], notes: list[str]) -> Location | None:
    try:
        if config.get("task", "pretrain") != "pretrain":
            return best_checkpoint(path)
    except ValueError as error:
        notes.append(f"the state.json of a checkpoint is damaged ({error})")
    return max(whole_checkpoints(path), key=lambda folder: folder.name, default=None)


def _read_sweep(path: Location) -> Sweep:
    notes: list[str] = []
    trials = _csv(path / "trials.csv", notes)
    for name in ("objective", "windows", "budget_windows", "seconds", "cpus", "gpus", "failures"):
        trials[name] = pd.to_numeric(trials[name], errors="coerce") if name in trials else np.nan
    for name in ("trial", "status", "reason", REPEAT_OF):
        trials[name] = trials[name].fillna("").astype(str) if name in trials else ""
    trials["healthy"] = (
        trials["healthy"].astype(str).str.lower().isin(("true", "1", "1.0")) if "healthy" in trials else True
    )
    trials = trials.replace([np.inf, -np.inf], np.nan)
    history = _csv(path / "history.csv", notes)
    return Sweep(
        path=path,
        config=_json(path / "config.json", {}, notes),
        record=_json(path / "record.json", {}, notes, needed=False),
        trials=trials[trials[REPEAT_OF] == ""].reset_index(drop=True),
        repeats=trials[trials[REPEAT_OF] != ""].reset_index(drop=True),
        history=history.replace([np.inf, -np.inf], np.nan),
        best=_json(path / "best.json", {}, notes),
        notes=tuple(notes),
    )


def _json(path: Location, default: Any, notes: list[str], needed: bool = True) -> Any:
    if not path.exists():
        if needed:
            notes.append(f"{path.name} is missing")
        return default
    try:
        return path.read_json()
    except ValueError as error:
        notes.append(f"{path.name} is damaged ({error})")
        return default


def _csv(path: Location, notes: list[str]) -> pd.DataFrame:
    if not path.exists():
        notes.append(f"{path.name} is missing")
        return pd.DataFrame()
    try:
        return pd.read_csv(io.BytesIO(path.read()), dtype={"trial": str})
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        notes.append(f"{path.name} is damaged ({error})")
        return pd.DataFrame()


def _metrics(path: Location, notes: list[str]) -> pd.DataFrame:
    """One row a step. A resumed run writes some steps again: the later line counts."""
    if not path.exists():
        notes.append("metrics.jsonl is missing")
        return pd.DataFrame()
    rows, damaged = [], 0
    for line in path.read().decode(errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            damaged += 1
            continue
        if isinstance(row, dict) and "step" in row:
            rows.append(row)
    if damaged:
        notes.append(f"{damaged} damaged line{'s' * (damaged > 1)} of metrics.jsonl left out")
    if not rows:
        return pd.DataFrame()
    frame = pd.DataFrame(rows).apply(pd.to_numeric, errors="coerce").replace([np.inf, -np.inf], np.nan)
    return frame.groupby("step").last()


def _usage(folder: Location) -> dict[int, np.ndarray]:
    """Code counts (G V,) by step out of the TensorBoard events; empty where there are none."""
    if not folder.is_dir():
        return {}
    with folder.on_disk() as path:
        events = EventAccumulator(str(path), size_guidance={"histograms": 0, "scalars": 1, "tensors": 1})
        events.Reload()
    if "codebook/usage" not in events.Tags()["histograms"]:
        return {}
    return {event.step: np.array(event.histogram_value.bucket) for event in events.Histograms("codebook/usage")}
