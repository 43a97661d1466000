"""The numbers of a sweep, on sweeps whose answer is known."""

import json
import math

import numpy as np
import pandas as pd
import pytest

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


def test_categories_of_text_and_none_survive_a_csv():
    axis = analysis.Axis("loss.similarity", math.nan, math.nan, False, ("cosine", "l2"))
    np.testing.assert_array_equal(axis.place(pd.Series(["l2", "cosine", "dot"])), [1, 0, math.nan])


def test_rungs_are_those_of_asha():
    config = {"search": {"grace": 0.25, "reduction_factor": 2}}
    assert analysis.rungs(config, 800) == [200, 400]
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


def test_rank_correlation_skips_nan_and_refuses_few():
    a = [*range(10), math.nan]
    assert analysis.rank_correlation(a, [x * x for x in a])["rho"] == pytest.approx(1.0)
    assert analysis.rank_correlation(a, [x * x for x in a])["n"] == 10
    assert math.isnan(analysis.rank_correlation([1, 2, 3], [1, 2, 3])["rho"])
    assert math.isnan(analysis.rank_correlation(range(10), [1] * 10)["rho"])


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_nearest_to_itself(name):
    tree = json.loads(json.dumps(PRESETS[name]().to_dict()))
    tree["storage"], tree["optim"]["lr"] = "elsewhere", 0.123
    del tree["optim"]["clip"]
    found, changed = nearest_preset(tree)
    assert found == name
    assert changed.keys() == {"storage", "optim.lr", "optim.clip"}
    assert changed["optim.clip"][1] == ABSENT
