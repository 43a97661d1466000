"""The score that trials are compared by: a linear probe for P, S and noise on frozen features.

Ridge regression in closed form, classes weighted equally, scored by the macro average precision of P and S frames on
windows the probe was not fitted to. It depends on nothing that a search tunes.
"""

import numpy as np
import torch
import torch.distributed as dist

from model.labels import may_hide_an_onset
from raysys.config import ProbeConfig
from raysys.data.fixed_windows import FixedWindows
from raysys.data.windows import RATE_HZ

NOISE, P, S, IGNORED = 0, 1, 2, -1
_GUARD_S = 0.5
"""Frames this near to those of an onset, but not among them, belong to no class."""


def frame_labels(windows: FixedWindows, center: np.ndarray, config: ProbeConfig) -> np.ndarray:
    """Returns the class of every frame, (n, frames) int8: NOISE, P, S or IGNORED, for frames centred on samples (frames,).

    Frames that may hold an onset nobody picked are ignored: those after a P that no S follows before the next P, those
    before an S that no P precedes after the S before it, all of them in earthquake records without picks, those at
    onsets of other phases, and the padding.
    """
    p, s, other = windows.onsets()
    labels = np.full((len(windows), len(center)), NOISE, np.int8)
    labels[np.isnan(p).all(axis=1) & np.isnan(s).all(axis=1) & ~windows.noise] = IGNORED
    labels[may_hide_an_onset(*(torch.tensor(x) for x in (p, s, center))).numpy()] = IGNORED
    to_p, to_s, to_other = ((center - onset[:, :, None]) / RATE_HZ for onset in (p, s, other))
    for distance in (to_p, to_s, to_other):
        labels[((distance > -_GUARD_S) & (distance < config.after_s + _GUARD_S)).any(axis=1)] = IGNORED
    for distance, wave in ((to_p, P), (to_s, S)):
        labels[((distance >= -config.before_s) & (distance <= config.after_s)).any(axis=1)] = wave
    labels[center[None] >= windows.num_valid[:, None]] = IGNORED
    return labels


def probe_scores(
    encode,
    width: int,
    center: np.ndarray,
    fit: FixedWindows,
    score: FixedWindows,
    config: ProbeConfig,
    batch: int = 64,
) -> dict[str, float]:
    """Returns probe/p_ap, probe/s_ap and their mean probe/macro_ap; NaN for a wave without labels, and then for the mean.

    The score of one wave alone is no mean of two: it would rise where the labels of the harder one are missing. A NaN
    compares with nothing; the score of the other wave stays comparable.

    Args:
        encode: waveform (B, 3, T), num_valid (B,) -> features (B, frames, width) on any device.
        width: of the features.
        center: (frames,) the samples that frames are centred on.
        fit: this rank's share of the windows that fit the probe.
        score: this rank's share of the windows that score it.
        config: ridge, and which frames belong to an onset.
        batch: windows encoded at once.

    With torch.distributed running, every rank passes its share and all ranks return the same scores.
    """
    from sklearn.metrics import average_precision_score  # takes a second, which drivers need not spend

    gram, moment = _moments(encode, width, center, fit, config, batch)
    fitted = moment[-1] > 0  # the bias of every class with frames
    weights = _ridge(gram, moment, config.ridge) if fitted.any() else moment
    predicted, labels = [], []
    for features, frame_class in _features(encode, center, score, config, batch):
        predicted.append((_with_bias(features) @ weights.to(features.device)).cpu().numpy())
        labels.append(frame_class)
    predicted, labels = _gather(predicted, labels)
    out = {}
    for name, wave in (("p", P), ("s", S)):
        truth = labels == wave
        scores = predicted[:, wave] - predicted[:, NOISE] if len(predicted) else predicted
        labelled = fitted[wave] and truth.any()
        out[f"probe/{name}_ap"] = float(average_precision_score(truth, scores)) if labelled else float("nan")
    return out | {"probe/macro_ap": float(np.mean(list(out.values())))}


def _moments(encode, width: int, center: np.ndarray, windows: FixedWindows, config: ProbeConfig, batch: int):
    """Class-balanced mean of x x^T, (width + 1, width + 1), and of x by class, (width + 1, 3), over all ranks."""
    gram, total, count = (
        torch.zeros(3, width + 1, width + 1, dtype=torch.float64),
        torch.zeros(3, width + 1, dtype=torch.float64),
        torch.zeros(3),
    )
    for features, frame_class in _features(encode, center, windows, config, batch):
        x = _with_bias(features)
        for c in (NOISE, P, S):
            of_class = x[torch.from_numpy(frame_class == c).to(x.device)]
            gram[c] += (of_class.T @ of_class).cpu()
            total[c] += of_class.sum(0).cpu()
            count[c] += len(of_class)
    gram, total, count = _all_sum(gram), _all_sum(total), _all_sum(count).clamp_min(1)
    return (gram / count[:, None, None]).sum(0), (total / count[:, None]).T


def _features(encode, center: np.ndarray, windows: FixedWindows, config: ProbeConfig, batch: int):
    """Features (frames, D) in float64 and classes (frames,) of the labelled frames, batch by batch."""
    for part in windows.batches(batch):
        with torch.no_grad():
            features = encode(torch.tensor(part.waveform), torch.tensor(part.num_valid))
        labels = frame_labels(part, center, config)
        used = labels != IGNORED
        if used.any():
            yield features[torch.from_numpy(used).to(features.device)].double(), labels[used]


def _ridge(gram: torch.Tensor, moment: torch.Tensor, ridge: float) -> torch.Tensor:
    size = gram.shape[0]
    penalty = ridge * gram.diagonal()[:-1].mean() * torch.eye(size, dtype=gram.dtype, device=gram.device)
    penalty[-1, -1] = 1e-12  # the bias is free
    return torch.linalg.solve(gram + penalty, moment)


def _with_bias(features: torch.Tensor) -> torch.Tensor:
    return torch.cat([features, features.new_ones(len(features), 1)], dim=1)


def _all_sum(tensor: torch.Tensor) -> torch.Tensor:
    if dist.is_available() and dist.is_initialized():
        moved = tensor.cuda() if dist.get_backend() == "nccl" else tensor
        dist.all_reduce(moved)
        return moved.to(tensor.device)
    return tensor


def _gather(predicted: list, labels: list) -> tuple[np.ndarray, np.ndarray]:
    mine = (
        (np.concatenate(predicted), np.concatenate(labels)) if predicted else (np.zeros((0, 3)), np.zeros(0, np.int8))
    )
    if not (dist.is_available() and dist.is_initialized()):
        return mine
    parts: list = [None] * dist.get_world_size()
    dist.all_gather_object(parts, mine)
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
