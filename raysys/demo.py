"""The whole system on one small machine: data, shards, pretraining, search, fine-tuning, picks, report."""

import json
import logging
import math
import time
from pathlib import Path

import obspy

from raysys.cluster import connect
from raysys.config import RunConfig
from raysys.data.shards import prepare
from raysys.location import Location
from raysys.miniature import write_miniatures, write_obspy_examples
from raysys.picking.example import FOLDER, Example, make_examples, write_example
from raysys.picking.run import Picking, pick_archive
from raysys.picking.trained import load_picker
from raysys.presets import finetuning
from raysys.report.write import write_report
from raysys.train.driver import train_run
from raysys.tune.sweep import sweep

log = logging.getLogger(__name__)

_MEANING = """
What the numbers mean
  contrastive loss {loss:.2f}   nats; guessing gives log({negatives} + 1) = {chance:.2f}. Lower means that the model tells the hidden
                          frame from {negatives} others of the same window. It compares only between runs with the same task.
  probe macro AP {ap:.3f}    how well a linear read-out finds P and S frames in windows it was not fitted to; {before:.3f} before
                          training. This is what trials of the search are ranked by.
  codes in use {used:.0%}       of the codebook, over the whole validation set.
  search                  {trials} trials, {stopped} stopped early; best probe macro AP {best:.3f} with {tuned}
  picks                   of ObsPy's example stream, UTC, probability in brackets. By the picker that comes with the package:
                          {packaged}; by the one that was fine-tuned just now: {own}.

Report: {report}
TensorBoard: .venv/bin/tensorboard --logdir {storage}
"""

_PICKER = {"model.highpass_hz": 1.0}
"""What a picker does that pretraining does not: the ocean's waves are louder than small earthquakes."""


def run_demo(config: RunConfig, *, generate: bool = False) -> Path:
    """Returns the path of the HTML report, after running everything.

    Args:
        config: of the runs (preset `demo`). Everything is written to its `storage`, where runs of an earlier demo are
            continued.
        generate: make miniatures of the eight data sets, in place of those of `data.root`.
    """
    folder = Path(config.storage).expanduser().resolve()
    start = time.perf_counter()

    def stage(text: str) -> None:
        log.info("[%3.0f s] %s", time.perf_counter() - start, text)

    data = config.data.root
    if generate:
        stage("1/7 generating miniatures of the eight data sets, and real seismograms that ship inside obspy")
        data = _generated(folder / "data")
    config = config.override({"data.root": data, "storage": str(folder), "data.cache": str(folder / "cache")})
    connect()
    stage("2/7 preparing shards: 100 Hz, ZNE, quality flags")
    prepare(config, f"{folder}/shards")
    config = config.override({"data.root": f"{folder}/shards"})
    stage(f"3/7 pretraining with {config.train.num_workers} workers")
    run = train_run(config)
    stage(f"4/7 searching: {config.search.num_trials} trials with early stopping")
    best = sweep(config.override({"name": f"{config.name}-sweep", "train.max_steps": config.train.max_steps // 3}))
    stage("5/7 fine-tuning a picker that begins with the pretrained model")
    picker = f"{config.name}-picker"
    train_run(finetuning(config, "pick", str(folder / config.name)).override({"name": picker} | _PICKER))
    stage("6/7 picking the example stream of obspy")
    example = _pick(str(folder / picker), folder, f"{config.name}-picks")
    stage("7/7 writing the report")
    parts = [config.name, f"{config.name}-sweep", picker, f"{config.name}-picks"]
    report = write_report([str(folder / part) for part in parts], folder / "report.html")
    stage("done")
    numbers = _numbers(config, run, best, folder) | _picks(example, picker)
    print(_MEANING.format(**numbers, report=report, storage=folder))
    return report


def _generated(root: Path) -> str:
    write_miniatures(root, traces=120)
    write_obspy_examples(root)
    return str(root)


def _pick(own: str, folder: Path, out: str) -> Example:
    """Picks a file as `jobs.pick` does, with the picker that comes with the package; returns its curves beside those of `own`."""
    stream = obspy.read()
    file = folder / "stream.mseed"
    stream.write(str(file), "MSEED")
    pick_archive((str(file),), str(folder / out), Picking())
    (example,) = make_examples(stream, (load_picker(), load_picker(own)))
    write_example(example, Location(folder / out) / FOLDER / f"{example.instrument}.npz")
    return example


def _picks(example: Example, own: str) -> dict[str, str]:
    """What both pickers found, in words."""
    told = {"own": [], "packaged": []}
    for pick in example.picks.itertuples():
        moment = f"{pick.peak_time:%H:%M:%S.%f}"[:-4]
        told["own" if pick.model == own else "packaged"].append(f"{pick.phase} {moment} ({pick.probability:.2f})")
    return {whose: ", ".join(picks) or "none" for whose, picks in told.items()}


def _numbers(config: RunConfig, run: dict, best: dict, folder: Path) -> dict:
    import pandas as pd

    trials = pd.read_csv(folder / f"{config.name}-sweep" / "trials.csv")
    lines = [json.loads(line) for line in (folder / config.name / "metrics.jsonl").read_text().splitlines()]
    return {
        "loss": run["val/contrastive"],
        "negatives": config.loss.num_negatives,
        "chance": math.log(config.loss.num_negatives + 1),
        "ap": run["probe/macro_ap"],
        "before": next(line["probe/macro_ap"] for line in lines if "probe/macro_ap" in line),
        "used": run["codebook/used_fraction"],
        "trials": len(trials),
        "stopped": int((trials["status"] == "STOPPED_EARLY").sum()),
        "best": best["value"],
        "tuned": ", ".join(f"{key}={value:.3g}" for key, value in best["tuned"].items()),
    }
