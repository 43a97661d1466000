"""Folders of fine-tuning and evaluation as the jobs write them, with numbers that are known."""

import json

import numpy as np

from raysys.presets import demo, finetuning
from tests.report.conftest import BUDGET

DATASETS = ("ETHZ", "GEOFON", "ncedc_phasenet", "Iquique", "MesetasAftershocks", "uturuncu")
HITS = {"P_hit_0.1s": 0.77, "P_hit_0.5s": 0.945, "S_hit_0.1s": 0.69, "S_hit_0.5s": 0.88}
LOST = {"results/base-b": 1.0, "scratch": 1.7, "phasenet": 2.3}
"""Misses of each start over those of the first."""
EDGES = np.round(np.arange(-0.5, 0.501, 0.02), 2)


def write_finetuned(path, task="pick", steps=800):
    """Writes a fine-tuning run whose score is best at three quarters of its steps."""
    rng = np.random.default_rng(3)
    path.mkdir(parents=True)
    config = finetuning(demo(), task, "scratch").override({"finetune.label_fraction": 0.1, "name": path.name})
    tree = config.to_dict()
    tree["finetune"]["init"] = "results/base-b"
    (path / "config.json").write_text(json.dumps(tree))
    labels = {"traces": 135, "of": 1349, "by_dataset": {"ETHZ": [35, 349], "GEOFON": [100, 1000]}, "dev": 240}
    record = {"command": f"python -m jobs.finetune demo --task {task}", "data": {"sets": [], "labels": labels}}
    (path / "record.json").write_text(json.dumps(record))
    lines = [line for step in range(5, steps + 1, 5) for line in _lines(task, step, steps, rng)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def _lines(task, step, steps, rng):
    done = step / steps
    yield {
        "step": step,
        "train/loss": 0.4 * np.exp(-4 * done) + 0.05 + rng.normal(0, 0.01),
        "train/grad_norm": 1 + rng.random(),
        "optim/lr": 2e-3 * (1 - done),
        "optim/backbone_lr": 3e-4 * (1 - done) * (done > 0.15),
        "perf/windows_per_s": 600 + rng.normal(0, 20),
        "perf/data_wait_fraction": 0.01,
    }
    if step % (steps // 8) == 0:
        level = 1 - np.exp(-5 * done) - 0.3 * max(0.0, done - 0.75)
        parts = {f"dev/{k.lower()}": v * level for k, v in HITS.items()} if task == "pick" else {}
        parts |= {"dev/accuracy": 0.9 * level} if task == "classify" else {"dev/event_auc": 0.5 + 0.48 * level}
        parts |= {"dev/frame_ap": 0.9 * level} if task == "detect" else {}
        score = np.mean([parts[f"dev/{k.lower()}"] for k in HITS]) if task == "pick" else 0.85 * level
        yield {"step": step, "dev/loss": 0.3 * np.exp(-4 * done) + 0.1 * done, "dev/score": score, **parts}


def write_finetuned_sweep(path, trials=12):
    """Writes a sweep of fine-tuning runs; one trial's score is not finite."""
    rng = np.random.default_rng(5)
    path.mkdir()
    config = finetuning(demo(), "pick", "scratch").override({"name": path.name, "search.scheduler": "none"})
    (path / "config.json").write_text(json.dumps(config.to_dict()))
    rows, history = [], []
    for i in range(trials):
        values = {"optim.lr": 10 ** rng.uniform(-3.3, -2.3), "finetune.backbone_lr": 10 ** rng.uniform(-1.5, -0.25)}
        values |= {"head.dropout": rng.uniform(0, 0.4), "head.span_mask": rng.uniform(0, 0.3)}
        score = 0.8 - 0.4 * (np.log10(values["optim.lr"]) + 2.7) ** 2 + rng.normal(0, 0.01)
        metrics = {"dev/score": score, "dev/loss": 0.3 - 0.2 * score, "dev/event_auc": 0.9 + 0.1 * score}
        metrics |= {"dev/p_hit_0.5s": score + 0.1, "dev/s_hit_0.5s": score - 0.05}
        for k in range(1, 9):
            seen = {"trial": f"{i:05d}", "step": 10 * k, "windows": BUDGET * k // 8}
            history.append(seen | metrics | {"dev/score": score * (1 - np.exp(-k))})
        rows.append({"trial": f"{i:05d}", "status": "TERMINATED", "windows": BUDGET, "budget_windows": BUDGET})
        rows[-1] |= {"seconds": 60.0, "objective": score, "healthy": True, "reason": "", **values, **metrics}
    rows[2] |= {"objective": 0.0, "healthy": False, "reason": "the loss is not finite"}
    for name, table in (("trials", rows), ("history", history)):
        lines = [",".join(table[0])] + [",".join(str(row[key]) for key in table[0]) for row in table]
        (path / f"{name}.csv").write_text("\n".join(lines) + "\n")
    (path / "best.json").write_text(json.dumps({"trial": "00000", "objective": "dev/score", "config": {}}))
    return path


def write_evaluation(path, fractions=(0.02, 0.1, 1.0), seeds=(0, 1), examples=32):
    """Writes an evaluation of three starts at some shares of the labels, and of published weights."""
    path.mkdir(parents=True)
    rng = np.random.default_rng(7)
    models = {}
    for init, lost in LOST.items():
        for fraction in fractions:
            for seed in seeds:
                name = f"{init.split('/')[-1]}-{100 * fraction:g}" + (f"-s{seed}" if len(seeds) > 1 else "")
                more = lost * (1 - 0.28 * np.log10(fraction)) ** 2 * (1 + rng.normal(0, 0.02))
                told = {"source": f"results/{name}", "checkpoint": f"results/{name}/step000000800", "task": "pick"}
                told |= {"init": init, "label_fraction": fraction, "seed": seed, "trained_on": list(DATASETS[:4])}
                models[name] = told | _scored(more, rng)
    told = {"source": "phasenet:instance", "checkpoint": "", "task": "pick", "init": None, "label_fraction": None}
    models["phasenet-instance"] = told | {"seed": None, "trained_on": ["INSTANCE"]} | _scored(1.5, rng)
    content = {
        "format": 1,
        "data": {"datasets": list(DATASETS), "fingerprint": "0f3c", "resamples": 1000},
        "models": models,
        "differences": list(_differences(models)),
    }
    (path / "evaluation.json").write_text(json.dumps(content))
    (path / "metrics.csv").write_text("model,dataset,metric,value\n")
    write_examples(path / "examples.npz", models, examples, rng)
    return path


def _scored(lost, rng):
    metrics = {"all": _metrics(lost, 2000, rng)}
    metrics |= {name: _metrics(lost * (0.7 + 0.15 * i), 200 + 90 * i, rng) for i, name in enumerate(DATASETS)}
    metrics["uturuncu"]["test_S_hit_0.5s"] = {"value": None, "low": None, "high": None, "count": 0}
    residuals = {wave: _residuals(lost * wide) for wave, wide in (("P", 0.04), ("S", 0.08))}
    thresholds = {"P": 0.31, "S": 0.27, "det": 0.4, "phase": 1.1}
    return {
        "thresholds": thresholds,
        "temperature": 1.3,
        "metrics": metrics,
        "residuals": {"all": residuals},
        "reliability": {"all": _reliability(lost)},
    }


def _metrics(lost, count, rng):
    values = {f"test_{k}": np.clip(1 - lost * (1 - v), 0.02, 0.99) for k, v in HITS.items()}
    values |= {f"test_{wave}_f1_0.5s": 0.97 * values[f"test_{wave}_hit_0.5s"] for wave in "PS"}
    values |= {"test_event_auc": 1 - 0.003 * lost, "test_phase_mcc": 1 - 0.02 * lost}
    values |= {"test_P_residual_mae_s": 0.05 * lost, "test_S_residual_mae_s": 0.08 * lost}
    values |= {"test_ece": 0.05 * lost, "test_ece_scaled": 0.015 * lost}
    return {name: _estimate(float(value), count, rng) for name, value in values.items()}


def _estimate(value, count, rng):
    half = 1.96 * np.sqrt(max(1e-6, abs(value * (1 - value))) / count)
    return {"value": value, "low": value - half, "high": value + half, "count": count}


def _residuals(wide):
    middle = (EDGES[1:] + EDGES[:-1]) / 2
    return {"edges": EDGES.tolist(), "counts": np.round(900 * np.exp(-np.abs(middle) / wide)).astype(int).tolist()}


def _reliability(lost):
    p = (np.arange(15) + 0.5) / 15
    count = [0, 0, *[40] * 10, 90, 200, 900]
    right = [None if not n else float(v) for v, n in zip(p ** (1 + 0.5 * lost), count, strict=True)]
    confidence = [None if not n else float(v) for v, n in zip(p, count, strict=True)]
    before = {"count": count, "confidence": confidence, "right": right}
    after = {"count": count, "confidence": confidence, "right": confidence}
    return {"edges": np.linspace(0, 1, 16).tolist(), "before": before, "after": after}


def _differences(models):
    names = list(models)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            for metric in (*(f"test_{k}" for k in HITS), "test_event_auc"):
                one, two = (models[m]["metrics"]["all"][metric] for m in (a, b))
                value, half = one["value"] - two["value"], 0.6 * (one["high"] - one["value"])
                yield {"a": a, "b": b, "metric": metric, "value": value, "low": value - half, "high": value + half}


def write_examples(file, models, count, rng, samples=3001):
    time = np.arange(samples)
    p = rng.integers(300, 1200, count).astype(float)
    s = np.where(rng.random(count) < 0.8, p + rng.integers(200, 1400, count), np.nan)
    p[count // 2 :: 7] = np.nan
    waveform = rng.normal(0, 0.1, (count, 3, samples))
    for onsets, gains, length in ((p, (1.0, 0.4, 0.4), 250), (s, (0.4, 1.2, 1.3), 500)):
        for i, onset in enumerate(np.nan_to_num(onsets, nan=samples)):
            after = np.clip(time - onset, 0, None)
            shape = np.exp(-after / length) * np.clip(after / 15, 0, 1)
            waveform[i] += shape * rng.normal(0, 1, (3, samples)) * np.array(gains)[:, None]
    waveform = np.cumsum(waveform - 0.1 * waveform, axis=-1) * 0.2 + waveform
    waveform -= waveform.mean(axis=-1, keepdims=True)
    content = {
        "waveform": waveform.astype(np.float32),
        "num_valid": np.where(np.arange(count) % 9 == 8, 2400, samples),
        "p": np.stack([p, np.full(count, np.nan)], axis=1),
        "s": s[:, None],
        "dataset": np.array([DATASETS[i % len(DATASETS)] for i in range(count)]),
        "trace": np.array([f"bucket{i % 3}${i},:3,:3001" for i in range(count)]),
    }
    for name in models:
        peaks = [
            np.nan_to_num(0.9 * rng.random((count, 1)) * np.exp(-(((time - x[:, None] - rng.normal(0, 8)) / 18.0) ** 2)))
            for x in (p, s)
        ]
        both = np.stack(peaks, axis=1)
        content[f"probability/{name}"] = np.concatenate([both, 1 - both.sum(axis=1, keepdims=True)], axis=1).astype("f2")
    np.savez(file, **content)
