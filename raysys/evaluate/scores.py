"""The scores of pickers, detectors and classifiers, as statistics of which `raysys.evaluate.intervals` draws intervals."""

import numpy as np
import pandas as pd

from raysys.evaluate.dev_scores import TOLERANCES_S
from raysys.evaluate.intervals import Middle, Ranks, Statistic, Sums
from raysys.evaluate.tasks import SPLITS
from raysys.evaluate.thresholds import Thresholds

Tables = dict[str, pd.DataFrame]
"""What `raysys.evaluate.predictions.read_dataset` returns, with a column `unit` in the tables of tasks and windows: the number of the event."""


def statistics_of(
    tables: Tables, task: str, thresholds: Thresholds, splits: tuple[str, ...] = SPLITS
) -> dict[str, Statistic]:
    """Returns every score of a data set by its name, "test_P_hit_0.1s" and so on; what has no labels is left out.

    Names of the tasks of Muenchmeyer et al. 2022 are those of the pick-benchmark; "std" is the root of the mean square there.

    Args:
        tables: of the data set.
        task: of the network.
        thresholds: chosen on dev.
        splits: whose tables have a `unit`.
    """
    out: dict[str, Statistic] = {}
    for split in splits:
        mine = {name.removeprefix(f"{split}_"): table for name, table in tables.items() if name.startswith(split)}
        if task == "classify":
            found = class_statistics(mine["windows"])
        else:
            found = detection_statistics(mine["task1"], thresholds.det) | event_statistics(mine["windows"])
        if task == "pick":
            found |= phase_statistics(mine["task23"], thresholds) | onset_statistics(mine["task23"])
            found |= hit_statistics(mine["windows"])
            for wave, threshold in (("P", thresholds.p), ("S", thresholds.s)):
                found |= pick_statistics(mine["windows"], mine["picks"], wave, threshold)
        out |= {f"{split}_{name}": one for name, one in found.items()}
    return {name: one for name, one in out.items() if one.count}


def detection_statistics(task1: pd.DataFrame, threshold: float) -> dict[str, Statistic]:
    """Returns det_precision, det_recall, det_f1 and det_auc: earthquake or noise."""
    known = task1[task1["score_detection"].notna()] if len(task1) else task1
    if not len(known) or known["trace_type"].nunique() < 2:
        return {}
    truth, score = (known["trace_type"] == "earthquake").to_numpy(), known["score_detection"].to_numpy()
    named = decision_statistics(known["unit"].to_numpy(), truth, score, threshold, "det")
    return {name: one for name, one in named.items() if name != "det_mcc"}


def phase_statistics(task23: pd.DataFrame, thresholds: Thresholds) -> dict[str, Statistic]:
    """Returns phase_precision, phase_recall, phase_f1, phase_mcc and phase_auc: P or S."""
    known = task23[task23["score_p_or_s"].notna()] if len(task23) else task23
    if not len(known) or known["phase_label"].nunique() < 2:
        return {}
    truth, score = (known["phase_label"] == "P").to_numpy(), known["score_p_or_s"].to_numpy()
    unit = known["unit"].to_numpy()
    named = decision_statistics(unit, truth, score, thresholds.phase, "phase")
    return named | {"phase_mcc": decision_statistics(unit, truth, score, thresholds.phase_mcc, "phase")["phase_mcc"]}


def decision_statistics(
    unit, truth: np.ndarray, score: np.ndarray, threshold: float, name: str
) -> dict[str, Statistic]:
    """Returns precision, recall, F1 and MCC of a score against a threshold, and the AUC of the score."""
    yes = score >= threshold
    terms = np.stack([truth & yes, ~truth & yes, truth & ~yes, ~truth & ~yes], axis=1).astype(float)
    formulas = {"precision": _precision, "recall": _recall, "f1": _f1, "mcc": _mcc}
    decided = {f"{name}_{key}": Sums(unit, terms, formula, len(unit)) for key, formula in formulas.items()}
    decided = decided if np.isfinite(threshold) else {}
    return decided | {f"{name}_auc": Ranks(unit, truth, score)}


def onset_statistics(task23: pd.DataFrame) -> dict[str, Statistic]:
    """Returns P_mean_s, P_std_s and P_mae_s, and those of S: how far the highest probability of a target lies from its onset."""
    out: dict[str, Statistic] = {}
    for wave in "PS" if len(task23) else "":
        mine = task23[task23["phase_label"] == wave]
        late = (mine[f"{wave.lower()}_sample_pred"] - mine["phase_onset"]) / mine["sampling_rate"]
        out |= residual_statistics(
            mine["unit"][late.notna()].to_numpy(), late.dropna().to_numpy(), f"{wave}_{{}}_s", "std"
        )
    return out


def event_statistics(windows: pd.DataFrame) -> dict[str, Statistic]:
    """Returns event_auc: whole windows with an onset against those of noise traces."""
    known = windows[windows["quake"] | windows["noise"]] if len(windows) else windows
    if not len(known) or known["quake"].nunique() < 2:
        return {}
    return {"event_auc": Ranks(known["unit"].to_numpy(), known["quake"].to_numpy(), known["event_score"].to_numpy())}


def hit_statistics(windows: pd.DataFrame) -> dict[str, Statistic]:
    """Returns P_hit_0.1s and so on: in how many windows with an onset the highest probability lies at one."""
    out: dict[str, Statistic] = {}
    for wave in "PS" if len(windows) else "":
        for tolerance in TOLERANCES_S:
            right = windows[f"{wave.lower()}_hit_{tolerance:g}s"]
            unit, terms = windows["unit"][right.notna()].to_numpy(), right.dropna().to_numpy()[:, None]
            out[f"{wave}_hit_{tolerance:g}s"] = _mean(unit, terms)
    return out


