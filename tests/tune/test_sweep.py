"""Sweeps through Ray Tune: plain trials, trials of several workers, what is written, how one goes on."""

import json

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from raysys.record import read_config
from raysys.tune.sweep import sweep

pytestmark = pytest.mark.slow

QUICK = {
    "search.min_perplexity_fraction": 0.0,
    "train.max_steps": 8,
    "search.rungs_per_budget": 4,
    "search.cpus_per_trial": 1.0,
}


def test_plain_trials_are_ranked_stopped_early_and_written(ray_cluster, smoke, tmp_path):
    config = smoke.override(
        QUICK
        | {
            "name": "plain",
            "storage": str(tmp_path),
            "search.num_trials": 4,
            "search.max_concurrent": 1,
            "search.grace": 0.5,
            "search.top_k": 1,
            "search.top_k_seeds": 2,
        }
    )
    best = sweep(config)
    folder = tmp_path / "plain"
    table = pd.read_csv(folder / "trials.csv")
    trials, repeats = table[table["repeat_of"].isna()], table[table["repeat_of"].notna()]
    assert len(trials) == 4
    assert set(trials["status"]) <= {"TERMINATED", "STOPPED_EARLY"}
    _those_below_the_median_of_the_trials_before_are_stopped(folder, trials)
    finished = trials[trials["status"] == "TERMINATED"]
    chosen = finished.loc[finished["objective"].idxmax()]
    assert best["trial"] == chosen["trial"]
    assert set(repeats["repeat_of"]) == {chosen["trial"]}
    assert list(repeats["train.seed"]) == [1, 2]
    assert set(repeats["status"]) == {"TERMINATED"}, "other seeds run to the end"
    for key in best["tuned"]:
        assert set(repeats[key]) == {chosen[key]}
    assert repeats["objective"].nunique() == 2, "another seed is another training"
    assert (best["value"], best["seeds"]) == (pytest.approx(repeats["objective"].mean()), 2)
    assert best["spread"] == pytest.approx(repeats["objective"].std())
    _checkpoints_of_stopped_trials_keep_weights_only(folder, trials)
    _optuna_and_tensorboard_show_the_trials(folder, trials)
    history = pd.read_csv(folder / "history.csv")
    assert set(history["trial"]) == set(table["trial"])
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


def _those_below_the_median_of_the_trials_before_are_stopped(folder, trials):
    history = pd.read_csv(folder / "history.csv")
    at_rung = history[history["windows"] == history["windows"].max() // 2].set_index("trial")["probe/macro_ap"]
    before = []
    for _, trial in trials.iterrows():  # one runs at a time, in this order
        value = at_rung[trial["trial"]]
        stopped = bool(before) and value < np.median(before)
        assert trial["status"] == ("STOPPED_EARLY" if stopped else "TERMINATED")
        before.append(value)


def _checkpoints_of_stopped_trials_keep_weights_only(folder, trials):
    for _, trial in trials.iterrows():
        files = {path.name for path in (folder / f"trial_{trial['trial']}").glob("checkpoint_*/*.safetensors")}
        whole = {"model.safetensors", "optim.safetensors"}
        assert files == ({"model.safetensors"} if trial["status"] == "STOPPED_EARLY" else whole)


def _optuna_and_tensorboard_show_the_trials(folder, trials):
    storage = JournalStorage(JournalFileBackend(str(folder / "optuna.log")))
    (study,) = [optuna.load_study(study_name=None, storage=storage)]
    shown = {t.user_attrs["trial"]: t for t in study.get_trials()}
    for _, trial in trials.iterrows():
        seen = shown[trial["trial"]]
        assert seen.state.name == {"TERMINATED": "COMPLETE", "STOPPED_EARLY": "PRUNED"}[trial["status"]]
        assert seen.value == pytest.approx(trial["objective"])
        assert seen.params["mask.ratio"] == pytest.approx(trial["mask.ratio"])
        assert max(seen.intermediate_values) == trial["windows"]
        (events,) = (folder / f"trial_{trial['trial']}").glob("events.out.tfevents*")
        reader = EventAccumulator(str(events))
        reader.Reload()
        assert "_hparams_/session_start_info" in reader.summary_metadata
        assert "ray/tune/objective" in reader.Tags()["scalars"]


def test_trials_of_two_workers_are_nested_trainers_and_stopped_ones_keep_their_weights_only(
    ray_cluster, smoke, tmp_path
):
    config = smoke.override(
        QUICK
        | {
            "name": "nested",
            "storage": str(tmp_path),
            "search.space": ["optim.lr=grid(1e-3, 10.0)"],  # the second forgets what a random network knows
            "search.num_trials": 1,
            "search.max_concurrent": 1,
            "search.workers_per_trial": 2,
            "search.grace": 0.5,
            "search.rungs_per_budget": 2,
            "train.max_steps": 4,
            "train.cpus_per_worker": 0.5,
            "data.reader": "ray",
        }
    )
    best = sweep(config)
    trials = pd.read_csv(tmp_path / "nested" / "trials.csv")
    full = 4 * 2 * config.train.batch_size
    assert list(trials["windows"]) == [full, full // 2]
    assert list(trials["status"]) == ["TERMINATED", "STOPPED_EARLY"]
    assert best["trial"] == trials["trial"][0]
    workers = tmp_path / "nested" / "workers"
    whole, stopped = (workers / f"train-{trial}" for trial in trials["trial"])
    assert (whole / "step000000004" / "optim.safetensors").exists()
    # Its workers live a little longer than the trial, and may reach the next checkpoint, which replaces this one.
    assert not (stopped / "step000000002" / "optim.safetensors").exists()
    assert list(stopped.glob("step*/model.safetensors"))


def test_a_sweep_without_a_healthy_trial_says_so_and_keeps_the_table(ray_cluster, smoke, tmp_path):
    """One trial collapses by the sweep's own gate, the other diverges and is neither retried nor waited for."""
    changes = {"search.num_trials": 1, "search.min_perplexity_fraction": 1.0, "search.scheduler": "none"}
    changes |= {"name": "sick", "storage": str(tmp_path), "train.max_steps": 4}
    changes |= {"search.space": ["optim.lr=grid(1e-3, 1e30)"]}  # the second is NaN after a step
    with pytest.raises(RuntimeError, match="no trial finished in good health"):
        sweep(smoke.override(QUICK | changes))
    collapsed, diverged = (row for _, row in pd.read_csv(tmp_path / "sick" / "trials.csv").iterrows())
    assert (collapsed["status"], diverged["status"]) == ("TERMINATED", "STOPPED_EARLY")
    assert "collapsed" in collapsed["reason"]
    assert "not finite" in diverged["reason"]
    assert (diverged["failures"], bool(diverged["healthy"])) == (0, False)


def test_what_defines_the_yardstick_cannot_be_searched(smoke):
    with pytest.raises(ValueError, match=r"data\.alpha cannot vary"):
        sweep(smoke.override({"search.space": ["data.alpha=uniform(0, 1)"]}))
