"""Sweeps through Ray Tune: plain trials, trials of several workers, what is written, how one goes on."""

import json

import pandas as pd
import pytest

from raysys.record import read_config
from raysys.tune.sweep import sweep

pytestmark = pytest.mark.slow

QUICK = {
    "search.min_used_fraction": 0.0,
    "train.max_steps": 8,
    "search.rungs_per_budget": 4,
    "search.cpus_per_trial": 1.0,
}


def test_plain_trials_are_ranked_stopped_early_and_written(ray_cluster, smoke, tmp_path):
    config = smoke.override(
        QUICK | {"name": "plain", "storage": str(tmp_path), "search.num_trials": 4, "search.grace": 0.5}
    )
    best = sweep(config)
    folder = tmp_path / "plain"
    trials = pd.read_csv(folder / "trials.csv")
    assert len(trials) == 4
    assert set(trials["status"]) <= {"TERMINATED", "STOPPED_EARLY"}
    assert (trials["status"] == "STOPPED_EARLY").any(), "ASHA stops some"
    finished = trials[trials["status"] == "TERMINATED"]
    assert best["value"] == pytest.approx(finished["objective"].max())
    history = pd.read_csv(folder / "history.csv")
    assert set(history["trial"]) == set(trials["trial"])
    assert {"probe/macro_ap", "val/top1_tie", "codebook/hard_perplexity"} <= set(history.columns)
    assert json.loads((folder / "best.json").read_text())["tuned"].keys() == {
        "loss.diversity_lambda", "loss.temperature", "loss.num_negatives", "mask.ratio",
    }  # fmt: skip
    again = read_config(str(folder))
    assert again.loss.temperature == best["tuned"]["loss.temperature"]
    assert again.name == "plain-best"

    assert sweep(config)["trial"] == best["trial"]
    after = pd.read_csv(folder / "history.csv")
    pd.testing.assert_frame_equal(after[["trial", "windows", "seconds"]], history[["trial", "windows", "seconds"]])


def test_trials_of_two_workers_run_as_nested_trainers(ray_cluster, smoke, tmp_path):
    config = smoke.override(
        QUICK
        | {
            "name": "nested",
            "storage": str(tmp_path),
            "search.num_trials": 1,
            "search.workers_per_trial": 2,
            "search.scheduler": "none",
            "search.rungs_per_budget": 1,
            "train.max_steps": 4,
            "train.cpus_per_worker": 0.5,
            "data.reader": "ray",
        }
    )
    best = sweep(config)
    trials = pd.read_csv(tmp_path / "nested" / "trials.csv")
    assert trials["windows"].tolist() == [4 * 2 * config.train.batch_size]
    assert best["checkpoint"]


def test_a_sweep_without_a_healthy_trial_says_so_and_keeps_the_table(ray_cluster, smoke, tmp_path):
    config = smoke.override(
        QUICK | {"name": "sick", "storage": str(tmp_path), "search.num_trials": 1, "search.min_used_fraction": 1.0}
    )
    with pytest.raises(RuntimeError, match="no trial finished in good health"):
        sweep(config)
    assert "collapsed" in pd.read_csv(tmp_path / "sick" / "trials.csv")["reason"][0]


def test_what_defines_the_yardstick_cannot_be_searched(smoke):
    with pytest.raises(ValueError, match=r"data\.alpha cannot vary"):
        sweep(smoke.override({"search.space": ["data.alpha=uniform(0, 1)"]}))
