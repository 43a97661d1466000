"""What a dry run says of a sweep: rungs, and windows with and without early stopping."""

import pytest

from raysys.presets import PRESETS
from raysys.train.loop import Budget
from raysys.tune.forecast import expected_windows, rungs, sweep_forecast
from raysys.tune.trial import trial_config


def config_of(**search):
    changes = {f"search.{key}": value for key, value in search.items()}
    return PRESETS["base"]().override({"train.max_steps": 1000, "train.batch_size": 1} | changes)


def budget_of(config) -> Budget:
    return Budget.of(trial_config(config), 1)


@pytest.mark.parametrize(
    ("search", "where", "expected"),
    [
        ({"num_trials": 9}, [250, 750], 9 * 250 + 3 * 500 + 1 * 250),
        ({"num_trials": 9, "rungs_per_budget": 2}, [500, 1000], 9 * 500 + 3 * 500),
        ({"num_trials": 8, "reduction_factor": 2}, [250, 500], 8 * 250 + 4 * 250 + 2 * 500),
        (
            {"num_trials": 8, "reduction_factor": 2, "brackets": 2},
            [250, 500],
            4 * 250 + 2 * 250 + 500 + 4 * 500 + 2 * 500,
        ),
        ({"num_trials": 5, "scheduler": "none"}, [250, 750], 5000),
    ],
)
def test_windows_are_those_of_trials_that_stop_at_rungs(search, where, expected):
    config = config_of(**search)
    assert rungs(config, budget_of(config)) == where
    assert expected_windows(config, budget_of(config)) == expected


def test_a_dry_run_tells_trials_rungs_and_hours(tmp_path):
    config = config_of(num_trials=9, top_k=2, top_k_seeds=3).override({"data.root": str(tmp_path)})
    config = config.override({"train.batch_size": 3305 * 36, "storage": str(tmp_path)})  # a trial takes 10 h
    text = sweep_forecast(config)
    for line in (
        "  9 trials of at most 118,980,000 windows each, ranked by probe/macro_ap",
        "  then the best 2 again with 3 other seeds: 6 trials in full",
        "  rungs at 25 %, 75 % of the budget, where one in 3 goes on",
        "  about 100.0 h of a GPU, at most 150.0 h without early stopping",
        "  varies mask.ratio=uniform(0.35, 0.8)",
    ):
        assert line in text.splitlines()
    half = sweep_forecast(
        config.override({"search.gpus_per_trial": 0.5, "search.top_k": 0, "search.scheduler": "none"})
    )
    assert "  about 45.0 h of a GPU" in half.splitlines()
    wide = sweep_forecast(config.override({"model.backbone.width": 256, "train.max_steps": None}))
    assert "windows and hours are unknown without the data" in wide
    with pytest.raises(ValueError, match="cannot read"):
        sweep_forecast(config_of(space=["nonsense"]))
