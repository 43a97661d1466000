"""Print the best and the last checkpoint of a run or of a sweep's best trial: python -m jobs.best results/my-run"""

import json
import math
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from jobs.command import run
from raysys.console import configure_logging
from raysys.location import Location
from raysys.record import read_config


@dataclass(frozen=True, kw_only=True)
class BestOptions:
    """Of what."""

    of: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|SWEEP")]
    """Folder or URL of a run, or of a sweep that has ended."""


def main() -> None:
    options = tyro.cli(BestOptions, prog="python -m jobs.best", description=__doc__)
    configure_logging()
    found = best_and_last(Location(options.of))
    for which in ("best", "last"):
        one = found[which]
        score = "no score" if one["score"] is None else f"{one['score']:.4f}"
        print(f"{which}: step {one['step']}, {found['objective']} {score}, {one['checkpoint']}")
    print(json.dumps(found))


def best_and_last(place: Location) -> dict[str, Any]:
    """Returns objective, "best" and "last" (checkpoint, step, windows, score) of a run, or of the best trial of a sweep.

    Raises:
        ValueError, FileNotFoundError: no run, trial or sweep there, or one that has no whole checkpoint yet.
    """
    from raysys.train.checkpoint import FILES  # imports PyTorch

    objective, trial = read_config(str(place)).search.objective, {}
    if (place / "best.json").exists():
        best = (place / "best.json").read_json()
        place, trial = Location(best["checkpoint"]).parent, {"trial": best["trial"]}
    folders = [folder for folder in place.folders() if all((folder / name).exists() for name in FILES)]
    if not folders:
        raise ValueError(f"{place} has no checkpoint yet; a sweep has a best trial when it has ended")
    every = sorted((_told(folder) for folder in folders), key=lambda one: one["windows"])
    best = max(every, key=lambda one: (-math.inf if one["score"] is None else one["score"], one["windows"]))
    return {"folder": str(place), **trial, "objective": objective, "best": best, "last": every[-1]}


def _told(folder: Location) -> dict[str, Any]:
    state = (folder / "state.json").read_json()
    score = state.get("score")
    score = None if score is None or math.isnan(score) else score
    return {"checkpoint": str(folder), "step": state["step"], "windows": state["windows"], "score": score}


if __name__ == "__main__":
    run(main)
