"""The numbers of a sweep, on sweeps whose answer is known."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from raysys.presets import PRESETS
from raysys.report import analysis
from raysys.report.collect import read_folder
from raysys.report.provenance import ABSENT, nearest_preset
from raysys.report.sections_sweep import sweep_verdict


def test_axes_follow_the_search_space(sweep_folder):
    axes = {axis.key: axis for axis in analysis.axes_of(read_folder(sweep_folder(6)))}
    assert axes["loss.temperature"].log
    assert not axes["mask.ratio"].log
    assert axes["loss.num_negatives"].categories == (25, 50, 100, 200)
    np.testing.assert_allclose(axes["loss.temperature"].place(pd.Series([0.1, -1.0])), [-1.0, math.nan])
    np.testing.assert_array_equal(axes["loss.num_negatives"].place(pd.Series([200, 25, 7])), [3, 0, math.nan])
    np.testing.assert_allclose(axes["loss.temperature"].limits, np.log10([0.05, 0.5]))


def test_an_axis_has_its_ends_its_ticks_and_its_short_name():
    linear = analysis.Axis("mask.span_frames", 4, 10, False, ())
    assert (linear.name, linear.limits, linear.ticks()) == (
        "span frames",
        (4, 10),
        ([4, 6, 8, 10], ["4", "6", "8", "10"]),
    )
    log = analysis.Axis("loss.temperature", 0.05, 0.5, True, ())
    places, labels = log.ticks()
    assert labels == ["0.05", "0.1", "0.2", "0.5"]
    np.testing.assert_allclose(places, np.log10([0.05, 0.1, 0.2, 0.5]))
    choice = analysis.Axis("loss.num_negatives", math.nan, math.nan, False, (25, 50, 100))
    assert (choice.limits, choice.ticks()) == ((0, 2), ([0, 1, 2], ["25", "50", "100"]))
    assert analysis.Axis("x.y", math.nan, math.nan, False, ("one",)).limits == (0, 1)


def test_categories_of_text_and_none_survive_a_csv():
    axis = analysis.Axis("loss.similarity", math.nan, math.nan, False, ("cosine", "l2"))
    np.testing.assert_array_equal(axis.place(pd.Series(["l2", "cosine", "dot"])), [1, 0, math.nan])


def test_rungs_are_those_of_asha():
    config = {"search": {"grace": 0.25, "reduction_factor": 2}}
    assert analysis.rungs(config, 800) == [200, 400]
    assert analysis.rungs({}, 810) == [202.5, 607.5], "grace 0.25, every third"
    assert analysis.rungs({"search": {"scheduler": "none"}}, 800) == []
    assert analysis.rungs(config, math.nan) == []


def test_importance_finds_the_value_that_matters(sweep_folder):
    sweep = read_folder(sweep_folder(40))
    table = analysis.importance(sweep, analysis.axes_of(sweep))
    assert table["key"].iloc[0] == "loss.temperature"
    assert table["share"].iloc[0] > 0.5
    assert table["share"].sum() == pytest.approx(1.0)
    healthy = sweep.trials[sweep.trials["healthy"] & (sweep.trials["status"] != "ERROR")]
    assert (table["n"] == len(healthy)).all(), "trials that died before the first rung or are unhealthy do not count"


def rung_sweep(tmp_path, trials, search=None):
    """A sweep of 100 windows whose trials have reported (windows, score), the last of them first."""
    shared = {"budget_windows": 100, "healthy": True, "status": "TERMINATED"}
    rows = [{"trial": name, "mask.ratio": i / 10, **shared} for i, name in enumerate(trials)]
    pd.DataFrame(rows).to_csv(tmp_path / "trials.csv", index=False)
    reports = [
        {"trial": name, "windows": windows, "probe/macro_ap": score}
        for name, found in trials.items()
        for windows, score in found[::-1]
    ]
    pd.DataFrame(reports).to_csv(tmp_path / "history.csv", index=False)
    config = {"search": {"grace": 0.2, "reduction_factor": 2, "objective": "probe/macro_ap"} | (search or {})}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return read_folder(tmp_path)


def test_the_first_rung_takes_the_first_report_that_reaches_it_and_none_that_comes_much_later(tmp_path):
    trials = {
        "a": [(10, 0.1), (20, 0.2), (40, 0.4)],
        "just before": [(19.99, 0.3), (40, 0.5)],
        "a little late": [(10, 0.1), (30, 0.35)],
        "too late": [(15, 0.1), (31, 0.6)],
        "died before": [(10, 0.7)],
    }
    scores, windows = analysis.at_equal_budget(rung_sweep(tmp_path, trials))
    assert windows == 20
    assert scores.to_dict() == {"a": 0.2, "just before": 0.3, "a little late": 0.35}
    whole = rung_sweep(tmp_path, {"a": [(20, 0.2), (100, 0.9)]}, {"scheduler": "none"})
    scores, windows = analysis.at_equal_budget(whole)
    assert (scores.to_dict(), windows) == ({"a": 0.9}, 100)


@pytest.mark.parametrize("trials", [7, 8])
def test_importance_begins_at_eight_trials_and_knows_the_direction(tmp_path, trials):
    sweep = rung_sweep(tmp_path, {f"t{i}": [(20, 1 - i / 10)] for i in range(trials)})
    table = analysis.importance(sweep, [analysis.Axis("mask.ratio", 0.0, 1.0, False, ())])
    wanted = [{"key": "mask.ratio", "share": 1.0, "rho": -1.0, "p": 0.0, "n": 8}]
    assert table.round(9).to_dict("records") == (wanted if trials == 8 else [])


def test_the_best_are_listed_by_rank_with_their_values_and_the_other_scores(tmp_path):
    rows = [
        {"trial": f"t{i}", "objective": i / 20, "windows": 100, "status": "X", "healthy": True, "mask.ratio": i / 40}
        for i in range(12)
    ]
    sweep = sweep_of(tmp_path, [row | {"val/top1_tie": 0.5, "probe/macro_ap": row["objective"]} for row in rows])
    sweep.config["search"] = {"objective": "probe/macro_ap"}
    top = analysis.top_rows(sweep, [analysis.Axis("mask.ratio", 0, 1, False, ())])
    assert list(top.columns) == ["rank", "trial", "objective", "status", "windows", "mask.ratio", "val/top1_tie"]
    assert list(top["rank"]) == list(range(1, 11))
    assert list(top["trial"]) == [f"t{i}" for i in range(11, 1, -1)]
    assert len(analysis.top_rows(sweep, [], count=3)) == 3


def test_importance_is_empty_with_too_few_trials(sweep_folder):
    sweep = read_folder(sweep_folder(6))
    assert analysis.importance(sweep, analysis.axes_of(sweep)).empty


def test_scores_compare_at_the_first_rung_and_not_at_the_end(sweep_folder):
    sweep = read_folder(sweep_folder(24))
    scores, windows = analysis.at_equal_budget(sweep)
    assert windows == pytest.approx(81_000 / 4)
    trial = sweep.trials.loc[sweep.trials["status"] == "TERMINATED", "trial"].iloc[0]
    at_rung = sweep.history.query("trial == @trial and windows >= 20250")["probe/macro_ap"].iloc[0]
    assert scores[trial] == at_rung
    assert at_rung < sweep.trials.set_index("trial").loc[trial, "objective"]


def test_unhealthy_and_failed_trials_have_no_score(sweep_folder):
    sweep = read_folder(sweep_folder(24))
    good = analysis.ranked(sweep.trials)
    assert not {"00005", "00007"} & set(good["trial"])
    furthest = good[good["windows"] == good["windows"].max()]
    assert furthest["objective"].is_monotonic_decreasing


def test_the_best_trial_is_one_that_went_furthest():
    trials = pd.DataFrame(
        {
            "trial": ["a", "b", "c"],
            "status": "X",
            "healthy": True,
            "windows": [25, 100, 100],
            "objective": [0.9, 0.5, 0.6],
        }
    )
    assert list(analysis.ranked(trials)["trial"]) == ["c", "b", "a"]


def sweep_of(folder, rows):
    """A sweep folder with these trials."""
    pd.DataFrame(rows).to_csv(folder / "trials.csv", index=False)
    return read_folder(folder)


def test_compute_saved_counts_stopped_trials_only(tmp_path):
    shared = {"budget_windows": 100, "seconds": 3600.0, "cpus": 2.0, "gpus": 0.5, "healthy": True}
    rows = [
        {"trial": "a", "repeat_of": "", "status": "TERMINATED", "windows": 100, **shared},
        {"trial": "b", "repeat_of": "", "status": "STOPPED_EARLY", "windows": 25, **shared},
        {"trial": "c", "repeat_of": "", "status": "ERROR", "windows": 10, **shared},
        {"trial": "d", "repeat_of": "a", "status": "TERMINATED", "windows": 100, **shared},
    ]
    spent = analysis.compute(sweep_of(tmp_path, rows))
    assert spent == {
        "windows": 235.0,
        "full": 400.0,
        "seconds": 4 * 3600.0,
        "saved": pytest.approx(0.375),
        "device": "GPU",
        "device_hours": pytest.approx(4 * 0.5),
        "device_hours_saved": pytest.approx(0.5 * (100 / 25 - 1)),
    }


def test_a_search_without_gpus_is_counted_in_cores(tmp_path):
    shared = {"status": "TERMINATED", "windows": 100, "budget_windows": 100, "gpus": 0.0}
    rows = [
        {"trial": "a", "seconds": 1800.0, "cpus": 2.0, **shared},
        {"trial": "b", "seconds": 900.0, "cpus": 1.0, **shared},
    ]
    spent = analysis.compute(sweep_of(tmp_path, rows))
    assert (spent["device"], spent["device_hours"], spent["saved"]) == ("CPU core", 1.25, 0.0)


def test_the_mean_over_other_seeds_decides_where_the_best_were_run_again(tmp_path):
    shared = {"status": "TERMINATED", "windows": 100, "budget_windows": 100, "healthy": True}
    rows = [
        {"trial": "lucky", "repeat_of": "", "objective": 0.9, "mean": 0.5, "spread": 0.1, "seeds": 2, **shared},
        {"trial": "steady", "repeat_of": "", "objective": 0.8, "mean": 0.7, "spread": 0.01, "seeds": 2, **shared},
        {"trial": "third", "repeat_of": "", "objective": 0.85, **shared},
        {"trial": "again", "repeat_of": "lucky", "objective": 0.5, **shared},
    ]
    sweep = sweep_of(tmp_path, rows)
    assert list(analysis.ranked(sweep.trials)["trial"]) == ["steady", "lucky", "third"]
    assert list(sweep.repeats["trial"]) == ["again"]
    top = analysis.top_rows(sweep, [])
    assert {"mean", "spread", "seeds"} <= set(top.columns)
    assert "0.700 ± 0.010 over 2 other seeds" in sweep_verdict(sweep, [])[1]


def test_rank_correlation_has_the_values_of_the_textbook():
    """Spearman's 1 - 6 sum d^2 / (n (n^2 - 1)) without ties."""
    a, b = [1, 2, 3, 4, 5, 6, 7, 8], [2, 1, 4, 3, 8, 5, 7, 6]
    squares = sum((x - y) ** 2 for x, y in zip(a, b, strict=True))
    found = analysis.rank_correlation(a, b)
    assert found["rho"] == pytest.approx(1 - 6 * squares / (8 * 63))
    t = found["rho"] * math.sqrt(6 / (1 - found["rho"] ** 2))
    assert found["p"] == pytest.approx(2 * scipy.stats.t.sf(t, 6))
    assert math.isnan(analysis.rank_correlation(a[:7], b[:7])["rho"])


def test_rank_correlation_skips_nan_and_refuses_few():
    a = [*range(10), math.nan]
    assert analysis.rank_correlation(a, [x * x for x in a])["rho"] == pytest.approx(1.0)
    assert analysis.rank_correlation(a, [x * x for x in a])["n"] == 10
    assert math.isnan(analysis.rank_correlation([1, 2, 3], [1, 2, 3])["rho"])
    assert math.isnan(analysis.rank_correlation(range(10), [1] * 10)["rho"])


def test_a_name_does_not_make_a_preset_nearer():
    config = PRESETS["large"]().override({"name": "base", "model.backbone.num_layers": 3})
    assert nearest_preset(json.loads(json.dumps(config.to_dict())))[0] == "large"


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_nearest_to_itself(name):
    tree = json.loads(json.dumps(PRESETS[name]().to_dict()))
    tree["storage"], tree["optim"]["lr"] = "elsewhere", 0.123
    del tree["optim"]["clip"]
    found, changed = nearest_preset(tree)
    assert found == name
    assert changed.keys() == {"storage", "optim.lr", "optim.clip"}
    assert changed["optim.clip"][1] == ABSENT
