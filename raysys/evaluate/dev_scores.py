"""What a fine-tuned network scores on the fixed windows of the dev split, without any threshold."""

from dataclasses import dataclass

import numpy as np

from raysys.data.fixed_windows import FixedWindows
from raysys.data.windows import RATE_HZ

TOLERANCES_S = (0.1, 0.5)
"""Within which a pick hits an onset: a good one, and the common one (Muenchmeyer et al. 2022)."""


@dataclass(frozen=True, slots=True)
class PickReading:
    """What a picker says of n windows.

    Attributes:
        sample: (n, 2) samples of the highest probability of P and of S.
        event: (n,) highest probability that a sample is no noise.
    """

    sample: np.ndarray
    event: np.ndarray


def hits(windows: FixedWindows, sample: np.ndarray) -> dict[str, np.ndarray]:
    """Returns for P and S at each tolerance ("p_hit_0.1s") whether the highest probability lies at an onset, (windows with one,)."""
    p, s, _ = windows.onsets()
    found = {}
    for wave, onsets, at in (("p", p, sample[:, 0]), ("s", s, sample[:, 1])):
        has = ~np.isnan(onsets[:, 0])
        distance = np.nanmin(np.abs(onsets[has] - at[has, None]), axis=1, initial=np.inf)
        found |= {f"{wave}_hit_{tolerance:g}s": distance <= tolerance * RATE_HZ for tolerance in TOLERANCES_S}
    return found


def pick_scores(windows: FixedWindows, reading: PickReading) -> dict[str, float]:
    """Returns dev/p_hit_0.1s and its like, their mean dev/score, and dev/event_auc; NaN where labels are missing.

    The score is NaN where one wave has no labels: a mean of the other alone would compare with nothing.
    """
    scores = {
        f"dev/{name}": float(right.mean()) if len(right) else float("nan")
        for name, right in hits(windows, reading.sample).items()
    }
    return scores | {
        "dev/event_auc": event_auc(windows, reading.event),
        "dev/score": float(np.mean(list(scores.values()))),
    }


def event_auc(windows: FixedWindows, event: np.ndarray) -> float:
    """Returns the area under the ROC curve of windows with an onset against windows of noise traces; NaN without one of them.

    Args:
        windows: of which those with neither an onset nor the certainty of noise do not count.
        event: (n,) larger where an earthquake is more probable.
    """
    from sklearn.metrics import roc_auc_score  # takes a second, which drivers need not spend

    p, s, _ = windows.onsets()
    quake = ~np.isnan(p[:, 0]) | ~np.isnan(s[:, 0])
    counts = quake | windows.noise
    if not quake.any() or not windows.noise.any():
        return float("nan")
    return float(roc_auc_score(quake[counts], event[counts]))


def frame_scores(truth: np.ndarray, probability: np.ndarray) -> float:
    """Returns the average precision of samples inside of an earthquake, of those whose label is known; NaN without both kinds."""
    from sklearn.metrics import average_precision_score

    inside = truth > 0.5
    if inside.all() or not inside.any():
        return float("nan")
    return float(average_precision_score(inside, probability))


def class_scores(group: np.ndarray, probability: np.ndarray) -> dict[str, float]:
    """Returns dev/accuracy, and dev/score, the mean of the recalls of the classes; NaN where a class has no window.

    Args:
        group: (n,) class of each window.
        probability: (n, classes).
    """
    right = probability.argmax(axis=1) == group
    recalls = [right[group == k].mean() if (group == k).any() else float("nan") for k in range(probability.shape[1])]
    return {"dev/accuracy": float(right.mean()) if len(right) else float("nan"), "dev/score": float(np.mean(recalls))}
