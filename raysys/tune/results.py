"""What a sweep leaves behind: trials.csv, history.csv and best.json."""

import logging
import math
from typing import Any

import pandas as pd
from ray.tune import Result, ResultGrid

from raysys.config import RunConfig
from raysys.location import Location
from raysys.tune.outcome import nested_checkpoint, reason_of
from raysys.tune.ranking import REPEAT_OF, ranked, with_means

log = logging.getLogger(__name__)
_SCALARS = ("train/", "val/", "probe/", "codebook/", "dev/", "perf/")


def write_results(
    sweep: Location, config: RunConfig, grids: list[ResultGrid], budget_windows: int, resources: dict[str, float]
) -> dict[str, Any]:
    """Returns the best trial, after writing trials.csv, history.csv and best.json into the sweep's folder.

    The best is the one with the largest objective among the healthy trials that went furthest; where the best were run
    again with other seeds, the one with the largest mean over these.

    Args:
        sweep: its folder or URL.
        config: that the sweep was started with, before `trial_config`: who trains the best one wants its own workers and reader.
        grids: of the search and, where there are any, of the repeated trials.
        budget_windows: windows of a trial in full.
        resources: CPUs and GPUs that a trial holds.

    Raises:
        RuntimeError: no trial finished in good health; trials.csv names the reasons.
    """
    trials = pd.concat([trial_rows(grid, budget_windows, resources) for grid in grids], ignore_index=True)
    if len(grids) > 1:
        trials = with_means(trials)
    (sweep / "trials.csv").write(trials.to_csv(index=False))
    history = pd.concat([_history(result) for grid in grids for result in _sorted(grid)])
    (sweep / "history.csv").write(history.to_csv(index=False))
    best = _best(sweep, config, grids, trials)
    (sweep / "best.json").write_json(best)
    log.info("sweep %s: best %s %.4f with %s", config.name, config.search.objective, best["value"], best["tuned"])
    log.info("next: python -m jobs.report %s", sweep)
    return best


def trial_rows(grid: ResultGrid, budget_windows: int, resources: dict[str, float]) -> pd.DataFrame:
    """Returns one row a trial: outcome, reason, what it used, tuned values and last metrics; in the order of the trials."""
    return pd.DataFrame([_trial_row(result, budget_windows, resources) for result in _sorted(grid)])


def tuned_values(grid: ResultGrid) -> list[dict[str, Any]]:
    """Returns trial, tuned (dotted key -> value) and the trial that it repeats ("": none), of every trial."""
    return [{"trial": _name(r), "tuned": _tuned(r), REPEAT_OF: _repeat_of(r)} for r in _sorted(grid)]


def _best(sweep: Location, config: RunConfig, grids: list[ResultGrid], trials: pd.DataFrame) -> dict[str, Any]:
    """What best.json holds."""
    order = ranked(trials[trials[REPEAT_OF] == ""])
    if order.empty:
        raise RuntimeError(f"{sweep}: no trial finished in good health; trials.csv names the reasons")
    top, more = order.iloc[0], {}
    if "mean" in top and not math.isnan(top["mean"]):
        spread = None if math.isnan(top["spread"]) else float(top["spread"])
        more = {"value": float(top["mean"]), "spread": spread, "seeds": int(top["seeds"])}
    result = next(one for one in grids[0] if _name(one) == top["trial"])
    tuned = _tuned(result)
    return {
        "trial": top["trial"],
        "objective": config.search.objective,
        "value": float(top["objective"]),
        **more,
        "tuned": tuned,
        "checkpoint": _checkpoint(sweep, result),
        "config": config.override(tuned).override({"name": f"{config.name}-best"}).to_dict(),
    }


def _trial_row(result: Result, budget_windows: int, resources: dict[str, float]) -> dict[str, Any]:
    metrics = result.metrics or {}
    windows = int(metrics.get("windows", 0))
    status = "ERROR" if result.error else "STOPPED_EARLY" if windows < budget_windows else "TERMINATED"
    return {
        "trial": _name(result),
        REPEAT_OF: _repeat_of(result),
        "status": status,
        "reason": reason_of(str(result.error)) or repr(result.error) if result.error else metrics.get("reason", ""),
        "failures": _failures(result),
        "windows": windows,
        "budget_windows": budget_windows,
        "seconds": metrics.get("time_total_s", math.nan),
        "cpus": resources.get("CPU", 0.0),
        "gpus": resources.get("GPU", 0.0),
        "objective": metrics.get("objective", math.nan),
        "healthy": bool(metrics.get("healthy", False)),
        **_tuned(result),
        **{name: value for name, value in metrics.items() if name.startswith(_SCALARS)},
    }


def _failures(result: Result) -> int:
    """Times that a trial died, whether it went on afterwards or not."""
    fs, path = result.filesystem, f"{result.path}/error.txt"
    if not fs.get_file_info(path).is_file:
        return 0
    with fs.open_input_stream(path) as stream:
        return stream.read().decode(errors="replace").count("Failure # ")


def _history(result: Result) -> pd.DataFrame:
    frame = result.metrics_dataframe
    if frame is None or frame.empty:
        return pd.DataFrame()
    columns = [c for c in frame.columns if c.startswith(_SCALARS) or c in ("step", "windows", "objective", "healthy")]
    out = frame[columns].copy()
    out.insert(0, "trial", _name(result))
    out["seconds"] = frame["time_total_s"]
    return out


def _sorted(grid: ResultGrid) -> list[Result]:
    """The trials of a grid in their order; a restored sweep lists them in another."""
    return sorted(grid, key=_name)


def _tuned(result: Result) -> dict[str, Any]:
    values = (result.config or {}).get("repeat", result.config or {})
    return {key: value for key, value in values.items() if key != REPEAT_OF}


def _repeat_of(result: Result) -> str:
    return (result.config or {}).get("repeat", {}).get(REPEAT_OF, "")


def _name(result: Result) -> str:
    return (result.metrics or {}).get("trial_id") or result.path.rstrip("/").split("/")[-1]


def _checkpoint(sweep: Location, result: Result) -> str | None:
    if result.checkpoint is not None:
        return result.checkpoint.path
    return nested_checkpoint(sweep / "workers", result.metrics or {})
