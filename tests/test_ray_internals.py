"""What the project uses of Ray without a promise is there in the installed version, and does what it is used for."""

import gc
import inspect
import json
import logging
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
import ray.train._internal.storage
from ray import cloudpickle, tune
from ray._private import internal_api, ray_constants
from ray.train import CheckpointConfig, ControllerError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import CheckpointManager
from ray.train.v2._internal.execution.storage import StorageContext
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Experiment, Trial
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.schedulers.pb2 import PB2
from ray.tune.search.basic_variant import BasicVariantGenerator
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group

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
    for moment in ("2026-01-01_00-00-00", "2026-01-02_00-00-00"):
        for name in (internals.SESSION_STATE.format(moment), f"searcher-state-{moment}.pkl"):
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


def test_who_proposes_trials_is_given_more_of_them_in_another_place(tmp_path, monkeypatch):
    monkeypatch.setattr(ray.train._internal.storage, "_get_ray_train_session_dir", lambda: str(tmp_path / "session"))

    def trains(config):
        """Nothing: no trial is begun."""

    def proposer() -> BasicVariantGenerator:
        return BasicVariantGenerator(max_concurrent=1, random_state=3)

    def begun(samples):
        space = {"a": tune.uniform(0, 1), "b": tune.grid_search([1, 2])}
        other = proposer()
        where = {"storage_path": str(tmp_path / "old"), "num_samples": samples}
        other.add_configurations(Experiment("mine", trains, config=space, **where))
        return other

    def proposed(other):
        found = []
        while trial := other.next_trial():
            other.on_trial_complete(trial.trial_id)
            found.append(trial)
        return found

    old, whole = begun(2), proposed(begun(3))
    first = proposed(old)
    assert (len(first), old.is_finished()) == (4, True)
    content = internals.renew_search(cloudpickle.dumps(old.get_state()), str(tmp_path / "new"), 3, 5)
    new = proposer()
    new.set_state(cloudpickle.loads(content))
    assert (new.max_concurrent, new.total_samples, new.is_finished()) == (5, 6, False)
    more = proposed(new)
    assert [trial.config for trial in first + more] == [trial.config for trial in whole], "the draws go on"
    assert {trial.storage.experiment_fs_path for trial in more} == {str(tmp_path / "new" / "mine")}
    assert len({trial.trial_id for trial in first + more}) == 6


@ray.remote(num_cpus=0)
class Maker:
    """Makes placement groups, as the controller of a Ray Train run does."""

    def make(self) -> PlacementGroup:
        group = placement_group([{"CPU": 0.01}])
        ray.get(group.ready())
        return group


def states(groups) -> list[str]:
    return [placement_group_table(group)["state"] for group in groups]


@pytest.mark.slow
def test_only_groups_whose_maker_is_dead_are_given_back(ray_cluster):
    makers = [Maker.remote(), Maker.remote()]
    groups = [*ray.get([maker.make.remote() for maker in makers]), placement_group([{"CPU": 0.01}])]
    ray.get(groups[-1].ready())
    assert internals.free_abandoned_groups() == 0
    ray.kill(makers[0])
    until = time.monotonic() + 30
    while not (freed := internals.free_abandoned_groups()) and time.monotonic() < until:
        time.sleep(0.2)
    assert freed == 1
    assert internals.free_abandoned_groups() == 0, "once"
    time.sleep(0.5)
    assert states(groups) == ["REMOVED", "CREATED", "CREATED"]
    for group in groups[1:]:
        remove_placement_group(group)


@pytest.mark.slow
def test_workers_that_could_not_start_give_back_what_they_had(ray_cluster, smoke, tmp_path):
    """Ray Train does not: this test tells when it does, and `free_abandoned_groups` can go."""
    free = ray.available_resources()["CPU"]
    run = ray.train.RunConfig(
        name="run", storage_path=str(tmp_path), failure_config=ray.train.FailureConfig(controller_failure_limit=0)
    )
    trainer = TorchTrainer(lambda: None, torch_config=TorchConfig(backend="none of these"), run_config=run)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ControllerError):
        trainer.fit()
    signal.signal(signal.SIGINT, before)  # Ray Train's own handler holds the controller
    until, freed = time.monotonic() + 30, 0
    while not freed and time.monotonic() < until:
        gc.collect()
        freed = internals.free_abandoned_groups()
        time.sleep(0.5)
    assert freed == 1
    while ray.available_resources().get("CPU", 0) < free and time.monotonic() < until:
        time.sleep(0.5)
    assert ray.available_resources()["CPU"] >= free  # more where an actor of an earlier test was still leaving
