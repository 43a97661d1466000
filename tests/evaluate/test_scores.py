"""Scores of hand-made predictions, and of a perfect and a random network."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score, matthews_corrcoef, precision_score, recall_score, roc_auc_score

from raysys.evaluate.intervals import replicate
from raysys.evaluate.scores import class_statistics, statistics_of
from raysys.evaluate.thresholds import Thresholds, choose_thresholds, pick_threshold

NAN = np.nan


def values(statistics, num_units=1000) -> dict[str, float]:
    return replicate(statistics, num_units, 0).iloc[0].to_dict()


def task1(truth, score, name="test"):
    kinds = np.where(truth, "earthquake", "noise")
    return {f"{name}_task1": pd.DataFrame({"unit": range(len(truth)), "trace_type": kinds, "score_detection": score})}


def task23(label, ratio, p=0.0, s=0.0, onset=0.0, rate=100.0, name="test"):
    columns = {"phase_label": list(label), "score_p_or_s": ratio, "p_sample_pred": p, "s_sample_pred": s}
    rows = pd.DataFrame({"unit": range(len(label))} | columns | {"phase_onset": onset, "sampling_rate": rate})
    return {f"{name}_task23": rows}


def windows_and_picks(p_onsets, picks, name="test", hits=None):
    """Windows with so many onsets of P; picks are (window, probability, late, known)."""
    n = len(p_onsets)
    windows = pd.DataFrame({"unit": range(n), "quake": np.array(p_onsets) > 0, "noise": np.array(p_onsets) == 0})
    windows = windows.assign(event_score=np.linspace(1, 0, n), p_onsets=p_onsets, s_onsets=0)
    for wave in "ps":
        for tolerance in ("0.1s", "0.5s"):
            windows[f"{wave}_hit_{tolerance}"] = hits if wave == "p" and hits else NAN
    rows = pd.DataFrame(picks, columns=["window", "p", "late_0.5s", "known"])
    rows = rows.assign(wave="P", s=0.0, n=1 - rows["p"], sample=0)
    rows["late_0.1s"] = rows["late_0.5s"].where(rows["late_0.5s"].abs() <= 0.1)
    return {f"{name}_windows": windows, f"{name}_picks": rows}


def everything(**changed):
    tables = (
        task1([True, False], [0.9, 0.1]) | task23("PS", [9.0, 0.1]) | windows_and_picks([1, 0], [(0, 0.8, 0.05, True)])
    )
    tables |= {key.replace("test", "dev"): table for key, table in tables.items()}
    return tables | changed


def test_the_tasks_of_the_benchmark_are_scored_as_scikit_learn_scores_them():
    rng = np.random.default_rng(0)
    truth, label = rng.random(300) < 0.6, rng.random(300) < 0.5
    score, ratio = truth * 0.3 + rng.random(300), np.exp(label + rng.standard_normal(300))
    tables = everything() | task1(truth, score) | task23(np.where(label, "P", "S"), ratio)
    found = values(statistics_of(tables, "pick", Thresholds(p=0.5, s=0.5, det=0.7, phase=1.5, phase_mcc=2.0)))
    for name, true, said in (("det", truth, score >= 0.7), ("phase", label, ratio >= 1.5)):
        assert found[f"test_{name}_precision"] == pytest.approx(precision_score(true, said))
        assert found[f"test_{name}_recall"] == pytest.approx(recall_score(true, said))
        assert found[f"test_{name}_f1"] == pytest.approx(f1_score(true, said))
    assert found["test_phase_mcc"] == pytest.approx(matthews_corrcoef(label, ratio >= 2.0))
    assert found["test_det_auc"] == pytest.approx(roc_auc_score(truth, score))
    assert found["test_phase_auc"] == pytest.approx(roc_auc_score(label, ratio))


def test_thresholds_are_those_of_the_best_f1_and_the_best_correlation_on_dev():
    rng = np.random.default_rng(1)
    label = rng.random(200) < 0.8
    ratio = np.exp(label + rng.standard_normal(200))
    tables = everything(**task23(np.where(label, "P", "S"), ratio, name="dev")) | task1(label, ratio, "dev")
    found = choose_thresholds(tables)
    tried = np.unique(ratio)
    assert found.phase == found.det == tried[np.argmax([f1_score(label, ratio >= t) for t in tried])]
    assert found.phase_mcc == tried[np.argmax([matthews_corrcoef(label, ratio >= t) for t in tried])]
    assert found.phase != found.phase_mcc


def test_the_thresholds_of_dev_are_applied_to_test():
    tables = everything(**task1([True, True, False, False], [0.9, 0.5, 0.4, 0.1], "dev")) | task1(
        [True, False], [0.45, 0.2]
    )
    found = values(statistics_of(tables, "pick", choose_thresholds(tables)))
    assert found["dev_det_f1"] == 1
    assert found["test_det_recall"] == 0


def test_residuals_of_the_benchmark_are_of_the_wave_in_the_window_in_seconds():
    rows = task23("PPS", [1.0] * 3, p=[110.0, 80.0, 0.0], s=[0.0, 0.0, 160.0], onset=100.0, rate=[100.0, 50.0, 100.0])
    found = values(statistics_of(everything(**rows), "pick", Thresholds()))
    late = np.array([0.1, -0.4])
    assert found["test_P_mean_s"] == pytest.approx(late.mean())
    assert found["test_P_std_s"] == pytest.approx(np.sqrt((late**2).mean()))
    assert found["test_P_mae_s"] == pytest.approx(0.25)
    assert found["test_S_mean_s"] == pytest.approx(0.6)


def test_picks_count_once_for_an_onset_and_not_at_all_where_labels_are_unknown():
    picks = [
        (0, 0.9, 0.05, True),
        (0, 0.8, NAN, True),
        (1, 0.7, -0.3, False),
        (2, 0.9, NAN, False),
        (2, 0.2, 0.0, True),
    ]
    tables = everything(**windows_and_picks([1, 2, 1], picks, hits=[1.0, 1.0, 0.0]))
    found = values(statistics_of(tables, "pick", Thresholds(p=0.5, s=0.5)))
    assert found["test_P_precision_0.5s"] == pytest.approx(2 / 3)
    assert found["test_P_recall_0.5s"] == pytest.approx(2 / 4)
    assert found["test_P_f1_0.5s"] == pytest.approx(2 * 2 / (3 + 4))
    assert found["test_P_precision_0.1s"] == pytest.approx(1 / 2), (
        "the pick 0.3 s off is at an unknown place, so not wrong"
    )
    assert found["test_P_residual_mean_s"] == pytest.approx(-0.125)
    assert found["test_P_residual_rmse_s"] == pytest.approx(np.sqrt((0.05**2 + 0.3**2) / 2))
    assert found["test_P_residual_median_s"] == pytest.approx(-0.125)
    assert found["test_P_hit_0.5s"] == pytest.approx(2 / 3)


def test_the_threshold_of_picks_has_the_best_f1():
    picks = [(0, 0.9, 0.0, True), (1, 0.8, NAN, True), (1, 0.7, 0.1, True), (2, 0.6, NAN, True), (2, 0.5, NAN, True)]
    tables = windows_and_picks([1, 1, 1], picks, "dev")
    found = pick_threshold(tables["dev_windows"], tables["dev_picks"], "P")
    assert found == pytest.approx(0.65), "in the middle between the last that is taken and the next"
    assert np.isnan(pick_threshold(tables["dev_windows"], tables["dev_picks"], "S"))


@pytest.mark.parametrize("perfect", [True, False])
def test_a_perfect_network_has_the_best_scores_and_a_random_one_those_of_chance(perfect):
    rng = np.random.default_rng(2)
    truth = rng.random(2000) < 0.5
    score = truth.astype(float) if perfect else rng.random(2000)
    label = np.where(truth, "P", "S")
    sample = 0.0 if perfect else rng.uniform(-500, 500, 2000)
    tables = everything(**task1(truth, score)) | task23(label, score, p=sample, s=sample)
    found = values(statistics_of(tables, "pick", Thresholds(0.5, 0.5, 0.5, 0.5, 0.5)), 2000)
    names = ("test_det_f1", "test_det_auc", "test_phase_auc", "test_phase_f1")
    assert [found[name] for name in names] == pytest.approx([1 if perfect else 0.5] * 4, abs=0.05)
    assert found["test_phase_mcc"] == pytest.approx(1 if perfect else 0, abs=0.05)
    assert found["test_P_mae_s"] == pytest.approx(0 if perfect else 2.5, abs=0.15)


def test_classes_are_scored_by_accuracy_mean_recall_and_the_area_of_each():
    group, said = np.array([0, 0, 0, 2]), np.array([[0.9, 0, 0.1], [0.2, 0.5, 0.3], [0.6, 0.1, 0.3], [0.1, 0.1, 0.8]])
    windows = pd.DataFrame({"unit": range(4), "group": group} | {f"class_{k}": said[:, k] for k in range(3)})
    found = values(class_statistics(windows))
    assert found["accuracy"] == 0.75
    assert found["mean_recall"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["auc_0"] == pytest.approx(roc_auc_score(group == 0, said[:, 0]))
    assert "auc_1" not in found


def test_without_any_window_there_are_no_scores():
    tables = {f"{s}_{t}": pd.DataFrame() for s in ("dev", "test") for t in ("task1", "task23", "windows", "picks")}
    assert statistics_of(tables, "pick", choose_thresholds(tables)) == {}
