"""What a sweep costs and what its ranking is worth: reading, start-up, ASHA against all trials in full, objectives, packing.

Command: python -m benchmarks.search [--preset smoke] [--trials 12] [--data FOLDER]. The same trials run once in full and
once under ASHA. Where there are GPUs, 1, 2, 4 and 8 trials are also packed on one. Without --data, miniatures are
generated. The full trials end with a fine-tuned picking head, whose score the objectives at each rung are compared with.
The last line is one JSON object.
"""

import argparse
import json
import math
import os
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import ray
import torch
import torch.nn.functional as F
from ray import tune
from safetensors.torch import load_file
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score

from model.picker import PhasePicker
from raysys.cluster import configure_logging, connect
from raysys.config import RunConfig
from raysys.data.corpus import load_corpus, select
from raysys.data.fixed import FixedWindows, fixed_windows
from raysys.data.miniature import write_miniatures
from raysys.evaluate.probe import IGNORED, NOISE, P, S, frame_labels
from raysys.presets import PRESETS
from raysys.report.analysis import rungs
from raysys.tune.sweep import sweep

OBJECTIVES = {
    "probe/macro_ap": 1,
    "val/top1_tie": 1,
    "val/loss": -1,
    "val/contrastive": -1,
    "codebook/hard_perplexity": 1,
}
"""Candidates, and whether more of them (1) or less (-1) is meant to be better."""
CLASSES = {P: 0, S: 1, NOISE: 2, IGNORED: -100}
"""Probe's classes -> channels of the picker."""


class Watch(tune.Callback):
    """When each trial started and reported first, and the bytes that its process had read at every report."""

    def __init__(self):
        self.started: dict[str, float] = {}
        self.first: dict[str, float] = {}
        self.read: dict[str, list[int]] = defaultdict(list)

    def on_trial_start(self, iteration, trials, trial, **info):
        self.started.setdefault(trial.trial_id, time.monotonic())

    def on_trial_result(self, iteration, trials, trial, result, **info):
        self.first.setdefault(trial.trial_id, time.monotonic())
        file = Path(f"/proc/{result['pid']}/io")
        if result["hostname"] == os.uname().nodename and file.exists():
            self.read[trial.trial_id].append(int(file.read_text().split()[1]))  # rchar: every read, cached or not


def run(config: RunConfig) -> tuple[float, Watch, pd.DataFrame, pd.DataFrame]:
    """Returns seconds, what was watched, trials.csv and history.csv of a sweep."""
    watch, start = Watch(), time.monotonic()
    sweep(config, [watch])
    folder = Path(config.storage) / config.name
    tables = (pd.read_csv(folder / name, dtype={"trial": str}) for name in ("trials.csv", "history.csv"))
    return (time.monotonic() - start, watch, *tables)


def cost(watch: Watch) -> dict[str, Any]:
    """Returns start-up time, and bytes read from storage by one trial and by eight."""
    # What a process reads before its first report are mostly the libraries that it imports.
    window_bytes = [reads[-1] - reads[0] for reads in watch.read.values() if len(reads) > 1]
    startup = [watch.first[trial] - watch.started[trial] for trial in watch.first]
    return {
        "start_to_first_report_s": float(np.median(startup)),
        "mb_read_by_a_process_before_its_first_report": float(np.median([r[0] for r in watch.read.values()])) / 1e6,
        "mb_read_between_first_and_last_report_1_trial": window_bytes[0] / 1e6,
        "mb_read_between_first_and_last_report_8_trials": sum(window_bytes[:8]) / 1e6,
    }


def early_stopping(full: pd.DataFrame, asha: pd.DataFrame, keys: list[str]) -> dict[str, Any]:
    """Returns what ASHA used of the windows, and how much worse its winner is than the best of the trials in full."""
    done = asha[asha["status"] == "TERMINATED"]
    winner = done.loc[done["objective"].idxmax(), keys]
    same = full[np.isclose(full[keys].astype(float), winner.astype(float)).all(axis=1)]
    best = full["objective"].max()
    rank = int((full["objective"] > same["objective"].iloc[0]).sum()) + 1
    return {
        "asha_windows_fraction": float(asha["windows"].sum() / full["windows"].sum()),
        "asha_trials_in_full": len(done),
        "best_of_full": float(best),
        "regret": float(best - same["objective"].iloc[0]),
        "rank_of_ashas_winner": rank,
        "spread_of_full": float(full["objective"].std()),
    }


