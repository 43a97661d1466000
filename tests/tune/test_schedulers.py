"""What each scheduler and searcher accepts, and what it refuses with a message."""

import json
from types import SimpleNamespace

import pandas as pd
import pyarrow.fs
import pytest
import torch
from ray.tune.experiment import Experiment
from ray.tune.schedulers import FIFOScheduler, PopulationBasedTraining

from raysys.config import SearchConfig
from raysys.presets import PRESETS
from raysys.report import analysis
from raysys.train.data import prepare_training_data
from raysys.train.loop import Budget
from raysys.tune.schedulers import ResumableASHA, check_space, scheduler_of, searcher_of
from raysys.tune.space import parse_space
from raysys.tune.sweep import sweep
from tests.train.local import local_trainer

BUDGET = Budget(windows=1000, between_validations=100, full_batch=10)


def setting(*space, **search):
    config = PRESETS["smoke"]().override({f"search.{key}": value for key, value in search.items()})
    return config, parse_space(space or config.search.space, config)


@pytest.mark.parametrize("scheduler", ["asha", "pbt", "pb2"])
def test_grace_shorter_than_the_warmup_is_refused(scheduler):
    config, space = setting(grace=0.1, scheduler=scheduler)
    with pytest.raises(
        ValueError, match=r"search.grace=0.1 ends inside the learning-rate warm-up, optim.warmup=0.2.*0.2"
    ):
        check_space(config, space)
    check_space(*setting("loss.temperature=uniform(0.1, 0.5)", grace=0.2, scheduler=scheduler))
    check_space(*setting(grace=0.1, scheduler="none"))


def test_grace_is_compared_with_the_longest_warmup_of_the_space():
    for entry in (
        "optim.warmup=uniform(0.1, 0.4)",
        "optim.warmup=choice(0.1, 0.4, 0.2)",
        "optim.warmup=grid(0.4, 0.1)",
    ):
        with pytest.raises(ValueError, match=r"optim.warmup=0.4"):
            check_space(*setting(entry, grace=0.3))
        check_space(*setting(entry, grace=0.4))


def test_a_population_changes_only_values_that_can_change():
    with pytest.raises(ValueError, match=r"model.encoder.width cannot change while a trial trains"):
        check_space(*setting("model.encoder.width=choice(16, 32)", scheduler="pbt"))
    with pytest.raises(
        ValueError, match=r"loss.num_negatives must be uniform or loguniform for search.scheduler='pb2'"
    ):
        check_space(*setting("loss.num_negatives=choice(8, 16)", scheduler="pb2"))
    with pytest.raises(ValueError, match=r"must not be a grid"):
        check_space(*setting("mask.ratio=grid(0.4, 0.5)", scheduler="pbt"))
    with pytest.raises(ValueError, match=r"set search.searcher='random'"):
        SearchConfig(scheduler="pb2", searcher="tpe")


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'asha', 'pbt', 'pb2' or 'none'"):
        PRESETS["smoke"]().override({"search.scheduler": "hyperband"})
    with pytest.raises(ValueError, match=r"'random' or 'tpe'"):
        PRESETS["smoke"]().override({"search.searcher": "grid"})


def stops(scheduler, windows, score, name):
    """Whether a trial that scored 1 until then is stopped for a score at some windows."""
    trial = SimpleNamespace(trial_id=name, storage=None)
    scheduler.on_trial_add(None, trial)
    for at in range(50, windows, 50):
        assert scheduler.on_trial_result(None, trial, {"windows": at, "objective": 1.0}) == scheduler.CONTINUE
    return scheduler.on_trial_result(None, trial, {"windows": windows, "objective": score}) == scheduler.STOP


@pytest.mark.parametrize(
    ("search", "rungs"),
    [
        ({"reduction_factor": 2}, [250, 500]),
        ({"reduction_factor": 3}, [250, 750]),
        ({"reduction_factor": 2, "grace": 0.3}, [300, 600]),
        ({"reduction_factor": 2, "grace": 0.6}, [600]),
    ],
)
def test_asha_stops_the_worse_at_grace_times_powers_of_the_factor_as_the_report_draws_it(search, rungs):
    config, space = setting(**search)
    scheduler = scheduler_of(config, space, BUDGET)
    scheduler.set_search_properties("objective", "max")
    assert not stops(scheduler, 950, 1.0, "leader")
    assert [at for at in range(50, 1000, 50) if stops(scheduler, at, 0.0, f"fails at {at}")] == rungs
    assert stops(scheduler, 1000, 1.0, "whole"), "the budget is used up"
    assert analysis.rungs(config.to_dict(), BUDGET.windows) == rungs


