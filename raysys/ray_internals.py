"""What the project uses of Ray that Ray does not document. All of it was read in Ray 2.60, and is touched in this file alone.

Each piece says why it is used and what breaks without it; tests/test_ray_internals.py uses each with the installed Ray.
"""

import contextlib
import importlib
import logging
import signal
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
import ray._private.state
import ray.train.v2._internal.execution.context
import torch.distributed
from ray import cloudpickle
from ray._private import ray_constants
from ray._private.internal_api import memory_summary
from ray._private.services import find_bootstrap_address
from ray.core.generated import gcs_pb2
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_exists, _internal_kv_put
from ray.train._internal.storage import get_fs_and_path
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.util.placement_group import PlacementGroup, remove_placement_group

WorkersNotStarted = WorkerGroupStartupTimeoutError
"""What a `ControllerError` holds when no machines came for the workers: the run waits then; without it, it would give up."""
CHECKPOINT_LIST = "checkpoint_manager_snapshot.json"
"""Ray Train's list of a run's checkpoints, which may need repair; under another name a broken one would end the run."""
GCS_PORT = "RAY_GCS_SERVER_PORT"
"""Sets the port of a cluster that starts, so that its address is known before; else two clusters on a machine mix up."""
ON_LOOPBACK = {ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0"}
"""Environment of processes whose Ray is on one machine; without it they take 127.0.0.1 for the machine's other address."""
SESSION_STATE = "experiment_state-{}.json"
"""Ray Tune's state of a sweep, by the time when its driver began; under another name a killed sweep begins anew."""


SEARCH_STATES = ("basic-variant-state-{}.json", "search_gen_state-{}.json")
"""Ray Tune's state of who proposes trials, of random draws and of other searchers; pickled, whatever their names say."""
_ABORT_S = 3.0


class InterruptibleTrainer(TorchTrainer):
    """Ends within seconds on Ctrl-C, with KeyboardInterrupt.

    Ray Train's own trainer asks its controller to stop and waits for the answer, without end. A controller that waits for
    workers answers after a minute, and the process then ends with code 1 or 0.
    """

    def _register_sigint_handler(self, controller) -> None:
        def interrupt(signum, frame):
            signal.signal(signal.SIGINT, signal.default_int_handler)
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(controller.abort.remote(), timeout=_ABORT_S)
            ray.kill(controller)  # its workers and their resources go with it
            raise KeyboardInterrupt

        signal.signal(signal.SIGINT, interrupt)


@contextlib.contextmanager
def on_loopback() -> Iterator[None]:
    """Leaves 127.0.0.1 what it is for the Ray that is started or joined in the block, as Ray does on macOS and Windows.

    Otherwise Ray replaces it by the machine's address in the network, and its processes listen on all interfaces. Ray has
    read its environment already, so the variable of `ON_LOOPBACK` comes too late for this process.
    """
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


class WorkersMeet(TorchConfig):
    """How the workers of a run find each other: on one machine nobody else finds them.

    PyTorch's store, at which they meet, listens on all interfaces and asks for no token.
    """

    @property
    def backend_cls(self):
        return _MeetOnLoopback


class _MeetOnLoopback(TorchConfig().backend_cls):
    def on_start(self, worker_group, backend_config):
        if not ray_constants.ENABLE_RAY_CLUSTER:
            worker_group.execute_single(0, _store_on_loopback)
        super().on_start(worker_group, backend_config)


def _store_on_loopback() -> None:
    """Has this process's next store at a local address listen there alone."""
    whole = torch.distributed.TCPStore

    def store(*, host_name: str, port: int, is_master: bool, **words):
        if is_master:
            words["master_listen_fd"] = socket.create_server((host_name, port)).detach()
        return whole(host_name=host_name, port=port, is_master=is_master, **words)

    importlib.import_module("torch.distributed.rendezvous").TCPStore = store  # a function has the module's name


def running_cluster(temp_dir: str | None) -> str | None:
    """Returns the address of this machine's `ray start`, or None.

    `ray.init(address="auto")` fails where there is none. Without this a job beside `ray start` would start a second Ray.
    """
    return find_bootstrap_address(temp_dir)


def object_store_summary() -> str:
    """Returns what `ray memory --stats-only` prints; without it a benchmark does not see what was spilled to the disk."""
    return memory_summary(stats_only=True)


def quieten_loggers() -> None:
    """Takes the chatter of Ray Data and Ray Train out of this process's log; without it the console fills up.

    One logger of Ray Train is named by the path of its file.
    """
    for name in ("ray.data", "ray.train", ray.train.v2._internal.execution.context.logger.name):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)


