"""What a sweep costs and what its ranking is worth: reading, start-up, ASHA against all trials in full, objectives.

Command: python -m benchmarks.search [--preset smoke] [--trials 12] [--data.root FOLDER] [--out FOLDER]. The same trials run once
in full and once under ASHA. The full ones are then fine-tuned with a picking head each, whose score the objectives at every
report are compared with. (benchmarks.packing: how many trials to put on a GPU.) Without --data.root, miniatures are generated.
Tables and results.json are written as soon as something is measured; the last line is results.json as one line.
"""

import argparse
import ast
import collections
import json
import logging
import math
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import ray
from ray import tune
from scipy.stats import spearmanr

from benchmarks.gpu_watch import GpuWatch
from benchmarks.picking_head import head_scores
from raysys.cluster import connect
from raysys.config import RunConfig
from raysys.console import configure_logging
from raysys.data.windows import whole_traces
from raysys.presets import PRESETS
from raysys.train.data import prepare_training_data
from raysys.tune.sweep import sweep
from raysys.tune.trial import trial_config
from raysys.tune.warm_up import warm_up

log = logging.getLogger(__name__)

PARTS = ("full", "heads", "asha")
"""In the order in which they are measured; "heads" needs "full"."""
OBJECTIVES = {
    "probe/macro_ap": 1,
    "val/top1_tie": 1,
    "val/loss": -1,
    "val/contrastive": -1,
    "codebook/hard_perplexity": 1,
}
"""Candidates, and whether more of them (1) or less (-1) is meant to be better."""


class Watch(tune.Callback):
    """When trials started and reported, and the bytes that their processes had read at every report.

    Args:
        file: a CSV that gets a row for every report at once, for the case that the benchmark is killed.
    """

    def __init__(self, file: Path):
        self._file = file
        self.rows: list[dict[str, Any]] = []
        self.started: dict[str, float] = {}
        self.reports: dict[str, list[tuple[float, int]]] = collections.defaultdict(list)
        """Trial -> moment in s and windows."""
        self.read: dict[str, list[int]] = collections.defaultdict(list)

    def on_trial_start(self, iteration, trials, trial, **info):
        self.started.setdefault(trial.trial_id, time.monotonic())

    def on_trial_result(self, iteration, trials, trial, result, **info):
        self.reports[trial.trial_id].append((time.monotonic(), result["windows"]))
        if result["hostname"] == os.uname().nodename and Path(f"/proc/{result['pid']}/io").exists():
            self.read[trial.trial_id].append(bytes_read(result["pid"]))
        scores = {name: value for name, value in result.items() if "/" in name and not name.startswith("config/")}
        known = {name: result[name] for name in ("windows", "objective", "healthy", "reason")}
        self.rows.append(
            {"trial": trial.trial_id, **known, "seconds": result["time_total_s"], **trial.config, **scores}
        )
        pd.DataFrame(self.rows).to_csv(self._file, index=False)