def test_each_bracket_of_asha_begins_one_rung_later():
    config, space = setting(brackets=2, reduction_factor=2)
    brackets = scheduler_of(config, space, BUDGET)._brackets
    assert [[windows for windows, _ in bracket._rungs][::-1] for bracket in brackets] == [[250, 500, 1000], [500, 1000]]


def test_a_resumed_asha_knows_what_its_trials_reported(tmp_path):
    scheduler = ResumableASHA(time_attr="windows", max_t=100, grace_period=10, reduction_factor=2)
    scheduler.set_search_properties("objective", "max")
    for i in range(4):
        folder = tmp_path / f"trial_{i}"
        folder.mkdir()
        lines = [json.dumps({"windows": w, "objective": 0.1 * i}) + "\n" for w in (10, 20)]
        (folder / "result.json").write_text("".join(lines) + '{"windows": 30, "obj')  # killed while it wrote
        storage = SimpleNamespace(
            trial_dir_name=folder.name, trial_fs_path=str(folder), storage_filesystem=pyarrow.fs.LocalFileSystem()
        )
        scheduler.on_trial_add(None, SimpleNamespace(trial_id=str(i), storage=storage))
    new = SimpleNamespace(trial_id="new", storage=None)
    scheduler.on_trial_add(None, new)
    assert scheduler.on_trial_result(None, new, {"windows": 10, "objective": 0.05}) == ResumableASHA.STOP


@pytest.mark.parametrize("scheduler", ["pbt", "pb2"])
def test_a_population_changes_at_every_report_after_the_grace_all_at_the_same_windows(scheduler):
    population = scheduler_of(*setting("loss.temperature=uniform(0.05, 0.5)", grace=0.35, scheduler=scheduler), BUDGET)
    assert (population._time_attr, population._perturbation_interval, population._synch) == ("windows", 100, True)
    assert (population._burn_in_period, population._next_perturbation_sync) == (350, 350)
    assert population._quantile_fraction == 0.25


def test_a_population_draws_from_the_space():
    config, space = setting("mask.ratio=uniform(0.35, 0.8)", "loss.num_negatives=choice(8, 16)", scheduler="pbt")
    changed = scheduler_of(config, space, BUDGET)._hyperparam_mutations
    assert changed == {"mask.ratio": space["mask.ratio"], "loss.num_negatives": [8, 16]}
    bounds = scheduler_of(*setting("mask.ratio=uniform(0.35, 0.8)", scheduler="pb2"), BUDGET)._hyperparam_bounds
    assert bounds == {"mask.ratio": [0.35, 0.8]}


def drawn(searcher, seed):
    """The values of the first two trials."""
    config = PRESETS["base"]().override({"search.searcher": searcher, "train.seed": seed})
    space = parse_space(config.search.space, config)
    proposes = searcher_of(config)
    if searcher == "tpe":
        proposes.set_search_properties("objective", "max", space)
        return [proposes.suggest(name) for name in "ab"]
    proposes.add_configurations(Experiment("x", run=lambda config: None, config=space, num_samples=2))
    return [proposes.next_trial().config for _ in "ab"]


@pytest.mark.parametrize("searcher", ["random", "tpe"])
def test_two_seeds_search_in_different_places_and_one_seed_in_the_same(searcher):
    first, second = drawn(searcher, 0)
    assert first.keys() == second.keys()
    assert first["mask.ratio"] != second["mask.ratio"]
    assert drawn(searcher, 0) == [first, second]
    assert drawn(searcher, 1)[0]["mask.ratio"] != first["mask.ratio"]


def test_random_draws_count_the_trials_that_run_and_tpe_looks_at_all_keys_together():
    config, _ = setting()
    assert [searcher_of(config, most).max_concurrent for most in (None, 3)] == [0, 3]
    assert searcher_of(config.override({"search.searcher": "tpe"}))._sampler._multivariate
    assert type(scheduler_of(*setting(scheduler="none"), BUDGET)) is FIFOScheduler


def test_a_population_stays_inside_the_space():
    entries = ("mask.ratio=uniform(0.35, 0.8)", "loss.num_negatives=choice(8, 16)", "mask.span_frames=randint(4, 12)")
    scheduler = scheduler_of(*setting(*entries, scheduler="pbt"), BUDGET)
    assert isinstance(scheduler, PopulationBasedTraining)
    inside = scheduler._custom_explore_fn
    for values, brought in (((0.96, 8, 14), (0.8, 8, 11)), ((0.2, 16, 3), (0.35, 16, 4)), ((0.5, 8, 9), (0.5, 8, 9))):
        keys = ("mask.ratio", "loss.num_negatives", "mask.span_frames")
        assert inside(dict(zip(keys, values, strict=True))) == dict(zip(keys, brought, strict=True))


