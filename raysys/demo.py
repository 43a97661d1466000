"""The whole system on one small machine: data, shards, pretraining, search, report."""

import json
import logging
import math
import time
from pathlib import Path

from raysys.cluster import connect
from raysys.config import RunConfig
from raysys.data.shards import prepare
from raysys.miniature import write_miniatures, write_obspy_examples
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

Report: {report}
TensorBoard: .venv/bin/tensorboard --logdir {storage}
"""


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
        stage("1/5 generating miniatures of the eight data sets, and real seismograms that ship inside obspy")
        root = folder / "data"
        write_miniatures(root, traces=120)
        write_obspy_examples(root)
        data = str(root)
    config = config.override({"data.root": data, "storage": str(folder), "data.cache": str(folder / "cache")})
    connect()
    stage("2/5 preparing shards: 100 Hz, ZNE, quality flags")
    prepare(config, f"{folder}/shards")
    config = config.override({"data.root": f"{folder}/shards"})
    stage(f"3/5 pretraining with {config.train.num_workers} workers")
    run = train_run(config)
    stage(f"4/5 searching: {config.search.num_trials} trials with early stopping")
    best = sweep(config.override({"name": f"{config.name}-sweep", "train.max_steps": config.train.max_steps // 3}))
    stage("5/5 writing the report")
    sweep_folder = folder / f"{config.name}-sweep"
    report = write_report([str(folder / config.name), str(sweep_folder)], folder / "report.html")
    stage("done")
    print(_MEANING.format(**_numbers(config, run, best, folder), report=report, storage=folder))
    return report


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