class Results:
    """What was measured so far, kept in a folder.

    Args:
        folder: gets results.json and tables; what an earlier call left there is kept.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._file = folder, folder / "results.json"
        self.values: dict[str, Any] = json.loads(self._file.read_text()) if self._file.exists() else {}

    def add(self, values: dict[str, Any]) -> None:
        """Writes more results down."""
        self.values |= values
        self._file.write_text(json.dumps(self.values, indent=1))
        for name, value in values.items():
            log.info("%s: %s", name, value)


def run(config: RunConfig, out: Path) -> tuple[float, Watch, pd.DataFrame, pd.DataFrame]:
    """Returns seconds, what was watched, trials.csv and history.csv of a sweep; both tables are also copied to `out`."""
    watch, start = Watch(out / f"{config.name}_history.csv"), time.monotonic()
    try:
        sweep(config, [watch])
    except RuntimeError as error:  # no trial is healthy: what they cost is known all the same
        log.warning("%s", error)
    seconds = time.monotonic() - start
    tables = []
    for name in ("trials.csv", "history.csv"):
        tables.append(pd.read_csv(Path(config.storage) / config.name / name, dtype={"trial": str}))
        tables[-1].to_csv(out / f"{config.name}_{name}", index=False)
    return (seconds, watch, *tables)


def cost(watch: Watch, config: RunConfig) -> dict[str, Any]:
    """Returns start-up time, and bytes read from storage by one trial, by eight, and once for all of them."""
    # Before its first report a process mostly reads the libraries that it imports; afterwards training windows and, to copy
    # them into the sweep's folder, its own checkpoints.
    between = [reads[-1] - reads[0] for reads in watch.read.values() if len(reads) > 1]
    reports = max(map(len, watch.reports.values()))
    checkpoint = max(Path(config.storage).glob("full/trial_*/checkpoint_*"))
    copied = (reports - 1) * sum(file.stat().st_size for file in checkpoint.iterdir())
    startup = [reports[0][0] - watch.started[trial] for trial, reports in watch.reports.items()]
    traces = prepare_training_data(config).traces
    before = bytes_read("self")
    collections.deque(whole_traces(traces), maxlen=0)
    return {
        "start_to_first_report_s": float(np.median(startup)),
        "mb_read_by_a_process_before_its_first_report": float(np.median([r[0] for r in watch.read.values()])) / 1e6,
        "mb_read_between_first_and_last_report_1_trial": between[0] / 1e6,
        "mb_read_between_first_and_last_report_8_trials": sum(between[:8]) / 1e6,
        "mb_of_checkpoints_copied_between_them_1_trial": copied / 1e6,
        "mb_of_all_training_traces": (bytes_read("self") - before) / 1e6,
    }


def bytes_read(process: int | str) -> int:
    """Returns the bytes that a process of this machine has read, cached or not (rchar)."""
    return int(Path(f"/proc/{process}/io").read_text().split()[1])


def early_stopping(full: pd.DataFrame, asha: pd.DataFrame, keys: list[str]) -> dict[str, Any]:
    """Returns what ASHA used of the windows, and how much worse its winner is than the best of the trials in full."""
    used = {
        "asha_windows_fraction": float(asha["windows"].sum() / full["windows"].sum()),
        "asha_trials_in_full": int((asha["status"] == "TERMINATED").sum()),
    }
    done, full = asha[asha["healthy"] & (asha["status"] == "TERMINATED")], full[full["healthy"]]
    if done.empty:
        return used
    winner = done.loc[done["objective"].idxmax(), keys]
    same = full[np.isclose(full[keys].astype(float), winner.astype(float)).all(axis=1)]
    if same.empty:  # it is healthy under ASHA alone
        return used
    best, found = full["objective"].max(), same["objective"].iloc[0]
    return used | {
        "best_of_full": float(best),
        "regret": float(best - found),
        "rank_of_ashas_winner": int((full["objective"] > found).sum()) + 1,
        "spread_of_full": float(full["objective"].std()),
    }


def correlations(history: pd.DataFrame, final: pd.Series, places: list[int]) -> dict[str, dict[str, Any]]:
    """Returns, for each candidate at each report, Spearman's rho with a final score and its 95 % bootstrap interval.

    Args:
        history: of trials in full.
        final: trial -> score.
        places: reports, in windows.
    """
    out: dict[str, dict[str, Any]] = {}
    for place in places:
        reached = history[history["windows"] == place].groupby("trial").last()
        reached = reached.loc[reached.index.intersection(final.index)]
        for name, sign in OBJECTIVES.items():
            rho, low, high = spearman(sign * reached[name].to_numpy(), final[reached.index].to_numpy())
            out.setdefault(name, {})[f"{place}"] = {"rho": rho, "low": low, "high": high, "n": len(reached)}
    return out


def spearman(a: np.ndarray, b: np.ndarray, draws: int = 2000) -> tuple[float, float, float]:
    """Returns rho and the 2.5 and 97.5 % quantiles over resampled trials; NaN for fewer than 3 and where all are equal."""
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan, math.nan, math.nan
    rng, found = np.random.default_rng(0), []
    for _ in range(draws):
        rows = rng.integers(0, len(a), len(a))
        if np.ptp(a[rows]) > 0 and np.ptp(b[rows]) > 0:
            found.append(spearmanr(a[rows], b[rows]).statistic)
    return float(spearmanr(a, b).statistic), *map(float, np.quantile(found, (0.025, 0.975)))


def settings(arguments: argparse.Namespace, root: str, storage: str, gpus: float) -> RunConfig:
    """Returns the configuration that all sweeps of the benchmark start from."""
    config = PRESETS[arguments.preset]()
    few = arguments.windows
    values = {
        "data.root": root,
        "data.datasets": ["all"],
        "storage": storage,
        "train.device": "cuda" if gpus else "cpu",
        "train.max_steps": arguments.steps,
        "train.val_windows": min(few, config.train.val_windows),
        "probe.fit_windows": min(few, config.probe.fit_windows),
        "probe.score_windows": min(few, config.probe.score_windows),
        "search.num_trials": arguments.trials,
        "search.rungs_per_budget": 4,
        "search.gpus_per_trial": 1 / arguments.per_gpu,
    }
    for entry in arguments.set:
        key, text = entry.split("=", 1)
        try:
            values[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):  # a text without quotes
            values[key] = text
    return config.override(values)


def measure(config: RunConfig, arguments: argparse.Namespace, results: Results) -> None:
    """Measures the parts that were asked for, one after the other."""
    out, full = results.folder, None
    if config.train.device == "cuda":  # every sweep then finds filled caches
        data = prepare_training_data(config).load_into_memory().shared()
        results.add({"warm_up_s": warm_up(trial_config(config), data)})
        del data
    if "full" in arguments.parts:
        with GpuWatch() as watched:
            seconds, watch, full, history = run(config.override({"name": "full", "search.scheduler": "none"}), out)
        healthy = full[full["healthy"]]
        objective = healthy.set_index("trial")["objective"]
        places = sorted(int(place) for place in history["windows"].unique())
        results.add(
            {"trials": len(full), "healthy": len(healthy), "full_s": seconds, "full_gpu_idle_share": watched.idle()}
        )
        results.add(cost(watch, config) | {"rho_with_final_probe": correlations(history, objective, places)})
    if full is not None and "heads" in arguments.parts:
        start = time.monotonic()
        heads = head_scores(config.override({"name": "full"}), healthy, arguments.head_steps, out)
        spread = {"mean": float(heads.mean()), "std": float(heads.std()), "seconds": time.monotonic() - start}
        results.add({"picking_head": spread, "rho_with_picking_head": correlations(history, heads, places)})
    if "asha" in arguments.parts:
        with GpuWatch() as watched:
            seconds, _, asha, _ = run(config.override({"name": "asha"}), out)
        results.add({"asha_s": seconds, "asha_gpu_idle_share": watched.idle()})
        if full is not None:
            results.add(early_stopping(full, asha, [entry.split("=")[0] for entry in config.search.space]))


def parse() -> argparse.Namespace:
    """Returns the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="smoke", choices=sorted(PRESETS))
    parser.add_argument("--data.root", dest="data", help="folder with data sets; without it miniatures are generated")
    parser.add_argument("--out", help="folder for results.json and tables; without it nothing is kept")
    parser.add_argument("--storage", help="folder for the sweeps themselves; without it they are removed at the end")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--steps", type=int, default=120, help="of a trial in full")
    parser.add_argument(
        "--head-steps", type=int, default=60, help="of the fine-tuning of a picking head, 16 windows each"
    )
    parser.add_argument(
        "--windows", type=int, default=512, help="most windows for validation, and to fit and score probes"
    )
    parser.add_argument("--per-gpu", type=int, default=4, help="trials that share a GPU")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="other values of the configuration")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    configure_logging()
    with tempfile.TemporaryDirectory() as work:
        if arguments.data is None:
            from raysys.miniature import write_miniatures  # needs SeisBench, which shards do not

            write_miniatures(Path(work) / "data", traces=40)
        connect()
        root, storage = arguments.data or f"{work}/data", arguments.storage or f"{work}/sweeps"
        config = settings(arguments, root, storage, ray.cluster_resources().get("GPU", 0))
        results = Results(Path(arguments.out or work))
        results.add({"preset": arguments.preset, "cpus": ray.cluster_resources()["CPU"], "steps": arguments.steps})
        measure(config, arguments, results)
    print(json.dumps(results.values))


if __name__ == "__main__":
    main()
