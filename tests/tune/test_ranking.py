"""Means over other seeds, and which configurations get them."""

import math

import pandas as pd
import pytest

from raysys.presets import PRESETS
from raysys.tune.ranking import ranked, repeat_points, with_means

SEARCH = pd.DataFrame(
    {
        "trial": ["a", "b", "c", "d", "e"],
        "repeat_of": "",
        "status": ["TERMINATED", "TERMINATED", "STOPPED_EARLY", "ERROR", "TERMINATED"],
        "windows": [100, 100, 50, 100, 100],
        "objective": [0.5, 0.6, 0.9, 0.95, 0.99],
        "healthy": [True, True, True, True, False],
    }
)


def again(of, objective, **other):
    row = {"trial": f"{of}{objective}", "repeat_of": of, "status": "TERMINATED", "windows": 100, "healthy": True}
    return row | {"objective": objective} | other


def test_the_best_are_repeated_with_other_seeds():
    config = PRESETS["smoke"]().override({"search.top_k": 3, "search.top_k_seeds": 2, "train.seed": 4})
    tuned = {trial: {"mask.ratio": i / 10} for i, trial in enumerate(SEARCH["trial"])}
    points = repeat_points(config, SEARCH, tuned)
    assert [(p["repeat_of"], p["train.seed"]) for p in points] == [
        ("b", 5), ("b", 6), ("a", 5), ("a", 6), ("c", 5), ("c", 6),
    ]  # fmt: skip
    assert points[0]["mask.ratio"] == 0.1


def test_means_leave_the_choosing_score_and_failures_out_and_count_collapse():
    rows = [again("a", 0.5), again("a", 0.7), again("b", 0.0, healthy=False), again("b", 0.8)]
    rows.append(again("b", 0.9, status="ERROR"))
    trials = with_means(pd.concat([SEARCH, pd.DataFrame(rows)], ignore_index=True))
    table = trials.set_index("trial")
    assert table.loc["a", "mean"] == pytest.approx(0.6)
    assert table.loc["a", "spread"] == pytest.approx(0.1 * math.sqrt(2))
    assert table.loc["b", "mean"] == pytest.approx(0.4)
    assert table.loc["b", "seeds"] == 2
    assert list(ranked(trials[trials["repeat_of"] == ""])["trial"]) == ["a", "b", "c"]
    assert list(ranked(SEARCH)["trial"]) == ["b", "a", "c"], "without means the last scores decide"


def test_only_trials_with_a_score_say_how_far_a_trial_can_go():
    """The sick, the dead and the one without a score went furthest; the lucky one was stopped early."""
    trials = pd.DataFrame(
        [
            ("lucky", "STOPPED_EARLY", 50, 0.9, True),
            ("steady", "TERMINATED", 100, 0.5, True),
            ("sick", "TERMINATED", 200, 0.0, False),
            ("dead", "ERROR", 300, 0.99, True),
            ("silent", "TERMINATED", 400, math.nan, True),
            ("better", "STOPPED_EARLY", 60, 0.95, True),
            ("equal", "TERMINATED", 100, 0.5, True),
        ],
        columns=["trial", "status", "windows", "objective", "healthy"],
    )
    assert list(ranked(trials)["trial"]) == ["steady", "equal", "better", "lucky"]


def test_a_mean_over_other_seeds_comes_before_any_score():
    trials = SEARCH.assign(mean=[0.2, math.nan, 0.3, 0.9, 0.9])
    assert list(ranked(trials)["trial"]) == ["c", "a", "b"]


def test_one_other_seed_has_no_spread_and_trials_that_were_not_repeated_have_no_mean():
    table = with_means(pd.concat([SEARCH, pd.DataFrame([again("b", 0.3)])], ignore_index=True)).set_index("trial")
    assert (table.loc["b", "mean"], table.loc["b", "seeds"]) == (0.3, 1)
    assert math.isnan(table.loc["b", "spread"])
    assert table.loc[["a", "c", "b0.3"], ["mean", "spread", "seeds"]].isna().all(axis=None)
