"""What the project uses of Ray without a promise is there in the installed version, and does what it is used for."""

import inspect
import json
import logging
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray.train._internal.storage
from ray._private import internal_api, ray_constants
from ray.train import CheckpointConfig, ControllerError
from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import CheckpointManager
from ray.train.v2._internal.execution.storage import StorageContext
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.schedulers.pb2 import PB2

from raysys import ray_internals as internals


@pytest.fixture
def trial(tmp_path, monkeypatch) -> Trial:
    """One that belongs to no cluster."""
    monkeypatch.setattr(ray.train._internal.storage, "_get_ray_train_session_dir", lambda: str(tmp_path / "session"))
    storage = ray.train._internal.storage.StorageContext(str(tmp_path), "sweep")
    return Trial("__none", trial_id="a", storage=storage, stub=True)


def test_names_are_those_of_ray():
    assert internals.CHECKPOINT_LIST == CHECKPOINT_MANAGER_SNAPSHOT_FILENAME
    assert internals.SESSION_STATE == TuneController.CKPT_FILE_TMPL
    assert internals.GCS_PORT == ray_constants.GCS_PORT_ENVIRONMENT_VARIABLE


def test_a_folder_without_a_cluster_has_no_address(tmp_path):
    assert internals.running_cluster(str(tmp_path)) is None
    (tmp_path / "ray_current_cluster").write_text("10.0.0.1:6379")
    assert internals.running_cluster(str(tmp_path)) == "10.0.0.1:6379"


def test_the_object_store_is_summed_up_without_its_objects(monkeypatch):
    assert "stats_only" in inspect.signature(internal_api.memory_summary).parameters
    monkeypatch.setattr(internals, "memory_summary", lambda stats_only: f"{stats_only}")
    assert internals.object_store_summary() == "True"


def test_workers_that_cannot_start_are_an_error_of_the_controller():
    error = ControllerError(internals.WorkersNotStarted(num_workers=2))
    assert isinstance(error.controller_failure, internals.WorkersNotStarted)


@pytest.mark.parametrize("answers", [True, False])
def test_ctrl_c_ends_a_trainer_whether_its_controller_answers_or_not(monkeypatch, answers):
    """tests/test_interrupt.py does it with a cluster."""
    calls = []

    def get(reference, timeout):
        calls.append((reference, timeout <= 10))
        raise (ray.exceptions.RayActorError if answers else ray.exceptions.GetTimeoutError)()

    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(ray, "kill", lambda actor: calls.append(actor))
    controller = SimpleNamespace(abort=SimpleNamespace(remote=lambda: "aborted"))
    assert "_register_sigint_handler" in vars(DataParallelTrainer)
    before = signal.getsignal(signal.SIGINT)
    try:
        internals.InterruptibleTrainer._register_sigint_handler(None, controller)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert calls == [("aborted", True), controller]


def test_the_loggers_of_ray_are_quiet():
    names = ("ray.data", "ray.train", "ray.train.v2._internal.execution.context")
    internals.quieten_loggers()
    assert not logging.getLogger("ray.data._internal.progress").isEnabledFor(logging.WARNING)
    assert not any(logging.getLogger(name).isEnabledFor(logging.INFO) for name in names)
    assert not ray.train.v2._internal.execution.context.logger.isEnabledFor(logging.INFO)


@pytest.mark.parametrize("names", [(), ("step000000004", "step000000008")])
def test_ray_train_reads_the_list_of_checkpoints(tmp_path, names):
    (tmp_path / "run").mkdir()
    listed = internals.checkpoint_list({name: {"step": name} for name in names})
    (tmp_path / "run" / internals.CHECKPOINT_LIST).write_text(json.dumps(listed))
    for name in names:
        (tmp_path / "run" / name).mkdir()
    manager = CheckpointManager(CheckpointConfig(), StorageContext(tmp_path, "run"))
    assert [result.metrics for result in manager._checkpoint_results] == [{"step": name} for name in names]
    latest = manager.latest_checkpoint_result
    assert (latest and latest.metrics) == ({"step": names[-1]} if names else None)


def test_the_files_of_the_newest_driver_are_found(trial):
    staging = Path(trial.storage.experiment_driver_staging_path)
    assert internals.session_files(trial.storage) == []
    staging.mkdir(parents=True)
    for time in ("2026-01-01_00-00-00", "2026-01-02_00-00-00"):
        for name in (internals.SESSION_STATE.format(time), f"searcher-state-{time}.pkl"):
            (staging / name).write_text("")
    assert sorted(path.name for path in internals.session_files(trial.storage)) == [
        "experiment_state-2026-01-02_00-00-00.json",
        "searcher-state-2026-01-02_00-00-00.pkl",
    ]


def test_a_failure_is_forgiven(trial):
    trial.run_metadata.num_failures = 2
    internals.forgive_failure(trial)
    assert internals.num_failures(trial) == trial.num_failures == 1


def test_pb2_changes_nothing_before_its_burn_in(trial):
    population = PB2(time_attr="windows", perturbation_interval=10, hyperparam_bounds={"x": [0.0, 1.0]})
    internals.set_burn_in(population, 50, 10)
    population.set_search_properties("score", "max")
    population.on_trial_add(SimpleNamespace(search_alg=None), trial)
    assert population.on_trial_result(None, trial, {"windows": 49, "score": 0.0}) == TrialScheduler.CONTINUE


def test_asha_compares_with_what_was_reported_before(trial):
    asha = ASHAScheduler(time_attr="windows", metric="score", mode="max", grace_period=10, reduction_factor=2)
    other = Trial("__none", trial_id="b", stub=True)
    for one in (trial, other):
        asha.on_trial_add(None, one)
    internals.enter_rung(asha, trial, {"windows": 10})
    assert asha.on_trial_result(None, other, {"windows": 10, "score": 0.1}) == TrialScheduler.CONTINUE
    third = Trial("__none", trial_id="c", stub=True)
    asha.on_trial_add(None, third)
    internals.enter_rung(asha, trial, {"windows": 10, "score": 0.9})
    assert asha.on_trial_result(None, third, {"windows": 10, "score": 0.2}) == TrialScheduler.STOP