def correlations(history: pd.DataFrame, final: pd.Series, places: list[float]) -> dict[str, dict[str, Any]]:
    """Returns, for each candidate at each rung, Spearman's rho with a final score and its 95 % bootstrap interval.

    Args:
        history: of trials in full.
        final: trial -> score.
        places: rungs in windows.
    """
    out: dict[str, dict[str, Any]] = {}
    for place in places:
        reached = history[history["windows"] >= 0.999 * place].sort_values("windows").groupby("trial").first()
        reached = reached.loc[reached.index.intersection(final.index)]
        for name, sign in OBJECTIVES.items():
            rho, low, high = spearman(sign * reached[name].to_numpy(), final[reached.index].to_numpy())
            out.setdefault(name, {})[f"{place:.0f}"] = {"rho": rho, "low": low, "high": high, "n": len(reached)}
    return out


def spearman(a: np.ndarray, b: np.ndarray, draws: int = 2000) -> tuple[float, float, float]:
    """Returns rho and the 2.5 and 97.5 % quantiles over resampled trials; NaN where all scores are equal."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan, math.nan, math.nan
    rng, found = np.random.default_rng(0), []
    for _ in range(draws):
        rows = rng.integers(0, len(a), len(a))
        if np.ptp(a[rows]) > 0 and np.ptp(b[rows]) > 0:
            found.append(spearmanr(a[rows], b[rows]).statistic)
    return float(spearmanr(a, b).statistic), *map(float, np.quantile(found, (0.025, 0.975)))


def head_score(checkpoint: Path, config: RunConfig, fit: FixedWindows, score: FixedWindows, steps: int) -> float:
    """Returns the macro average precision of P and S samples of a picker that starts from a checkpoint and is fine-tuned."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    picker = PhasePicker(config.model).to(device)
    weights = load_file(checkpoint / "model.safetensors")
    picker.backbone.load_state_dict(
        {k.removeprefix("backbone."): v for k, v in weights.items() if k.startswith("backbone.")}
    )
    slow, fast = {"params": picker.backbone.parameters(), "lr": 3e-4}, {"params": picker.head.parameters(), "lr": 3e-3}
    optimizer = torch.optim.AdamW([slow, fast], weight_decay=0.01)
    labels, rng = channels(fit, config), np.random.default_rng(0)
    counts = torch.tensor([(labels == c).sum() for c in range(3)], dtype=torch.float32)
    weight = (counts.sum() / counts.clamp_min(1)).sqrt().to(device)
    for _ in range(steps):
        part = fit.take(rows := np.sort(rng.choice(len(fit), min(16, len(fit)), replace=False)))
        logits = picker.logits(*tensors(part, device))
        loss = F.cross_entropy(logits, torch.tensor(labels[rows], device=device), weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return precision(picker.eval(), score, config, device)


@torch.no_grad()
def precision(picker: PhasePicker, score: FixedWindows, config: RunConfig, device: torch.device) -> float:
    """Returns the mean over P and S of the average precision over samples."""
    parts = [score.take(slice(i, i + 32)) for i in range(0, len(score), 32)]
    probabilities = np.concatenate([picker(*tensors(part, device)).cpu().numpy() for part in parts])
    labels = channels(score, config)
    known = labels != CLASSES[IGNORED]
    return float(np.mean([average_precision_score((labels == c)[known], probabilities[:, c][known]) for c in (0, 1)]))


def tensors(windows: FixedWindows, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns waveform and number of valid samples on a device."""
    return torch.tensor(windows.waveform, device=device), torch.tensor(windows.num_valid, device=device)


def channels(windows: FixedWindows, config: RunConfig) -> np.ndarray:
    """Returns the picker's channel of every sample, (n, T) int64."""
    classes = frame_labels(windows, windows.waveform.shape[-1], config.probe)
    return np.select([classes == c for c in CLASSES], list(CLASSES.values())).astype(np.int64)


def head_scores(config: RunConfig, trials: pd.DataFrame, steps: int) -> pd.Series:
    """Returns trial -> score of a picker fine-tuned from its checkpoint on a tenth of the labelled training traces."""
    corpus = load_corpus(config.data)
    training, dev = select(corpus, "train"), select(corpus, "dev")
    tenth = training.take(np.random.default_rng(0).permutation(len(training))[: max(16, len(training) // 10)])
    window = config.model.window_samples
    fit = fixed_windows(tenth, config.probe.fit_windows, window, 7, labelled=True)
    score = fixed_windows(dev, config.probe.score_windows, window, 8, labelled=True)
    folder = Path(config.storage) / config.name
    found = {}
    for trial in trials.loc[trials["status"] == "TERMINATED", "trial"]:
        checkpoint = max((folder / f"trial_{trial}").glob("checkpoint_*"))
        found[trial] = head_score(checkpoint, config, fit, score, steps)
    return pd.Series(found)


def packing(config: RunConfig) -> dict[str, float]:
    """Returns windows per second in total for 1, 2, 4 and 8 trials on one GPU; empty without a GPU."""
    if not ray.cluster_resources().get("GPU"):
        return {}
    out = {}
    for count in (1, 2, 4, 8):
        changes = {"num_trials": count, "max_concurrent": count, "gpus_per_trial": 1 / count, "scheduler": "none"}
        part = config.override(
            {"name": f"pack{count}", **{f"search.{k}": v for k, v in changes.items()}, "search.min_used_fraction": 0.0}
        )
        _, _, _, history = run(part)
        out[str(count)] = float(history.groupby("trial")["perf/windows_per_s"].median().sum())
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="smoke", choices=sorted(PRESETS))
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--head-steps", type=int, default=100)
    parser.add_argument("--data", help="folder with data sets; without it miniatures are generated")
    parser.add_argument("--only-packing", action="store_true")
    arguments = parser.parse_args()
    configure_logging()
    with tempfile.TemporaryDirectory() as work:
        root = arguments.data or f"{work}/data"
        if arguments.data is None:
            write_miniatures(Path(root), traces=40)
        config = PRESETS[arguments.preset]().override(
            {
                "data.root": root,
                "data.datasets": ["all"],
                "storage": f"{work}/sweeps",
                "optim.lr": arguments.lr,
                "train.max_steps": arguments.steps,
                "search.num_trials": arguments.trials,
                "search.rungs_per_budget": 4,
            }
        )
        connect()
        result = {"cpus": ray.cluster_resources()["CPU"], "packing_windows_per_s": packing(config)}
        if not arguments.only_packing:
            result |= measure(config, arguments.head_steps)
    for name, value in result.items():
        print(f"{name:50s} {value}")
    print(json.dumps(result))


def measure(config: RunConfig, head_steps: int) -> dict[str, Any]:
    """Returns everything but packing."""
    in_full = config.override({"name": "full", "search.scheduler": "none"})
    full_s, watch, full, history = run(in_full)
    asha_s, _, asha, _ = run(config.override({"name": "asha"}))
    keys = [entry.split("=")[0] for entry in config.search.space]
    objective = full[full["healthy"]].set_index("trial")["objective"]
    budget = float(full["budget_windows"].max())
    places = [*rungs(config.to_dict(), budget), budget]
    heads = head_scores(in_full, full[full["healthy"]], head_steps)
    return {
        "trials": len(full),
        "healthy": int(full["healthy"].sum()),
        "full_s": full_s,
        "asha_s": asha_s,
        **cost(watch),
        **early_stopping(full[full["healthy"]], asha[asha["healthy"]], keys),
        "rho_with_final_probe": correlations(history, objective, places),
        "rho_with_picking_head": correlations(history, heads, places),
        "picking_head": {"mean": float(heads.mean()), "std": float(heads.std())},
    }


if __name__ == "__main__":
    main()
