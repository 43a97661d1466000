"""The first steps that a sweep takes on every node with GPUs before its trials, so that they find compiled kernels."""

import dataclasses
import logging
from types import SimpleNamespace

import pytest
import ray

import raysys.tune.warm_up as module
from raysys.train.data import prepare_training_data
from raysys.tune.sweep import sweep
from raysys.tune.trial import trial_config
from raysys.tune.warm_up import warm_up

NOWHERE = "e" * 56


@pytest.fixture
def here(ray_cluster, monkeypatch):
    """Makes this machine count as a node with GPUs, of which a trial takes none."""
    node = ray.get_runtime_context().get_node_id()
    monkeypatch.setattr(module, "_gpu_nodes", lambda config: [node])
    return node


@pytest.fixture
def data(ray_cluster, smoke):
    return prepare_training_data(smoke).shared()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_warm_up_takes_a_trials_steps_and_leaves_nothing_in_the_sweeps_folder(
    here, smoke, data, tmp_path, caplog, workers
):
    config = smoke.override({"storage": str(tmp_path), "train.compile": True, "search.workers_per_trial": workers})
    with caplog.at_level(logging.INFO):
        assert warm_up(trial_config(config), data) > 0
    assert not list(tmp_path.iterdir())
    assert "kernels compiled on 1 of 1 nodes" in caplog.text


@pytest.mark.slow
def test_a_warm_up_that_fails_is_told_and_nothing_more(here, smoke, data, caplog):
    caplog.set_level(logging.INFO)
    warm_up(trial_config(smoke), dataclasses.replace(data, traces=None))
    assert f"node {here[:8]}: no warm-up" in caplog.text
    assert "on 0 of 1 nodes" in caplog.text
    assert "TypeError: object of type 'NoneType'" in caplog.text


@pytest.mark.slow
def test_a_sweep_goes_on_without_a_warm_up(ray_cluster, smoke, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(module, "_gpu_nodes", lambda config: [NOWHERE])
    changes = {"search.num_trials": 1, "search.min_perplexity_fraction": 0.0, "train.max_steps": 4}
    sweep(smoke.override(changes | {"name": "cold", "storage": str(tmp_path)}))
    assert f"node {NOWHERE[:8]}: no warm-up" in caplog.text
    assert (tmp_path / "cold" / "best.json").exists()


@pytest.mark.parametrize(("compiles", "steps"), [(False, 2), (True, 5)])
def test_the_first_steps_see_a_whole_batch_and_the_shorter_one_at_its_end(smoke, monkeypatch, compiles, steps):
    """Compiled ones also record a CUDA graph, after three steps, and replay it."""
    taken = {}
    monkeypatch.setattr(module, "train_trial", lambda tuned, config, data, record, **_: taken.update(c=config, d=data))
    monkeypatch.setattr(module, "BATCH", 5)
    many = smoke.override({"train.compile": compiles, "train.num_workers": 2, "data.reader": "ray"})
    module._first_steps._function(many, prepare_training_data(smoke))
    first = {"train.max_steps": steps, "train.validate_every": steps, "train.num_workers": 1, "data.reader": "process"}
    assert taken["c"] == many.override(first)
    sizes = {name: len(taken["d"].get(name)) for name in ("validation", "probe_fit", "probe_score")}
    assert sizes == {"validation": 5 + 16 % 5, "probe_fit": 5 + 32 % 5, "probe_score": 5 + 16 % 5}


@pytest.mark.parametrize(("workers", "share"), [(1, 0.5), (3, 1.0)])
def test_a_warm_up_asks_for_what_one_worker_of_a_trial_has_on_every_node(smoke, monkeypatch, workers, share):
    asked = []
    task = SimpleNamespace(options=lambda **words: asked.append(words) or SimpleNamespace(remote=lambda *_: "task"))
    monkeypatch.setattr(module, "_first_steps", task)
    monkeypatch.setattr(module, "_gpu_nodes", lambda config: [NOWHERE, "d" * 56])
    monkeypatch.setattr(ray, "wait", lambda tasks, num_returns, timeout: (tasks[:num_returns], tasks[num_returns:]))
    monkeypatch.setattr(ray, "get", lambda task, timeout: None)
    config = smoke.override({"train.device": "cuda", "search.gpus_per_trial": 0.5, "search.workers_per_trial": workers})
    assert warm_up(config, None) >= 0
    assert [words["num_gpus"] for words in asked] == [share, share]
    assert [words["scheduling_strategy"].node_id for words in asked] == [NOWHERE, "d" * 56]


def test_a_busy_gpu_is_not_waited_for_for_ever(here, smoke, data, monkeypatch, caplog):
    monkeypatch.setattr(module, "_LIMIT_S", 0.0)
    warm_up(trial_config(smoke), data)
    assert "GetTimeoutError" in caplog.text


def test_only_live_nodes_with_gpus_are_warmed_up_and_only_for_trials_that_use_them(ray_cluster, smoke, monkeypatch):
    assert warm_up(trial_config(smoke), None) is None
    nodes = [("busy", True, {"CPU": 8.0, "GPU": 2.0}), ("lost", False, {"GPU": 2.0}), ("reader", True, {"CPU": 8.0})]
    nodes = [{"NodeID": name, "Alive": alive, "Resources": has} for name, alive, has in nodes]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    on_gpus = {"train.device": "cuda", "search.gpus_per_trial": 0.5}
    assert module._gpu_nodes(smoke.override(on_gpus)) == ["busy"]
    assert module._gpu_nodes(smoke.override(on_gpus | {"search.workers_per_trial": 2})) == ["busy"]
    assert module._gpu_nodes(smoke.override(on_gpus | {"train.device": "cpu"})) == []
