"""The driver's loop around Ray Train: which ends of a run are no end."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray.train
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

from raysys.train import driver
from raysys.train.mend import SNAPSHOT, newest_checkpoint


def ends(monkeypatch, *outcomes) -> list:
    """Makes Ray Train end with these outcomes, one after the other; returns what is left of them."""
    left = list(outcomes)

    def fit():
        outcome = left.pop(0)
        if callable(outcome):
            outcome = outcome()
        if isinstance(outcome, Exception):
            raise outcome
        return SimpleNamespace(return_value={"finished": outcome}, metrics={})

    monkeypatch.setattr(driver, "trainer", lambda *arguments: SimpleNamespace(fit=fit))
    monkeypatch.setattr(driver, "_PAUSE_S", 0.0)
    return left


def no_machines() -> ray.train.ControllerError:
    """What Ray Train raises when it has waited for machines as often as it may."""
    return ray.train.ControllerError(WorkerGroupStartupTimeoutError(num_workers=2))


def test_a_run_goes_on_after_machines_were_taken_away_or_missing(smoke, monkeypatch):
    left = ends(monkeypatch, False, no_machines(), no_machines(), True)
    assert driver._fit(smoke, {}).return_value["finished"]
    assert not left


def test_waiting_for_machines_ends(smoke, monkeypatch):
    left = ends(monkeypatch, no_machines(), no_machines(), True)
    with pytest.raises(ray.train.ControllerError):
        driver._fit(smoke.override({"train.wait_for_nodes_h": 0.0}), {})
    assert len(left) == 2


def test_other_errors_of_the_controller_end_the_run(smoke, monkeypatch):
    left = ends(monkeypatch, ray.train.ControllerError(RuntimeError("an unreadable snapshot")), True)
    with pytest.raises(ray.train.ControllerError, match="unreadable"):
        driver._fit(smoke, {})
    assert left == [True]


def after_checkpoint(config, step: int, error: Exception):
    """An end of Ray Train by an error, after it has registered a checkpoint."""

    def end() -> Exception:
        run = Path(config.storage) / config.name
        run.mkdir(parents=True, exist_ok=True)
        (run / f"step{step:09d}").mkdir(exist_ok=True)
        newest = {"checkpoint_dir_name": f"step{step:09d}", "metrics": {}}
        (run / SNAPSHOT).write_text(json.dumps({"checkpoint_results": [newest], "latest_checkpoint_result": newest}))
        return error

    return end


def test_failures_count_only_while_no_checkpoint_comes_between(smoke, monkeypatch, tmp_path):
    config = smoke.override({"storage": str(tmp_path)})
    lost = ray.train.WorkerGroupError("a node is gone", {})
    left = ends(monkeypatch, after_checkpoint(config, 4, lost), after_checkpoint(config, 8, lost), True)
    assert driver._fit(config, {}).return_value["finished"]
    assert not left
    assert newest_checkpoint(str(tmp_path / "smoke")) == "step000000008"
    left = ends(monkeypatch, after_checkpoint(config, 12, lost), after_checkpoint(config, 12, lost), True)
    with pytest.raises(ray.train.WorkerGroupError, match="a node is gone"):
        driver._fit(config, {})
    assert left == [True]


def test_hours_of_waiting_begin_anew_after_every_checkpoint(smoke, monkeypatch, tmp_path):
    config = smoke.override({"storage": str(tmp_path), "train.wait_for_nodes_h": 0.1 / 3600})
    ends(monkeypatch, *(after_checkpoint(config, step, no_machines()) for step in (4, 8, 12)), True)
    monkeypatch.setattr(driver, "_PAUSE_S", 0.2)
    assert driver._fit(config, {}).return_value["finished"]
    left = ends(monkeypatch, no_machines(), no_machines(), True)
    monkeypatch.setattr(driver, "_PAUSE_S", 0.2)
    with pytest.raises(ray.train.ControllerError):
        driver._fit(config, {})
    assert left == [True]


def test_a_storage_that_refuses_ray_trains_list_is_tried_again(smoke, monkeypatch):
    ends(monkeypatch, ray.train.ControllerError(OSError("AWS Error SLOW_DOWN")), True)
    assert driver._fit(smoke, {}).return_value["finished"]
