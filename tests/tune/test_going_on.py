"""A sweep that goes on: with more trials, in another place, with data that was moved; and where trials' curves are."""

import json
from pathlib import Path

import pandas as pd
import pytest
from ray import tune
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from raysys.config import differences
from raysys.record import read_config
from raysys.tune.sweep import sweep

pytestmark = pytest.mark.slow

QUICK = {
    "name": "mine",
    "search.min_perplexity_fraction": 0.0,
    "train.max_steps": 4,
    "search.rungs_per_budget": 2,
    "search.scheduler": "none",
    "search.num_trials": 2,
    "search.max_concurrent": 1,
}


class Stop(tune.Callback):
    """Ends the driver at the first report of the second trial."""

    def on_trial_result(self, iteration, trials, trial, result, **info):
        if len(trials) == 2:
            raise ConnectionAbortedError("the driver is gone")


def steps(folder: Path) -> list[int]:
    """The steps of which the curves of a trial tell, in the order of the file."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if "train/loss" in line]


def test_a_sweep_goes_on_where_it_was_moved_to_with_more_trials_and_moved_data(ray_cluster, smoke, tmp_path):
    (tmp_path / "data").symlink_to(smoke.data.root)
    config = smoke.override(QUICK | {"storage": str(tmp_path / "a"), "data.reader": "ray", "train.num_workers": 3})
    with pytest.raises(Exception, match="the driver is gone"):
        sweep(config, [Stop()])
    (tmp_path / "a").rename(tmp_path / "b")
    moved = {"storage": str(tmp_path / "b"), "data.root": str(tmp_path / "data"), "train.log_every": 1}
    moved |= {"search.num_trials": 3, "search.max_concurrent": 2, "search.top_k": 1, "search.top_k_seeds": 1}
    config = config.override(moved)
    best = sweep(config)
    folder = tmp_path / "b" / "mine"
    assert not (tmp_path / "a").exists()
    table = pd.read_csv(folder / "trials.csv")
    trials = table[table["repeat_of"].isna()]
    assert list(trials["status"]) == ["TERMINATED"] * 3
    assert trials["mask.ratio"].nunique() == 3
    assert best["checkpoint"].startswith(str(folder))
    assert (Path(best["checkpoint"]) / "model.safetensors").exists()
    own = config.override(best["tuned"] | {"name": "mine-best"})
    assert differences(own, read_config(str(folder))) == {}, "the user's own configuration, with the tuned values"
    first, second, third = (folder / f"trial_{name}" for name in trials["trial"])
    assert steps(first) == [2, 4]
    assert steps(second)[-2:] == [3, 4], "it went on, and says more now"
    assert steps(third) == [1, 2, 3, 4]
    events = EventAccumulator(str(third / "tensorboard"))
    events.Reload()
    assert "train/loss" in events.Tags()["scalars"]
    assert steps(folder / "seeds" / f"trial_{table['trial'].iloc[-1]}") == [1, 2, 3, 4]

    record = json.loads((folder / "record.json").read_text())
    assert record["continuations"][0]["changes"]["search.num_trials"] == [2, 3]
    with pytest.raises(ValueError, match=r"search\.grace: 0\.25 -> 0\.5"):
        sweep(config.override({"search.grace": 0.5}))
    with pytest.raises(ValueError, match=r"search\.num_trials=1, and this sweep has 2"):
        sweep(config.override({"search.num_trials": 1}))

    more = config.override({"search.num_trials": 4, "search.top_k": 4})
    sweep(more)
    again = pd.read_csv(folder / "trials.csv")
    assert sorted(again["repeat_of"].dropna()) == sorted(again["trial"][again["repeat_of"].isna()]), "each once"
    kept = again[again["trial"].isin(table["trial"])].reset_index(drop=True)
    assert list(kept["seconds"]) == list(table["seconds"]), "what was done is not done again"


def test_a_search_by_tpe_gets_more_trials(ray_cluster, smoke, tmp_path):
    config = smoke.override(QUICK | {"storage": str(tmp_path), "search.searcher": "tpe"})
    sweep(config)
    sweep(config.override({"search.num_trials": 3, "search.max_concurrent": 2}))
    assert len(pd.read_csv(tmp_path / "mine" / "trials.csv")) == 3
    sweep(config.override({"search.num_trials": 4, "search.max_concurrent": None}))
    assert len(pd.read_csv(tmp_path / "mine" / "trials.csv")) == 4


def test_trials_of_two_workers_keep_their_curves_in_their_own_folders_and_move(ray_cluster, smoke, tmp_path):
    nested = {"search.workers_per_trial": 2, "train.cpus_per_worker": 0.5, "search.num_trials": 1, "data.reader": "ray"}
    config = smoke.override(QUICK | nested | {"storage": str(tmp_path / "a")})
    sweep(config)
    (tmp_path / "a").rename(tmp_path / "b")
    best = sweep(config.override({"storage": str(tmp_path / "b"), "search.num_trials": 2}))
    folder = tmp_path / "b" / "mine"
    trials = pd.read_csv(folder / "trials.csv")["trial"]
    assert [steps(folder / f"trial_{name}") for name in trials] == [[2, 4]] * 2
    assert Path(best["checkpoint"]).is_relative_to(folder / "workers")
    assert (Path(best["checkpoint"]) / "model.safetensors").exists()
    assert not (tmp_path / "a").exists()


def test_the_curves_of_trials_are_copied_to_a_storage_behind_a_url(ray_cluster, smoke, tmp_path):
    config = smoke.override(QUICK | {"storage": f"local://{tmp_path}", "search.num_trials": 1})
    sweep(config)
    (trial,) = (tmp_path / "mine").glob("trial_*")
    assert steps(trial) == [2, 4]
    assert list(trial.glob("tensorboard/events*"))
