"""What each scheduler and searcher accepts, and what it refuses with a message."""

import json

import pandas as pd
import pytest
import torch
from ray.tune.schedulers import PopulationBasedTraining

from raysys.config import SearchConfig
from raysys.presets import PRESETS
from raysys.train.data import prepare_training_data
from raysys.train.loop import Budget
from raysys.tune.schedulers import check_space, scheduler_of, searcher_of
from raysys.tune.space import parse_space
from raysys.tune.sweep import sweep
from tests.train.local import local_trainer

BUDGET = Budget(windows=1000, between_validations=100, full_batch=10)


def setting(*space, **search):
    config = PRESETS["smoke"]().override({f"search.{key}": value for key, value in search.items()})
    return config, parse_space(space or config.search.space, config)


@pytest.mark.parametrize("scheduler", ["asha", "pbt"])
def test_grace_shorter_than_the_warmup_is_refused(scheduler):
    config, space = setting(grace=0.1, scheduler=scheduler)
    with pytest.raises(
        ValueError, match=r"search.grace=0.1 ends inside the learning-rate warm-up, optim.warmup=0.2.*0.2"
    ):
        check_space(config, space)
    check_space(*setting(grace=0.2, scheduler=scheduler))
    check_space(*setting(grace=0.1, scheduler="none"))


def test_grace_is_compared_with_the_longest_warmup_of_the_space():
    for entry in ("optim.warmup=uniform(0.1, 0.4)", "optim.warmup=choice(0.1, 0.4)", "optim.warmup=grid(0.1, 0.4)"):
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


def test_a_population_stays_inside_the_space():
    config, space = setting("mask.ratio=uniform(0.35, 0.8)", "loss.num_negatives=choice(8, 16)", scheduler="pbt")
    scheduler = scheduler_of(config, space, BUDGET)
    assert isinstance(scheduler, PopulationBasedTraining)
    inside = scheduler._custom_explore_fn
    assert inside({"mask.ratio": 0.96, "loss.num_negatives": 8}) == {"mask.ratio": 0.8, "loss.num_negatives": 8}
    assert inside({"mask.ratio": 0.2, "loss.num_negatives": 8}) == {"mask.ratio": 0.35, "loss.num_negatives": 8}


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
    settings = {"num_trials": 2, "rungs_per_budget": 2, "scheduler": "pbt", "min_used_fraction": 0.0}
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
    settings = {"num_trials": 2, "rungs_per_budget": 4, "scheduler": "pb2", "min_used_fraction": 0.0}
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
    settings = {"num_trials": 3, "max_concurrent": 1, "rungs_per_budget": 1, "searcher": "tpe", "scheduler": "none"}
    config = smoke.override(
        {"name": "tpe", "storage": str(tmp_path), "train.max_steps": 2, "search.min_used_fraction": 0.0}
        | {f"search.{key}": value for key, value in settings.items()}
    )
    best = sweep(config)
    trials = pd.read_csv(tmp_path / "tpe" / "trials.csv", dtype={"trial": str})
    assert list(trials["status"]) == ["TERMINATED"] * 3
    assert best["value"] == trials["objective"].max()
    assert trials["mask.ratio"].between(0.35, 0.8).all()
    assert trials["mask.ratio"].nunique() == 3
    assert trials["loss.num_negatives"].isin([25, 50, 100, 200]).all()
    searcher = searcher_of(config)
    searcher.restore_from_dir(str(tmp_path / "tpe"))
    told = [t.value for t in searcher._ot_study.get_trials()]
    assert sorted(told) == sorted(trials["objective"])