def checkpoint_list(metrics: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Returns the content of `CHECKPOINT_LIST`; Ray Train refuses another one, and the run could not continue.

    Args:
        metrics: name of a checkpoint -> what was reported with it, the newest last.
    """
    results = [{"version": 0, "checkpoint_dir_name": name, "metrics": values} for name, values in metrics.items()]
    return {
        "ray_version": ray.__version__,
        "checkpoint_results": results,
        "checkpoint_report_indices": list(range(len(results))),
        "latest_checkpoint_result": results[-1] if results else None,
        "pending_training_results": [],
        "pending_validation_specs": [],
        "current_report_index": len(results),
        "validated_checkpoint_dir_names": [],
        "timed_out_validation_checkpoint_dir_names": [],
        "failed_validation_checkpoint_dir_names": [],
    }


def session_files(storage) -> list[Path]:
    """Returns the files in which the newest driver of a sweep saves its state, before Ray Tune copies them to the storage.

    Their names hold the time when the driver began. Without them a sweep cannot be saved in one piece.

    Args:
        storage: of a trial.
    """
    folder = Path(storage.experiment_driver_staging_path)
    state = max(folder.glob(SESSION_STATE.format("*")), default=None)
    if state is None:
        return []
    before, after = SESSION_STATE.split("{}")
    return list(folder.glob(f"*{state.name.removeprefix(before).removesuffix(after)}*"))


def renew_search(content: bytes, storage: str, num_samples: int, max_concurrent: int | None) -> bytes:
    """Returns what Ray Tune saved of who proposes trials, for a sweep that goes on in another place or with other numbers.

    `Tuner.restore` keeps the number of samples, how many run at a time and the folder of trials that are not yet begun.
    Without it a sweep cannot be given more trials, and one whose folder was moved writes into the old one.

    Args:
        content: of the file of a name in `SEARCH_STATES`.
        storage: folder or URL that holds the sweep's folder.
        num_samples: of the sweep, not fewer than before.
        max_concurrent: trials that run at a time; None: as many as there is room for.
    """
    state = cloudpickle.loads(content)
    fs, path = get_fs_and_path(storage)
    iterators = state.get("_iterators", [])
    specs = [iterator.unresolved_spec for iterator in iterators] or [state["experiment"].spec]
    more = num_samples - specs[0]["num_samples"]
    for spec in specs:
        spec["num_samples"] = num_samples
        spec["storage"].storage_filesystem, spec["storage"].storage_fs_path = fs, path
    for iterator in iterators:
        iterator.num_samples, iterator.num_samples_left = num_samples, iterator.num_samples_left + more
    prefix = "_" if iterators else ""
    state[f"{prefix}total_samples"] = state[f"{prefix}total_samples"] * num_samples // (num_samples - more)
    state[f"{prefix}finished"] = state[f"{prefix}finished"] and not more
    limiter = state if iterators else state.get("name:ConcurrencyLimiter", {})
    limiter["max_concurrent"] = max_concurrent or (0 if iterators else num_samples)
    return cloudpickle.dumps(state)


def leave_note(name: str) -> None:
    """Leaves a note that every process of the cluster sees; a driver has no other way to speak to the workers of a run."""
    _internal_kv_put(name, b"")


def has_note(name: str) -> bool:
    """Returns whether somebody has left a note of this name."""
    return _internal_kv_exists(name)


def drop_note(name: str) -> None:
    """Takes a note away."""
    _internal_kv_del(name)


def free_abandoned_groups() -> int:
    """Gives back what Ray Train has reserved for workers that never started; returns of how many groups.

    Ray Train 2.60 forgets the placement group of workers whose start failed, and Ray keeps it until the job ends: without
    this it takes the place of the next attempt, or of other trials. Only groups of this job are freed whose maker, the
    controller of a Ray Train run, is dead: nobody can use them any more.
    """
    if not ray.is_initialized():
        return 0
    accessor, job = ray._private.state.state._connect_and_get_accessor(), ray.get_runtime_context().get_job_id()
    groups = [gcs_pb2.PlacementGroupTableData.FromString(raw) for raw in accessor.get_placement_group_table()]
    left = [
        group
        for group in groups
        if group.creator_job_id.hex() == job
        and not ray.ActorID(
            group.creator_actor_id
        ).is_nil()  # which counts as dead: a driver's, Ray Tune's of its trials
        and group.creator_actor_dead
        and not group.is_detached
        and group.state != gcs_pb2.PlacementGroupTableData.REMOVED
    ]
    for group in left:
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
    return len(left)


def num_failures(trial) -> int:
    """Returns how often a trial of Ray Tune has failed, as `FailureConfig.max_failures` counts."""
    return trial.run_metadata.num_failures


def forgive_failure(trial) -> None:
    """Takes one failure off a trial; without it a trial that loses its node often is given up."""
    trial.run_metadata.num_failures -= 1


def set_burn_in(population, windows: int, interval: int) -> None:
    """Makes PB2 change nothing before so many windows: it heeds PBT's `burn_in_period`, which its constructor lacks.

    Without it PB2 changes values during the learning-rate warm-up.

    Args:
        population: a PB2 scheduler.
        windows: of a trial, before which nothing is changed.
        interval: windows between two changes.
    """
    population._burn_in_period, population._next_perturbation_sync = windows, max(windows, interval)


def enter_rung(asha, trial, result: Mapping[str, Any]) -> None:
    """Tells ASHA what a trial has reported in an earlier process; without it the rungs of a resumed sweep are empty.

    Args:
        asha: an ASHAScheduler that has met the trial.
        trial: of Ray Tune.
        result: a line of its result.json; one without metric or clock is left out.
    """
    if {asha._time_attr, asha._metric} <= set(result):
        score = asha._metric_op * result[asha._metric]
        asha._trial_info[trial.trial_id].on_result(trial, result[asha._time_attr], score)