def test_training_goes_on_from_a_checkpoint_with_changed_values(smoke, tmp_path):
    data = prepare_training_data(smoke)
    half = smoke.override({"train.validate_every": 4})

    first = local_trainer(half, data, tmp_path)
    first.steps_left = 4
    first.run()
    changes = {"loss.num_negatives": 16, "mask.ratio": 0.4, "loss.temperature": 0.3, "loss.diversity_lambda": 0.5}
    second = local_trainer(half.override(changes | {"optim.lr": 5e-3}), data, tmp_path)
    assert (second.step, second.steps_left) == (4, 4)
    torch.testing.assert_close(second.model.state_dict(), first.model.state_dict())
    metrics = second.run()
    assert metrics["step"] == 8
    assert metrics["train/mask_ratio"] == pytest.approx(0.4, abs=0.02)
    assert metrics["train/temperature"] == pytest.approx(0.3)


@pytest.mark.slow
def test_a_population_trains_through_ray_tune(ray_cluster, smoke, tmp_path):
    settings = {"num_trials": 2, "rungs_per_budget": 2, "scheduler": "pbt", "min_perplexity_fraction": 0.0}
    config = smoke.override(
        {"name": "population", "storage": str(tmp_path)} | {f"search.{key}": value for key, value in settings.items()}
    )
    sweep(config)
    trials = pd.read_csv(tmp_path / "population" / "trials.csv")
    assert list(trials["status"]) == ["TERMINATED"] * 2
    (change,) = (tmp_path / "population" / "pbt_global.txt").read_text().splitlines()
    *_, old, new = json.loads(change)
    assert old != new
    assert trials["mask.ratio"].round(6).isin([round(new["mask.ratio"], 6)]).sum() == 1
    history = pd.read_csv(tmp_path / "population" / "history.csv")
    assert list(history.groupby("trial")["windows"].max()) == [32, 32]


@pytest.mark.slow
def test_pb2_changes_values_inside_the_space(ray_cluster, smoke, tmp_path):
    settings = {"num_trials": 2, "rungs_per_budget": 4, "scheduler": "pb2", "min_perplexity_fraction": 0.0}
    settings["space"] = ["loss.temperature=uniform(0.05, 0.5)"]
    config = smoke.override(
        {"name": "gaussian", "storage": str(tmp_path)} | {f"search.{key}": value for key, value in settings.items()}
    )
    sweep(config)
    trials = pd.read_csv(tmp_path / "gaussian" / "trials.csv")
    assert list(trials["status"]) == ["TERMINATED"] * 2
    assert list(trials["windows"]) == [32, 32]
    changes = [json.loads(line)[-2:] for line in (tmp_path / "gaussian" / "pbt_global.txt").read_text().splitlines()]
    # Its Gaussian process needs two reports of the same values: the first change only copies those of the better trial.
    assert any(old != new for old, new in changes)
    assert all(0.05 <= new["loss.temperature"] <= 0.5 for _, new in changes)
    assert abs(trials["train/temperature"] - changes[-1][1]["loss.temperature"]).min() < 1e-6, (
        "it trained with the last"
    )


@pytest.mark.slow
def test_tpe_proposes_values_of_the_space_and_hears_of_scores(ray_cluster, smoke, tmp_path):
    settings = {"num_trials": 2, "max_concurrent": 1, "rungs_per_budget": 1, "searcher": "tpe", "scheduler": "none"}
    config = smoke.override(
        {"name": "tpe", "storage": str(tmp_path), "train.max_steps": 2, "search.min_perplexity_fraction": 0.0}
        | {f"search.{key}": value for key, value in settings.items()}
    )
    best = sweep(config)
    trials = pd.read_csv(tmp_path / "tpe" / "trials.csv", dtype={"trial": str})
    assert list(trials["status"]) == ["TERMINATED"] * 2
    assert best["value"] == trials["objective"].max()
    assert trials["mask.ratio"].between(0.35, 0.8).all()
    assert trials["mask.ratio"].nunique() == 2
    assert trials["loss.num_negatives"].isin([25, 50, 100, 200]).all()
    searcher = searcher_of(config)
    searcher.restore_from_dir(str(tmp_path / "tpe"))
    told = [t.value for t in searcher._ot_study.get_trials()]
    assert sorted(told) == sorted(trials["objective"])
