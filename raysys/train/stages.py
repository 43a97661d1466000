"""The stages of a run: the budget that it began with, and those by which it was extended after its end."""

import logging
from typing import Any

from raysys.config import RunConfig
from raysys.location import Location
from raysys.ray_internals import CHECKPOINT_LIST
from raysys.train.loop import Budget
from raysys.train.storage import newest_checkpoint

log = logging.getLogger(__name__)
BUDGET = frozenset({"train.max_steps", "train.epochs"})
"""Keys that may grow once a run is finished."""


def planned_workers(began: RunConfig) -> dict[str, int | None]:
    """Returns the keys of the workers that a run was planned for: its budget refers to them, whoever computes now."""
    return {f"train.{key}": getattr(began.train, key) for key in ("num_workers", "min_workers")}


def plan_stages(run: Location, config: RunConfig, epoch_windows: int) -> list[dict[str, Any]]:
    """Returns the stages of a run, each from where ("from") to where ("to") in windows, by which budget; the last is to be done.

    Args:
        run: its folder, which may be empty.
        config: of this process.
        epoch_windows: windows of an epoch.

    Raises:
        ValueError: the budget is smaller than that of the run, or larger and the run is not finished.
    """
    if not (run / "config.json").exists():
        return [_stage(config, 0, epoch_windows)]
    began = RunConfig.from_dict((run / "config.json").read_json())
    config = config.override(planned_workers(began))
    stages = (run / "record.json").read_json().get("stages") or [_stage(began, 0, epoch_windows)]
    last, asked = stages[-1], _stage(config, 0, epoch_windows)
    if asked["to"] == last["to"]:
        return stages
    budgets = f"{_budget(last)}, now {_budget(asked)}"
    if asked["to"] < last["to"]:
        raise ValueError(f"{run}: the budget cannot shrink ({budgets}): repeat the old one, or give a new --name")
    if (end := _end(run, last, config)) is None:
        raise ValueError(
            f"{run} is not finished, and its learning rate was planned for the budget that it has ({budgets}): let it end with "
            "that one, and extend it then, or give a new --name"
        )
    log.info("%s is extended from %d to %d windows, by a stage with a schedule of its own", run, end, asked["to"])
    return [*stages, asked | {"from": end}]


def _stage(config: RunConfig, start: int, epoch_windows: int) -> dict[str, Any]:
    budget = {"max_steps": config.train.max_steps, "epochs": config.train.epochs}
    return {"from": start, "to": Budget.of(config, epoch_windows).windows, **budget}


def _budget(stage: dict[str, Any]) -> str:
    if stage["max_steps"] is not None:
        return f"train.max_steps={stage['max_steps']}"
    return f"train.epochs={stage['epochs']:g}"


def _end(run: Location, stage: dict[str, Any], config: RunConfig) -> int | None:
    """Windows after which a stage ended, by its budget or the run's patience; None where it has not ended."""
    newest = newest_checkpoint(run)
    if newest is None:
        return None
    done = (run / CHECKPOINT_LIST).read_json()["latest_checkpoint_result"]["metrics"].get("windows", 0)
    state, patience = run / newest / "state.json", config.train.patience
    if done < stage["to"] and patience is not None and state.exists():
        waited = state.read_json().get("best", {}).get("validations_since", 0)
        return done if waited >= patience else None
    return done if done >= stage["to"] else None
