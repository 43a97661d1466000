"""Thresholds, chosen on dev and applied to test."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Least scores of a decision; NaN where dev has nothing to choose by.

    Attributes:
        p: probability of a pick of P, with the best F1 within 0.5 s.
        s: of a pick of S.
        det: of an earthquake in task 1, with the best F1.
        phase: ratio of P to S in task 2, with the best F1.
        phase_mcc: the same with the best Matthews correlation.
    """

    p: float = NAN
    s: float = NAN
    det: float = NAN
    phase: float = NAN
    phase_mcc: float = NAN


def choose_thresholds(dev: dict[str, pd.DataFrame], fallback: Thresholds = Thresholds()) -> Thresholds:
    """Returns the thresholds that are best on the dev tables of a data set (`raysys.evaluate.predictions.read_dataset`).

    Args:
        dev: "dev_task1" and so on; some may be missing or empty.
        fallback: where dev has nothing to choose by.
    """
    task1, task23 = (dev.get(f"dev_{name}", pd.DataFrame()) for name in ("task1", "task23"))
    det = _best(task1, "trace_type", "earthquake", "score_detection", _f1_of)
    phase, mcc = (_best(task23, "phase_label", "P", "score_p_or_s", rule) for rule in (_f1_of, _mcc_of))
    windows, picks = (dev.get(f"dev_{name}", pd.DataFrame()) for name in ("windows", "picks"))
    p, s = (pick_threshold(windows, picks, wave) for wave in "PS")
    found = {"p": p, "s": s, "det": det, "phase": phase, "phase_mcc": mcc}
    return Thresholds(**{k: getattr(fallback, k) if np.isnan(value) else value for k, value in found.items()})


def pick_threshold(windows: pd.DataFrame, picks: pd.DataFrame, wave: str) -> float:
    """Returns the probability of picks with the best F1 within 0.5 s; NaN without onsets or picks.

    It lies in the middle between the last pick that is taken and the first that is not.
    """
    if not len(windows) or not len(picks):
        return NAN
    late = picks["late_0.5s"]
    mine = picks[(picks["wave"] == wave) & (late.notna() | picks["known"])]
    num_onsets = windows[f"{wave.lower()}_onsets"].sum()
    if not num_onsets or not mine["late_0.5s"].notna().any():
        return NAN
    score, right = mine[wave.lower()].to_numpy(), mine["late_0.5s"].notna().to_numpy()
    order = np.argsort(-score, kind="stable")
    score, taken = score[order], np.arange(1, len(order) + 1)
    f1 = 2 * np.cumsum(right[order]) / (taken + num_onsets)
    f1[:-1][score[:-1] == score[1:]] = -1  # of equal picks all are taken or none
    best = int(f1.argmax())
    return float((score[best] + score[min(best + 1, len(score) - 1)]) / 2)


def _best(table: pd.DataFrame, column: str, positive: str, scores: str, rule) -> float:
    known = table[table[scores].notna()] if len(table) else table
    if not len(known) or known[column].nunique() < 2:
        return NAN
    from sklearn.metrics import roc_curve  # takes a second, which drivers need not spend

    truth, score = (known[column] == positive).to_numpy(), known[scores].to_numpy()
    false, true, threshold = roc_curve(truth, score, drop_intermediate=False)
    value = rule(true * truth.sum(), false * (~truth).sum(), truth.sum(), (~truth).sum())[1:]  # the first takes none
    return float(threshold[1:][value.argmax()])


def _f1_of(tp: np.ndarray, fp: np.ndarray, positive: int, negative: int) -> np.ndarray:
    return 2 * tp / (tp + fp + positive)


def _mcc_of(tp: np.ndarray, fp: np.ndarray, positive: int, negative: int) -> np.ndarray:
    fn, tn = positive - tp, negative - fp
    below = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return (tp * tn - fp * fn) / np.maximum(below, 1e-12)
