"""What pretraining is for: pickers fine-tuned from the checkpoints of a sweep, and their scores."""

from pathlib import Path

import numpy as np
import pandas as pd
import ray
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from sklearn.metrics import average_precision_score

from model.picker import PhasePicker
from raysys.config import RunConfig
from raysys.data.corpus import load_corpus, select
from raysys.data.fixed_windows import FixedWindows, fixed_windows
from raysys.evaluate.probe import IGNORED, NOISE, P, S, frame_labels
from raysys.train.step import autocast
from raysys.tune.trial import trial_resources

CLASSES = {P: 0, S: 1, NOISE: 2, IGNORED: -100}
"""Probe's classes -> channels of the picker."""


@ray.remote(max_retries=1)
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
    optimizer = torch.optim.AdamW([slow, fast], weight_decay=0.01, foreach=True)
    labels, rng = channels(fit, config), np.random.default_rng(0)
    counts = torch.tensor([(labels == c).sum() for c in range(3)], dtype=torch.float32)
    weight = (counts.sum() / counts.clamp_min(1)).sqrt().to(device)
    waveform, num_valid, truth = (torch.tensor(x, device=device) for x in (fit.waveform, fit.num_valid, labels))
    rows = [rng.choice(len(fit), min(16, len(fit)), replace=False) for _ in range(steps)]
    for part in torch.tensor(np.array(rows), device=device):
        with autocast(config, device):
            logits = picker.logits(waveform[part], num_valid[part])
        loss = F.cross_entropy(logits.float(), truth[part], weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return precision(picker.eval(), score, config, device)


@torch.no_grad()
def precision(picker: PhasePicker, score: FixedWindows, config: RunConfig, device: torch.device) -> float:
    """Returns the mean over P and S of the average precision over samples."""
    probabilities = []
    for i in range(0, len(score), 32):
        part = score.take(slice(i, i + 32))
        with autocast(config, device):
            of_part = picker(*(torch.tensor(x, device=device) for x in (part.waveform, part.num_valid)))
        probabilities.append(of_part.cpu().numpy())
    joined, labels = np.concatenate(probabilities), channels(score, config)
    known = labels != CLASSES[IGNORED]
    return float(np.mean([average_precision_score((labels == c)[known], joined[:, c][known]) for c in (0, 1)]))


def channels(windows: FixedWindows, config: RunConfig) -> np.ndarray:
    """Returns the picker's channel of every sample, (n, T) int64."""
    classes = frame_labels(windows, np.arange(windows.waveform.shape[-1]), config.probe)
    return np.select([classes == c for c in CLASSES], list(CLASSES.values())).astype(np.int64)


def head_scores(config: RunConfig, trials: pd.DataFrame, steps: int, out: Path) -> pd.Series:
    """Returns trial -> score of a picker fine-tuned from its checkpoint on a tenth of the labelled training traces.

    As many at a time as trials; heads.csv grows with every score.
    """
    corpus = load_corpus(config.data)
    training, dev = select(corpus, "train"), select(corpus, "dev")
    tenth = training.take(np.random.default_rng(0).permutation(len(training))[: max(16, len(training) // 10)])
    window = config.model.window_samples
    fit = ray.put(fixed_windows(tenth, config.probe.fit_windows, window, 7, labelled=True))
    score = ray.put(fixed_windows(dev, config.probe.score_windows, window, 8, labelled=True))
    resources = trial_resources(config)
    task = head_score.options(num_cpus=resources["CPU"], num_gpus=resources.get("GPU", 0))
    waiting = {}
    for trial in trials.loc[trials["status"] == "TERMINATED", "trial"]:
        checkpoint = max((Path(config.storage) / config.name / f"trial_{trial}").glob("checkpoint_*"))
        waiting[task.remote(checkpoint, config, fit, score, steps)] = trial
    found: dict[str, float] = {}
    while waiting:
        [ready], _ = ray.wait(list(waiting), num_returns=1)
        found[waiting.pop(ready)] = ray.get(ready)
        pd.Series(found, name="picking_head").to_csv(out / "heads.csv", index_label="trial")
    return pd.Series(found, dtype=float)
