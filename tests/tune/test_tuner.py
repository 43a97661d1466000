"""What a sweep hands to Ray Tune, and how many trials it lets run at a time."""

import logging
from types import SimpleNamespace

import pytest
import ray
from ray.tune.schedulers import FIFOScheduler

import raysys.tune.sweep as module
from raysys.train.loop import Budget
from raysys.tune.callbacks import ForgiveLostNodes, KeepState, OptunaJournal, ThinCheckpoints
from raysys.tune.progress import ProgressLines
from raysys.tune.space import parse_space
from raysys.tune.sweep import sweep
from raysys.tune.trial import trial_config

BUDGET = Budget(windows=1000, between_validations=100, full_batch=10)


@pytest.fixture
def config(smoke, tmp_path):
    """Returns a function (search settings) -> configuration of a sweep whose folder is empty."""
    here = {"storage": str(tmp_path), "name": "mine", "search.max_failures": 2, "search.num_trials": 5}
    return lambda **search: trial_config(smoke.override(here | {f"search.{key}": v for key, v in search.items()}))


@pytest.mark.parametrize(
    "key", ["data.alpha", "probe.ridge", "model.window_samples", "train.val_windows", "search.grace"]
)
def test_what_trials_are_compared_by_cannot_be_searched(smoke, key):
    with pytest.raises(ValueError, match=rf"{key} cannot vary, it is part of what trials are compared by"):
        sweep(smoke.override({"search.space": ["mask.ratio=uniform(0.4, 0.5)", f"{key}=choice(512, 1024)"]}))


def test_seeds_cannot_be_searched_and_repeated_at_once(smoke):
    with pytest.raises(ValueError, match=r"train\.seed cannot vary beside search\.top_k"):
        sweep(smoke.override({"search.space": ["train.seed=grid(0, 1)"], "search.top_k": 1}))


def told(tuner) -> tuple:
    """Stop rule, folder, failures and checkpoints of a tuner, and its callbacks."""
    run = tuner._local_tuner._run_config
    kept = (run.failure_config.max_failures, run.checkpoint_config.num_to_keep)
    return (run.stop, run.storage_path, run.name, *kept), {type(one): one for one in run.callbacks}


@pytest.mark.parametrize(
    ("search", "checkpoints", "at_a_time"),
    [
        ({"max_concurrent": 2}, 1, None),
        ({"scheduler": "pbt", "max_concurrent": 2}, 3, None),
        ({"searcher": "tpe", "max_concurrent": 2}, 1, 2),
    ],
)
def test_trials_run_to_the_budget_and_the_largest_objective_wins(config, tmp_path, search, checkpoints, at_a_time):
    setting = config(**search)
    space = parse_space(("mask.ratio=uniform(0.35, 0.8)",), setting)
    tuner = module._search(setting, space, lambda config: None, BUDGET, [])
    run, callbacks = told(tuner)
    assert run == ({"windows": 1000}, str(tmp_path), "mine", 2, checkpoints)
    chosen = tuner._local_tuner._tune_config
    assert (chosen.metric, chosen.mode, chosen.num_samples) == ("objective", "max", 5)
    assert chosen.max_concurrent_trials == at_a_time
    assert getattr(chosen.search_alg, "max_concurrent", None) == (None if at_a_time else 2)
    assert chosen.trial_dirname_creator(SimpleNamespace(trial_id="x_1")) == "trial_x_1"
    assert {OptunaJournal, ProgressLines, ThinCheckpoints, ForgiveLostNodes, KeepState} <= set(callbacks)
    assert {callbacks[kind]._budget for kind in (OptunaJournal, ProgressLines, ThinCheckpoints)} == {1000}
    assert callbacks[ProgressLines]._num_trials == 5


def test_repeats_run_in_full_in_a_folder_of_their_own(config, tmp_path):
    points = [{"repeat_of": trial, "train.seed": seed} for trial in "ab" for seed in (1, 2)]
    tuner = module._repeats(config(max_concurrent=3), "seeds", points, lambda config: None, BUDGET)
    run, callbacks = told(tuner)
    assert run[:3] == ({"windows": 1000}, str(tmp_path / "mine"), "seeds")
    assert tuner._local_tuner.param_space == {"repeat": {"grid_search": points}}
    assert type(tuner._local_tuner._tune_config.scheduler) is FIFOScheduler
    assert tuner._local_tuner._tune_config.search_alg.max_concurrent == 3
    assert callbacks[ProgressLines]._num_trials == 4


@pytest.mark.parametrize(
    ("search", "cluster", "gpu", "trials"),
    [
        ({}, {"CPU": 8}, False, None),
        ({"max_concurrent": 5}, {"CPU": 8}, False, 5),
        ({"workers_per_trial": 2}, {"CPU": 8}, False, 5),  # 8 / (2 x 0.75)
        ({"workers_per_trial": 2}, {"CPU": 8, "GPU": 7}, True, 3),
        ({"workers_per_trial": 2}, {"CPU": 4, "GPU": 100}, True, 2),
        ({"workers_per_trial": 2, "max_concurrent": 1}, {"CPU": 8}, False, 1),
    ],
)
def test_nested_trials_run_as_many_at_a_time_as_fit(config, monkeypatch, search, cluster, gpu, trials):
    monkeypatch.setattr(ray, "cluster_resources", lambda: cluster)
    values = {"train.cpus_per_worker": 0.75, "train.device": "cuda" if gpu else "cpu"}
    assert module._concurrency(config(**search).override(values)) == trials


def test_one_nested_trial_waits_for_the_nodes_that_it_needs(config, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8})
    assert module._concurrency(config(workers_per_trial=2).override({"train.device": "cuda"})) == 1
    assert "--search.max-concurrent" in caplog.text
