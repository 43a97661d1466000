"""What a sweep leaves behind: trials.csv, history.csv and best.json."""

import json
import logging
import math
from typing import Any

import fsspec
import pandas as pd
from ray.tune import Result, ResultGrid

from raysys.config import RunConfig

log = logging.getLogger(__name__)
_SCALARS = ("train/", "val/", "probe/", "codebook/", "perf/")


def write_results(directory: str, config: RunConfig, grid: ResultGrid, budget_windows: int) -> dict[str, Any]:
    """Returns the best trial, after writing trials.csv, history.csv and best.json into the sweep's folder.

    The best is the one with the largest objective among the healthy trials that went furthest.

    Raises:
        RuntimeError: no trial finished in good health; trials.csv names the reasons.
    """
    fs, path = fsspec.core.url_to_fs(directory)
    results = sorted(grid, key=_name)  # a restored sweep lists its trials in another order
    trials = pd.DataFrame([_trial_row(result, budget_windows) for result in results])
    with fs.open(f"{path}/trials.csv", "w") as stream:
        trials.to_csv(stream, index=False)
    with fs.open(f"{path}/history.csv", "w") as stream:
        pd.concat([_history(result) for result in results]).to_csv(stream, index=False)
    healthy = trials[trials["healthy"] & (trials["status"] != "ERROR")]
    if healthy.empty:
        raise RuntimeError(f"{directory}: no trial finished in good health; trials.csv names the reasons")
    furthest = healthy[healthy["windows"] == healthy["windows"].max()]
    winner = furthest.loc[furthest["objective"].idxmax()]
    result = next(r for r in results if _name(r) == winner["trial"])
    best = {
        "trial": winner["trial"],
        "objective": config.search.objective,
        "value": float(winner["objective"]),
        "tuned": result.config,
        "checkpoint": _checkpoint(result),
        "config": config.override(result.config).override({"name": f"{config.name}-best"}).to_dict(),
    }
    with fs.open(f"{path}/best.json", "w") as stream:
        json.dump(best, stream, indent=1)
    log.info("sweep %s: best %s %.4f with %s", config.name, config.search.objective, best["value"], best["tuned"])
    return best


def _trial_row(result: Result, budget_windows: int) -> dict[str, Any]:
    metrics = result.metrics or {}
    windows = int(metrics.get("windows", 0))
    status = "ERROR" if result.error else "STOPPED_EARLY" if windows < budget_windows else "TERMINATED"
    reason = str(result.error).strip().split("\n")[-1] if result.error else metrics.get("reason", "")
    return {
        "trial": _name(result),
        "status": status,
        "reason": reason,
        "windows": windows,
        "budget_windows": budget_windows,
        "seconds": metrics.get("time_total_s", math.nan),
        "objective": metrics.get("objective", math.nan),
        "healthy": bool(metrics.get("healthy", False)),
        **(result.config or {}),
        **{name: value for name, value in metrics.items() if name.startswith(_SCALARS)},
    }


def _history(result: Result) -> pd.DataFrame:
    frame = result.metrics_dataframe
    if frame is None or frame.empty:
        return pd.DataFrame()
    columns = [c for c in frame.columns if c.startswith(_SCALARS) or c in ("step", "windows", "objective", "healthy")]
    out = frame[columns].copy()
    out.insert(0, "trial", _name(result))
    out["seconds"] = frame["time_total_s"]
    return out


def _name(result: Result) -> str:
    return (result.metrics or {}).get("trial_id") or result.path.rstrip("/").split("/")[-1]


def _checkpoint(result: Result) -> str | None:
    if result.checkpoint is not None:
        return result.checkpoint.path
    return (result.metrics or {}).get("checkpoint_path")
