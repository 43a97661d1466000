"""Folders of fine-tuning and of evaluations as the jobs write them, with scores that are known."""

import json

import numpy as np
import pandas as pd

from raysys.presets import base, finetuning

DATASETS = ("ncedc_phasenet", "mesetas", "iceland_vt")
SKILL = {"results/pretrained": 0.93, "scratch": 0.86, "phasenet": 0.80}
"""What a picker began with -> share of P within 0.5 s with all labels."""
FRACTIONS = (0.02, 0.1, 1.0)
SHORT = {"results/pretrained": "ours", "scratch": "scratch", "phasenet": "phasenet"}
_LABELS = {"ncedc_phasenet": [60, 600], "mesetas": [40, 400], "iceland_vt": [35, 349]}


def write_finetuned(path, steps=800, task="pick", init="results/pretrained", seed=0):
    """Returns the folder of a fine-tuning run without checkpoints; its best score is at three quarters of the steps."""
    rng = np.random.default_rng(seed)
    path.mkdir(parents=True)
    config = finetuning(base(), task, "scratch").override(
        {"name": path.name, "finetune.init": init, "finetune.label_fraction": 0.1}
    )
    (path / "config.json").write_text(json.dumps(config.to_dict()))
    one = {"traces": 1000, "train": 600, "dev": 100, "test": 300, "p_labels": 800, "s_labels": 500}
    one |= {"rates_hz": [100.0], "left_out": {"dead": 3}, "kept": {}, "scanned": True}
    labels = {"traces": 135, "of": 1349, "by_dataset": _LABELS, "dev": 240}
    data = {"sets": [{"dataset": name} | one for name in DATASETS], "leaks": [], "labels": labels}
    record = {"time": "2026-11-30T06:00:00+0000", "command": "python -m jobs.finetune base", "git_commit": "0" * 40}
    record |= {"versions": {"torch": "2.13.0"}, "devices": ["NVIDIA H200"], "machine": "Linux", "seed": 0, "data": data}
    (path / "record.json").write_text(json.dumps(record))
    lines = [line for step in range(10, steps + 1, 10) for line in _lines(step, steps, task, init, rng)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def _lines(step, steps, task, init, rng):
    done = step / steps
    rate = 2e-3 * min(1, 10 * done) * (1 - done)
    frozen = "pretrained" in init and done < 0.15
    yield {
        "step": step,
        "train/loss": 0.02 + 0.3 * np.exp(-6 * done) + rng.normal(0, 0.004),
        "train/grad_norm": 1 + rng.random(),
        "train/windows": 32 * step,
        "optim/lr": rate,
        "optim/backbone_lr": 0.0 if frozen else 0.15 * rate,
        "perf/windows_per_s": 900 + rng.normal(0, 30),
        "perf/data_wait_fraction": 0.02,
    }
    if step % (steps // 8) == 0:
        rise = (1 - np.exp(-5 * done)) * (1 - 2 * max(0, done - 0.75) ** 2)
        yield {"step": step, "dev/loss": 0.05 + 0.25 * np.exp(-5 * done) + 0.04 * done} | dev_scores(task, rise)


def dev_scores(task, rise):
    """Scores on the dev split of a network that has come so far (1: as far as it gets)."""
    if task == "classify":
        return {"dev/accuracy": 0.95 * rise, "dev/score": 0.9 * rise}
    if task == "detect":
        return {"dev/event_auc": 0.98 * rise, "dev/frame_ap": 0.92 * rise, "dev/score": 0.92 * rise}
    hits = {"dev/p_hit_0.1s": 0.68, "dev/p_hit_0.5s": 0.9, "dev/s_hit_0.1s": 0.58, "dev/s_hit_0.5s": 0.84}
    hits = {name: value * rise for name, value in hits.items()}
    return hits | {"dev/event_auc": 0.5 + 0.48 * rise, "dev/score": float(np.mean(list(hits.values())))}


def write_finetuning_sweep(path, trials=12, seed=0):
    """Returns the folder of a sweep of fine-tuning without stopped trials; larger learning rates are better."""
    rng = np.random.default_rng(seed)
    path.mkdir(parents=True)
    config = finetuning(base(), "pick", "scratch").override(
        {
            "name": "heads",
            "search.scheduler": "none",
            "search.space": ("optim.lr=loguniform(5e-4, 5e-3)", "head.dropout=uniform(0, 0.4)"),
        }
    )
    (path / "config.json").write_text(json.dumps(config.to_dict()))
    rows, history, windows = [], [], 25_600
    for i in range(trials):
        tuned = {"optim.lr": 5e-4 * 10 ** rng.random(), "head.dropout": 0.4 * rng.random()}
        skill = 0.7 + 0.25 * np.log10(tuned["optim.lr"] / 5e-4) + rng.normal(0, 0.005)
        for part in (0.25, 0.5, 0.75, 1.0):
            metrics = dev_scores("pick", skill * (1 - np.exp(-5 * part))) | {"dev/loss": 0.2 - 0.1 * skill * part}
            history.append({"trial": f"{i:05d}", "windows": int(part * windows), "seconds": 30 * part, **metrics})
        row = {"trial": f"{i:05d}", "status": "TERMINATED", "reason": "", "windows": windows, "budget_windows": windows}
        rows.append(
            row | {"seconds": 30, "objective": metrics["dev/score"], "healthy": True, "gpus": 1} | tuned | metrics
        )
    pd.DataFrame(rows).to_csv(path / "trials.csv", index=False)
    pd.DataFrame(history).to_csv(path / "history.csv", index=False)
    best = max(rows, key=lambda row: row["objective"])
    content = {"trial": best["trial"], "objective": "dev/score", "value": best["objective"], "config": config.to_dict()}
    (path / "best.json").write_text(json.dumps(content))
    return path


def write_evaluation(path, seeds=2, fractions=FRACTIONS, published=True, windows=32, others=False):
    """Returns the folder of an evaluation of pickers that differ in their start, their labels and their seed.

    Args:
        path: of the folder.
        seeds: of each kind of picker.
        fractions: of the labels.
        published: whether a PhaseNet as it was published is among the models.
        windows: in examples.npz.
        others: whether there are a detector and a classifier, too.
    """
    rng = np.random.default_rng(0)
    path.mkdir(parents=True)
    models = {
        f"{SHORT[init]}-{100 * fraction:g}-{seed}": picker(init, fraction, seed, rng)
        for init in SKILL
        for fraction in fractions
        for seed in range(seeds)
    }
    if published:
        models["phasenet-instance"] = picker("phasenet", 1.0, 0, rng) | {
            "source": "phasenet:instance",
            "checkpoint": "",
            "init": None,
            "label_fraction": None,
            "seed": None,
            "trained_on": ["instance"],
        }
    if others:
        models |= {"detector": detector(), "classifier": classifier()}
    sets = {name: {"dev_task1": 120, "test_task1": 300, "fingerprint": "abc"} for name in DATASETS}
    data = {"root": "shared/data", "targets": None, "resamples": 1000, "level": 0.95, "datasets": sets}
    content = {"format": 1, "data": data, "models": models, "differences": differences(models)}
    (path / "evaluation.json").write_text(json.dumps(content))
    np.savez_compressed(path / "examples.npz", **example_arrays(list(models), windows, rng))
    return path


def estimate(value, width=0.02, count=340):
    return {"value": value, "low": value - width, "high": value + width, "count": count}


def picker(init, fraction, seed, rng):
    """One picker as evaluation.json tells it."""
    lost = 0.08 * -np.log10(fraction) * (2.5 if init == "phasenet" else 1.6 if init == "scratch" else 0.8)
    skill = SKILL[init] - lost + rng.normal(0, 0.006)
    metrics = {name: _picks(skill - 0.06 * i, i) for i, name in enumerate(DATASETS)} | {"all": _picks(skill - 0.05, 0)}
    edges = np.linspace(-0.5, 0.5, 51)
    middle = (edges[1:] + edges[:-1]) / 2
    bins = np.linspace(0, 1, 16)
    sure = (bins[1:] + bins[:-1]) / 2
    count = np.linspace(5, 60, 15).round().tolist()
    reliability = {
        "before": {"counts": count, "confidence": sure.tolist(), "accuracy": (sure * skill).tolist()},
        "after": {"counts": count, "confidence": sure.tolist(), "accuracy": (0.99 * sure).tolist()},
    }
    residuals = {
        wave: {
            "edges": edges.tolist(),
            "counts": (300 * np.exp(-0.5 * (middle / (width / skill)) ** 2)).round().tolist(),
        }
        for wave, width in (("P", 0.04), ("S", 0.09))
    }
    return {
        "source": f"results/{SHORT[init]}-{100 * fraction:g}-{seed}",
        "checkpoint": f"results/{SHORT[init]}-{100 * fraction:g}-{seed}/step000000600",
        "task": "pick",
        "init": init,
        "label_fraction": fraction,
        "seed": seed,
        "trained_on": list(DATASETS[:2]),
        "thresholds": {"P": 0.31, "S": 0.24, "det": 0.44, "phase": 1.02},
        "temperature": 1.3,
        "metrics": metrics,
        "residuals": {"all": residuals},
        "reliability": {"all": reliability},
    }


def _picks(skill, harder):
    values = {
        "test_P_hit_0.5s": skill,
        "test_P_hit_0.1s": skill - 0.18,
        "test_S_hit_0.5s": skill - 0.08,
        "test_S_hit_0.1s": skill - 0.27,
        "test_P_f1_0.5s": skill - 0.02,
        "test_S_f1_0.5s": skill - 0.1,
        "test_event_auc": min(0.999, 0.93 + 0.07 * skill),
        "test_phase_mcc": skill - 0.03,
    }
    found = {name: estimate(value, count=190 if "_S_" in name else 347) for name, value in values.items()}
    found["test_event_auc"] = estimate(values["test_event_auc"], 0.003)
    for wave, size in (("P", 0.09), ("S", 0.14)):
        found[f"test_{wave}_residual_mae_s"] = estimate(size * (1.5 - 0.5 * skill), 0.008)
    for name, value in (("test_ece", 0.2 - 0.1 * skill), ("test_ece_cooled", 0.03)):
        found[name] = estimate(value, 0.01)
    return found if harder < 2 else found | {"test_event_auc": dict.fromkeys(("value", "low", "high")) | {"count": 0}}


def detector():
    """A detector as evaluation.json tells it."""
    metrics = {"test_event_auc": estimate(0.985, 0.004), "test_det_auc": estimate(0.97), "test_det_f1": estimate(0.94)}
    told = {"source": "results/d", "checkpoint": "", "task": "detect", "init": "scratch", "label_fraction": 1.0}
    return told | {"seed": 0, "trained_on": [], "metrics": {"all": metrics}, "thresholds": {"det": 0.5}}


def classifier():
    """A classifier as evaluation.json tells it."""
    metrics = {"test_accuracy": estimate(0.93), "test_mean_recall": estimate(0.9)}
    told = {"source": "results/c", "checkpoint": "", "task": "classify", "init": "scratch", "label_fraction": 1.0}
    confusion = {"all": {"classes": ["earthquake", "noise"], "counts": [[95, 5], [9, 91]]}}
    return told | {"seed": 0, "trained_on": [], "metrics": {"all": metrics}, "confusion": confusion}


def differences(models):
    """The paired differences of all models in the metrics of all data."""
    names, pairs = list(models), []
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            first, second = (models[name]["metrics"]["all"] for name in (a, b))
            for metric in first:
                if metric in second:
                    value = first[metric]["value"] - second[metric]["value"]
                    pair = {"a": a, "b": b, "metric": metric, "value": value}
                    pairs.append(pair | {"low": value - 0.012, "high": value + 0.012})
    return pairs


def example_arrays(models, windows, rng, samples=3000):
    """What examples.npz holds: decaying oscillations after P and S, every fourth window noise, a network that is a little late."""
    t = np.arange(samples)
    p = np.where(np.arange(windows) % 4 == 3, np.nan, rng.uniform(600, 1400, windows))
    s = p + rng.uniform(300, 1200, windows)
    wave = rng.normal(0, 0.05, (windows, 3, samples)).astype(np.float32)
    for i in np.flatnonzero(~np.isnan(p)):
        for onset, sizes, decay in ((p[i], (1.0, 0.3, 0.3), 250), (s[i], (0.6, 1.8, 1.6), 500)):
            after = np.clip(t - onset, 0, None)
            envelope = (t >= onset) * np.exp(-after / decay) * (1 - np.exp(-after / 12))
            for c, size in enumerate(sizes):
                wave[i, c] += size * envelope * np.sin(after / rng.uniform(2, 5) + c) * rng.normal(1, 0.3, samples)
    arrays = {"waveform": wave, "num_valid": np.where(np.arange(windows) % 9 == 8, 2400, samples)}
    arrays |= {"p": np.stack([p, np.full(windows, np.nan)], axis=1), "s": s[:, None]}
    arrays |= {"dataset": np.array([DATASETS[i % 3] for i in range(windows)])}
    arrays |= {"trace": np.array([f"bucket{i % 7}${i},:3,:12000" for i in range(windows)])}
    for k, name in enumerate(models):
        late = rng.normal(0, 6 + 4 * k, windows)
        curves = [
            np.nan_to_num(np.exp(-0.5 * ((t - x[:, None] - late[:, None]) / 20) ** 2))
            * rng.uniform(0.4, 1, (windows, 1))
            for x in (p, s)
        ]
        arrays[f"probability/{name}"] = np.stack([*curves, 1 - np.maximum(*curves)], axis=1).astype(np.float16)
    return arrays
