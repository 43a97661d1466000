"""The summary of a network: thresholds of all data sets together, units of the events, and names of all metrics everywhere."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix

from raysys.evaluate.calibration import calibration_error, reliability
from raysys.evaluate.intervals import replicate
from raysys.evaluate.summary import ALL, calibration_statistic, joined, summarize


def tables_of(name: str, seed: int, shift: float = 0.0, labelled: bool = True):
    """Predictions for forty windows of one P each, two of an event, every split."""
    rng, out = np.random.default_rng(seed), {}
    for split in ("dev", "test"):
        event = [f"{name}/{split}{k // 2}" for k in range(40)]
        quake = np.arange(40) % 4 > 0
        score = np.clip(quake * 0.4 + 0.6 * rng.random(40) + shift, 0, 1)
        task1 = {"event": event, "trace_type": np.where(quake, "earthquake", "noise"), "score_detection": score}
        label = np.where(rng.random(40) < 0.5, "P", "S")
        task23 = {"event": event, "phase_label": label, "score_p_or_s": rng.random(40) + (label == "P")}
        task23 |= {
            "p_sample_pred": rng.normal(0, 9, 40),
            "s_sample_pred": 5.0,
            "phase_onset": 0.0,
            "sampling_rate": 100.0,
        }
        windows = {
            "event": event,
            "quake": quake,
            "noise": ~quake,
            "event_score": score,
            "p_onsets": quake * 1,
            "s_onsets": 0,
        }
        windows |= {
            f"{w}_hit_{t}s": np.where(quake & (w == "p"), rng.random(40) < 0.7, np.nan)
            for w in "ps"
            for t in (0.1, 0.5)
        }
        losses = (np.log(np.geomspace(0.1, 10, 49)) - np.log(1.3)) ** 2
        windows |= {f"loss_{k}": x for k, x in enumerate(losses)}
        window = np.flatnonzero(quake)
        right = score[window] + 0.2 * rng.random(len(window)) > 0.5 + 2 * shift
        late = np.where(right, rng.normal(0, 0.1, len(window)).clip(-0.5, 0.5), np.nan)
        picks = {
            "window": window,
            "wave": "P",
            "sample": 0,
            "known": True,
            "p": score[window],
            "s": 0.0,
            "n": 1 - score[window],
        }
        picks["width_s"] = 0.2
        picks |= {"late_0.1s": np.where(np.abs(late) <= 0.1, late, np.nan), "late_0.5s": late}
        some = {"task1": task1, "task23": task23, "windows": windows, "picks": picks}
        out |= {
            f"{split}_{key}": pd.DataFrame(columns) if labelled else pd.DataFrame() for key, columns in some.items()
        }
    return out


def events_of(tables):
    return {
        s: sorted(set(tables[f"{s}_windows"]["event"])) if len(tables[f"{s}_windows"]) else [] for s in ("dev", "test")
    }


@pytest.fixture(scope="module")
def made():
    tables = {"a": tables_of("a", 0), "b": tables_of("b", 1, shift=0.2), "none": tables_of("none", 2, labelled=False)}
    return tables, {name: events_of(one) for name, one in tables.items()}


def test_every_data_set_has_every_metric_and_all_of_them_together_lie_between(made):
    summary = summarize(*made, "pick", resamples=50)
    assert set(summary.metrics) == {"a", "b", "none", ALL}
    assert len({frozenset(of) for of in summary.metrics.values()}) == 1
    assert all(np.isnan(one["value"]) for name, one in summary.metrics["none"].items() if "threshold" not in name)
    low, high = sorted(summary.metrics[name]["test_P_hit_0.5s"]["value"] for name in "ab")
    whole = summary.metrics[ALL]["test_P_hit_0.5s"]
    assert low <= whole["value"] <= high
    assert whole["low"] < whole["value"] < whole["high"]
    assert whole["count"] == 60
    assert summary.told["temperature"] == pytest.approx(1.3, rel=1e-3)
    assert len(summary.drawn) == 51


def test_picks_have_one_threshold_everywhere_and_the_tasks_one_for_each_data_set(made):
    summary = summarize(*made, "pick", resamples=0)
    thresholds = {name: summary.metrics[name]["det_threshold"]["value"] for name in (*"ab", ALL)}
    assert thresholds["b"] - thresholds["a"] > 0.05
    assert summary.told["thresholds"]["det"] == thresholds[ALL]
    alone = summarize({"b": made[0]["b"]}, {"b": made[1]["b"]}, "pick", resamples=0)
    common, own = summary.told["thresholds"]["P"], alone.told["thresholds"]["P"]
    assert common < own
    picks = made[0]["b"]["test_picks"]
    assert (picks["p"].between(common, own, inclusive="left") & picks["known"]).any(), "picks that tell them apart"
    assert summary.metrics["b"]["test_P_precision_0.5s"]["value"] < alone.metrics["b"]["test_P_precision_0.5s"]["value"]


def test_the_same_events_are_drawn_for_networks_of_other_tasks(made):
    tables, events = made
    pick = summarize(tables, events, "pick", resamples=20)
    without = {
        name: {k: t for k, t in of.items() if not k.endswith(("task23", "picks"))} for name, of in tables.items()
    }
    detect = summarize(without, events, "detect", resamples=20)
    assert set(detect.drawn) == {
        f"test_{name}" for name in ("det_precision", "det_recall", "det_f1", "det_auc", "event_auc")
    }
    pd.testing.assert_frame_equal(pick.drawn[list(detect.drawn)], detect.drawn)
    assert "det_threshold" in detect.metrics["a"]
    assert "phase_threshold" not in detect.metrics["a"]


def test_joined_picks_stay_with_their_windows(made):
    both = joined([made[0]["a"], made[0]["none"], made[0]["b"]])
    assert len(both["test_windows"]) == 80
    events = both["test_windows"]["event"].to_numpy()[both["test_picks"]["window"]]
    assert [event[0] for event in events] == ["a"] * 30 + ["b"] * 30


def test_the_calibration_error_of_windows_is_that_of_the_table_of_reliability(made):
    windows, picks = (made[0]["a"][f"test_{name}"] for name in ("windows", "picks"))
    statistic = calibration_statistic(windows.assign(unit=range(len(windows))), picks, picks["p"].to_numpy())
    found = replicate({"ece": statistic}, len(windows), 0)["ece"][0]
    table = reliability(picks["p"].to_numpy(), picks["late_0.5s"].notna().to_numpy())
    assert found == pytest.approx(calibration_error(table))
    assert found > 0.01


def test_classes_have_their_names_and_a_confusion_matrix():
    rng = np.random.default_rng(0)
    tables = {}
    for split in ("dev", "test"):
        said = rng.dirichlet([1, 1, 1], 60)
        rows = {"event": [f"e{k}" for k in range(60)], "group": rng.integers(0, 3, 60)}
        tables[f"{split}_windows"] = pd.DataFrame(rows | {f"class_{k}": said[:, k] for k in range(3)})
    classes = ("volcanic", "tectonic", "noise")
    summary = summarize({"a": tables}, {"a": {"dev": [], "test": []}}, "classify", classes, resamples=30)
    found = summary.metrics["a"]
    assert {"test_accuracy", "test_mean_recall", "test_auc_volcanic", "test_auc_noise"} <= set(found)
    assert found["test_accuracy"]["low"] < found["test_accuracy"]["value"] < found["test_accuracy"]["high"]
    said = said.argmax(axis=1)
    expected = confusion_matrix(tables["test_windows"]["group"], said).tolist()
    assert summary.told["confusion"]["a"] == {"classes": list(classes), "counts": expected}


def test_the_spread_of_times_is_that_of_dev_and_of_picks_above_the_threshold(made):
    tables = {name: dict(of) for name, of in made[0].items()}
    expected = []
    for name in "ab":
        picks = tables[name]["dev_picks"]
        low = picks.iloc[:25].assign(p=0.01, late_0_5=np.where(np.arange(25) < 20, np.nan, 0.4))
        low["late_0.5s"] = low.pop("late_0_5")
        picks = pd.concat([picks, low], ignore_index=True)
        picks["width_s"] = np.linspace(0.1, 0.3, len(picks))
        tables[name]["dev_picks"] = picks
        tables[name]["test_picks"] = tables[name]["test_picks"].assign(width_s=99.0)
        expected.append(picks)
    told = summarize(tables, made[1], "pick", resamples=0).told
    picks = pd.concat(expected)
    taken = picks[(picks["p"] > told["thresholds"]["P"]) & picks["late_0.5s"].notna()]
    assert 20 < len(taken) < picks["late_0.5s"].notna().sum()
    ratio = np.quantile(taken["late_0.5s"].abs() / taken["width_s"], 0.6827)
    assert told["spread"]["P"] == pytest.approx(ratio)
    assert np.isnan(told["spread"]["S"]), "no threshold, no picks"


def test_networks_that_do_not_pick_have_no_spread(made):
    tables, events = made
    without = {
        name: {k: t for k, t in of.items() if not k.endswith(("task23", "picks"))} for name, of in tables.items()
    }
    assert np.isnan(list(summarize(without, events, "detect", resamples=0).told["spread"].values())).all()