def pick_statistics(windows: pd.DataFrame, picks: pd.DataFrame, wave: str, threshold: float) -> dict[str, Statistic]:
    """Returns P_precision_0.5s, P_recall_0.5s, P_f1_0.5s and so on, and the residuals of the picks at an onset (within 0.5 s).

    A pick at no onset counts as wrong where labels are known, and not at all elsewhere.
    """
    if not len(windows) or not windows[f"{wave.lower()}_onsets"].any() or not np.isfinite(threshold):
        return {}
    out: dict[str, Statistic] = {}
    unit, onsets = windows["unit"].to_numpy(), windows[f"{wave.lower()}_onsets"].to_numpy(float)
    mine = picks[(picks["wave"] == wave) & (picks[wave.lower()] >= threshold)] if len(picks) else picks
    for tolerance in TOLERANCES_S:
        late = mine[f"late_{tolerance:g}s"] if len(mine) else pd.Series(dtype=float)
        counts = [
            np.bincount(mine["window"][which].astype(int), minlength=len(windows)) if len(mine) else 0 * onsets
            for which in (late.notna(), late.isna() & mine["known"] if len(mine) else None)
        ]
        terms = np.stack([counts[0], counts[1], onsets - counts[0]], axis=1).astype(float)
        for key, formula in (("precision", _precision), ("recall", _recall), ("f1", _f1)):
            out[f"{wave}_{key}_{tolerance:g}s"] = Sums(unit, terms, formula, int(onsets.sum()))
    late = residuals(picks, wave, threshold)
    of_pick = unit[late.index.map(picks["window"]).to_numpy(int)] if len(late) else np.zeros(0, int)
    out |= residual_statistics(of_pick, late.to_numpy(), f"{wave}_residual_{{}}_s", "rmse")
    out[f"{wave}_residual_median_s"] = Middle(of_pick, late.to_numpy())
    return out


def residuals(picks: pd.DataFrame, wave: str, threshold: float) -> pd.Series:
    """Returns how many seconds after their onsets the picks of a wave lie, those that have one within 0.5 s."""
    if not len(picks):
        return pd.Series(dtype=float)
    return picks.loc[(picks["wave"] == wave) & (picks[wave.lower()] >= threshold), "late_0.5s"].dropna()


def residual_statistics(unit: np.ndarray, late: np.ndarray, name: str, square: str) -> dict[str, Statistic]:
    """Returns mean, root mean square and mean absolute value of residuals, under a name with a place for these."""
    return {
        name.format("mean"): _mean(unit, late[:, None]),
        name.format(square): Sums(
            unit, np.stack([late**2, np.ones_like(late)], axis=1), lambda x: np.sqrt(x[:, 0] / x[:, 1]), len(unit)
        ),
        name.format("mae"): _mean(unit, np.abs(late)[:, None]),
    }


def class_statistics(windows: pd.DataFrame) -> dict[str, Statistic]:
    """Returns accuracy, mean_recall (of the classes that are there) and auc_0, auc_1, ... of each class against the others."""
    if not len(windows):
        return {}
    probability, group = class_probabilities(windows), windows["group"].to_numpy()
    unit, right = windows["unit"].to_numpy(), probability.argmax(axis=1) == group
    of_class = group[:, None] == np.arange(probability.shape[1])
    of_class = of_class[:, of_class.any(axis=0)]
    terms = np.concatenate([of_class & right[:, None], of_class], axis=1).astype(float)
    out: dict[str, Statistic] = {
        "accuracy": _mean(unit, right[:, None].astype(float)),
        "mean_recall": Sums(unit, terms, _mean_recall, len(unit)),
    }
    for k, score in enumerate(probability.T):
        if 0 < (group == k).sum() < len(group):
            out[f"auc_{k}"] = Ranks(unit, group == k, score)
    return out


def class_probabilities(windows: pd.DataFrame) -> np.ndarray:
    """Returns (n, classes)."""
    return windows[sorted((c for c in windows if c.startswith("class_")), key=lambda c: int(c[6:]))].to_numpy()


def _mean(unit: np.ndarray, value: np.ndarray) -> Sums:
    terms = np.concatenate([value, np.ones_like(value)], axis=1)
    return Sums(unit, terms, lambda x: x[:, 0] / x[:, 1], len(unit))


def _precision(x: np.ndarray) -> np.ndarray:
    return x[:, 0] / (x[:, 0] + x[:, 1])


def _recall(x: np.ndarray) -> np.ndarray:
    return x[:, 0] / (x[:, 0] + x[:, 2])


def _f1(x: np.ndarray) -> np.ndarray:
    return 2 * x[:, 0] / (2 * x[:, 0] + x[:, 1] + x[:, 2])


def _mcc(x: np.ndarray) -> np.ndarray:
    """Matthews correlation; 0 where all decisions or all truths are the same, as in scikit-learn."""
    tp, fp, fn, tn = x.T
    below = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return np.where(below > 0, (tp * tn - fp * fn) / np.maximum(below, 1e-300), 0.0)


def _mean_recall(x: np.ndarray) -> np.ndarray:
    half = x.shape[1] // 2
    return np.nanmean(x[:, :half] / x[:, half:], axis=1)
