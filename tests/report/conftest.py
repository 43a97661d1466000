"""Folders as the jobs write them: a sweep with a known best place, and a run with rising and falling curves."""

import json

import numpy as np
import pandas as pd
import pytest

from raysys.presets import base, demo

BUDGET = 81_000
KEYS = ("loss.diversity_lambda", "loss.temperature", "loss.num_negatives", "mask.ratio")


@pytest.fixture
def sweep_folder(tmp_path):
    """Returns a function (number of trials) -> sweep folder; the best temperature is 0.12, other values matter less."""
    return lambda trials=24: write_sweep(tmp_path / "sweep", trials)


@pytest.fixture
def run_folder(tmp_path):
    """Returns a function (number of steps) -> run folder without checkpoints and data."""
    return lambda steps=400: write_run_folder(tmp_path / "run", steps)


def write_sweep(path, trials, seed=0):
    rng = np.random.default_rng(seed)
    path.mkdir()
    rows, history = [], []
    drawn = [_values(rng) for _ in range(trials)]
    drawn[min(7, trials - 1)]["loss.diversity_lambda"] = 0.011
    final = np.array([_score(v, rng) for v in drawn])
    for i, values in enumerate(drawn):
        status, reason, stop, healthy = _outcome(i, values, (final > final[i]).mean())
        for windows in range(BUDGET // 8, stop + 1, BUDGET // 8):
            metrics = _metrics(values, final[i], windows / BUDGET, healthy, rng)
            history.append(
                {"trial": f"{i:05d}", "step": windows // 64, "windows": windows, "seconds": windows / 90, **metrics}
            )
        rows.append(
            {
                "trial": f"{i:05d}",
                "status": status,
                "reason": reason,
                "windows": stop,
                "budget_windows": BUDGET,
                "seconds": stop / 90,
            }
            | {"objective": metrics["probe/macro_ap"] if healthy else 0.0, "healthy": healthy}
            | values
            | metrics
        )
    frame = pd.DataFrame(rows)
    frame.to_csv(path / "trials.csv", index=False)
    pd.DataFrame(history).to_csv(path / "history.csv", index=False)
    _write_best(path, frame)
    return path


def _outcome(i, values, rank):
    """Status, reason, windows and health of a trial; `rank` is the fraction of trials that are better."""
    if i == 5:
        return "ERROR", "OutOfMemoryError: CUDA out of memory, tried to allocate 2.1 GiB", BUDGET // 8, True
    if values["loss.diversity_lambda"] < 0.012:
        return "STOPPED_EARLY", "the codebook has collapsed: hard perplexity 96 of 640, gate 20%", BUDGET // 4, False
    if rank > 1 / 5:
        return "STOPPED_EARLY", "", BUDGET // 4 if rank > 1 / 2 else BUDGET * 3 // 4, True
    return "TERMINATED", "", BUDGET, True


def _write_best(path, frame):
    config = base().override({"name": "four-values"})
    (path / "config.json").write_text(json.dumps(config.to_dict()))
    scored = frame[frame["healthy"] & (frame["status"] == "TERMINATED")]
    best = scored.loc[scored["objective"].idxmax()]
    winner = config.override({key: best[key].item() for key in KEYS}).to_dict()
    content = {"trial": best["trial"], "objective": "probe/macro_ap", "value": best["objective"], "config": winner}
    (path / "best.json").write_text(json.dumps(content))


def _values(rng):
    return {
        "loss.diversity_lambda": float(10 ** rng.uniform(-2, 0)),
        "loss.temperature": float(0.05 * 10 ** rng.uniform(0, 1)),
        "loss.num_negatives": int(rng.choice([25, 50, 100, 200])),
        "mask.ratio": float(rng.uniform(0.35, 0.8)),
    }


def _score(values, rng):
    away = np.log10(values["loss.temperature"] / 0.12)
    ratio = values["mask.ratio"] - 0.6
    return (
        0.78 - 0.5 * away**2 - 0.9 * ratio**2 + 0.02 * np.log10(values["loss.diversity_lambda"]) + rng.normal(0, 0.008)
    )


def _metrics(values, final, progress, healthy, rng):
    score = 0.25 + (final - 0.25) * (1 - np.exp(-5 * progress)) / (1 - np.exp(-5)) + rng.normal(0, 0.004)
    chance = np.log(values["loss.num_negatives"] + 1)
    contrastive = chance * (0.45 + values["loss.temperature"]) * (1 - 0.15 * progress) if healthy else 0.05
    used = 0.9 if healthy else 0.19
    return {
        "probe/macro_ap": score,
        "val/top1_tie": 0.01 + 0.17 * score + rng.normal(0, 0.004) if healthy else 0.0099,
        "val/loss": contrastive + 0.4 * values["loss.diversity_lambda"],
        "val/contrastive": contrastive,
        "codebook/hard_perplexity": 640 * (0.55 + 0.12 * np.log10(values["loss.diversity_lambda"] / 0.1))
        if healthy
        else 96.0,
        "codebook/used_fraction": used + rng.normal(0, 0.01),
    }


def write_run_folder(path, steps, seed=0):
    rng = np.random.default_rng(seed)
    path.mkdir()
    config = demo()
    (path / "config.json").write_text(json.dumps(config.override({"optim.lr": 1e-3, "name": "fixture"}).to_dict()))
    record = {
        "time": "2026-01-01T00:00:00+0000",
        "command": "python -m jobs.pretrain demo",
        "git_commit": "0" * 40,
        "git_diff": "+one\n+two",
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "gpus": [],
        "machine": "Linux",
        "seed": 0,
        "data_fingerprint": "abc",
        "data": _data(),
    }
    (path / "record.json").write_text(json.dumps(record))
    lines = [{"step": 0, "probe/macro_ap": 0.07, "val/top1_tie": 0.024}]
    lines += [line for step in range(1, steps + 1) for line in _lines(step, steps, rng)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def _data():
    rows = [
        {
            "dataset": "ETHZ",
            "traces": 36743,
            "train": 22000,
            "dev": 3700,
            "test": 11043,
            "p_labels": 30000,
            "s_labels": 21000,
            "rates_hz": [100.0, 200.0],
            "left_out": {"sampling rate is 0": 4, "row points nowhere": 17},
            "kept": {"clipped": 8},
            "scanned": True,
        },
        {
            "dataset": "STEAD",
            "traces": 1265657,
            "train": 1075808,
            "dev": 63283,
            "test": 126566,
            "p_labels": 1030231,
            "s_labels": 1030231,
            "rates_hz": [100.0],
            "left_out": {},
            "kept": {},
            "scanned": False,
        },
    ]
    leak = {"train": "STEAD", "evaluation": "ETHZ", "events": 12, "traces": 345}
    return {"sets": rows, "leaks": [leak]}


def _lines(step, steps, rng):
    done = step / steps
    contrastive = 3.5 * (0.7 + 0.3 * np.exp(-6 * done)) + rng.normal(0, 0.03)
    if step % 2 == 0:
        yield {
            "step": step,
            "train/loss": contrastive + 0.04,
            "train/contrastive": contrastive,
            "train/diversity": 0.4,
            "optim/lr": 1e-3 * (1 - done),
            "train/grad_norm": 2 + rng.random(),
            "train/windows": step * 16,
            "codebook/perplexity_0": 40 * done + 5,
            "codebook/perplexity_1": 30 * done + 5,
            "codebook/batch_used_fraction": 0.6,
            "perf/windows_per_s": 80 + rng.normal(0, 4),
            "perf/data_wait_fraction": 0.01,
        }
    if step % max(1, steps // 8) == 0:
        ap = 0.07 + 0.4 * (1 - np.exp(-3 * done))
        yield {
            "step": step,
            "val/loss": contrastive,
            "val/contrastive": contrastive - 0.05,
            "val/top1_tie": 0.02 + 0.1 * done,
            "probe/macro_ap": ap,
            "probe/p_ap": ap + 0.1,
            "probe/s_ap": ap - 0.05,
            "codebook/hard_perplexity": 60.0,
            "codebook/hard_perplexity_0": 34.0,
            "codebook/hard_perplexity_1": 26.0,
            "codebook/used_fraction": 0.8,
        }
