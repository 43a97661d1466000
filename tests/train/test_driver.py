"""The driver's loop around Ray Train: which ends of a run are no end."""

from types import SimpleNamespace

import pytest
import ray.train
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

from raysys.train import driver


def ends(monkeypatch, *outcomes) -> list:
    """Makes Ray Train end with these outcomes, one after the other; returns what is left of them."""
    left = list(outcomes)

    def fit():
        outcome = left.pop(0)
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
