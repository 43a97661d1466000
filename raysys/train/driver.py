"""A run on a Ray cluster, of pretraining or of fine-tuning: the driver side."""

import logging
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
import torch.distributed as dist
from ray.train.torch import TorchTrainer

from raysys.cluster import connect, quieten, require
from raysys.config import MAY_CHANGE, RunConfig
from raysys.console import CONSOLE, Mirror, configure_logging, mirrored
from raysys.credentials import refuse_credentials
from raysys.lease import hold
from raysys.location import Location
from raysys.presets import with_absolute_places
from raysys.ray_internals import (
    CHECKPOINT_LIST,
    InterruptibleTrainer,
    WorkersMeet,
    WorkersNotStarted,
    free_abandoned_groups,
)
from raysys.record import note_devices, run_record, write_run
from raysys.train.data import check_objective, prepare_training_data
from raysys.train.loop import Budget, Trainer
from raysys.train.reporter import TrainReporter
from raysys.train.stages import BUDGET, plan_stages, planned_workers
from raysys.train.stop import Stop, leaves, stoppable
from raysys.train.storage import RemoteLogs, newest_checkpoint, passes, repair_checkpoint_list
from raysys.train.trackers import check_trackers

log = logging.getLogger(__name__)
_PAUSE_S = 5.0
_NAME_BYTES = 64


def train_run(config: RunConfig, callbacks: Sequence[ray.train.UserCallback] = ()) -> dict[str, Any]:
    """Returns the metrics of the last report, after training to the end of the budget.

    The same configuration under the same name continues a run that was interrupted, from its last checkpoint. Keys of
    `MAY_CHANGE` may have changed. A run that is finished goes on where `train.max_steps` or `train.epochs` has grown, as a
    new stage with a learning-rate schedule of its own.

    Args:
        config: of the run.
        callbacks: of Ray Train, called in its controller, for example after every report.

    Raises:
        ValueError: the name is taken by a run with another configuration, by a sweep, or by a run that another driver
            writes; or bad data (naming file and fix).
        ray.train.TrainingFailedError: more failures in a row than `train.max_failures`.
    """
    refuse_credentials(config)
    check_trackers(config)
    connect()
    workers = least_workers(config)
    require(wanted(config), f"a run of {workers} worker{'s' if workers > 1 else ''}")
    run = run_location(config)
    with hold(run), mirrored() as console, stoppable() as stop:
        return _train_run(config, run, console, stop, callbacks)


def _train_run(config: RunConfig, run: Location, console: Mirror, stop: Stop, callbacks) -> dict[str, Any]:
    data = prepare_training_data(config).of_run(config)
    check_objective(config, data)
    stages = plan_stages(run, config, data.plan.epoch_windows)
    record = run_record(config, data.fingerprint, data.contents) | {"stages": stages}
    began = write_run(run.url, config, record, may_change=MAY_CHANGE | BUDGET)
    console.into(run / CONSOLE)
    repair_checkpoint_list(run)
    planned = planned_workers(began)
    if (metrics := _finished(run, Budget.of(config.override(planned), data.plan.epoch_windows))) is not None:
        log.info("run %s is finished already: its last checkpoint is at the end of the budget", config.name)
        return _told(run, metrics)
    arguments = {
        # What budget and learning rate refer to, whoever computes now.
        "config": with_absolute_places(config.override(planned)),
        "data": data.shared(),
        "record": record,
        "start": stages[-1]["from"],
        "run": run.url,
        "log_folder": run.url if run.is_local else None,
        "stop_note": stop.note,
    }
    result = _fit(config, arguments, stop, callbacks)
    log.info("run %s finished, written to %s", config.name, run)
    return _told(run, result.metrics or {})


def _told(run: Location, metrics: dict[str, Any]) -> dict[str, Any]:
    """What `train_run` returns, after saying what to do next."""
    log.info("next: python -m jobs.report %s", run)
    return {**metrics, "directory": run.url}


def _finished(run: Location, budget: Budget) -> dict[str, Any] | None:
    """The metrics that came with the newest checkpoint, if it is at the end of the budget."""
    if newest_checkpoint(run) is None:
        return None
    metrics = (run / CHECKPOINT_LIST).read_json()["latest_checkpoint_result"]["metrics"]
    return metrics if metrics.get("windows", 0) >= budget.windows else None


def _fit(
    config: RunConfig,
    arguments: dict[str, Any],
    stop: Stop | None = None,
    callbacks: Sequence[ray.train.UserCallback] = (),
) -> ray.train.Result:
    """Returns the result of the run, started anew after everything that is no end of it."""
    run, waiting_since, stop = run_location(config), None, stop or Stop()
    while True:
        stop.leave()
        before = _newest(run)
        free_abandoned_groups()  # of the attempt before
        try:
            stop.training = True
            result = _fit_once(config, arguments, callbacks)
        except ray.train.WorkerGroupError as error:
            if _newest(run, before) == before:
                raise
            log.warning("more than %d failures, but not in a row: %s", config.train.max_failures, error)
            waiting_since = None
        except ray.train.ControllerError as error:
            _check_passes(run, error)
            if _newest(run, before) != before:
                waiting_since = None
            waiting_since = waiting_since or time.monotonic()
            waited_h = (time.monotonic() - waiting_since) / 3600
            if waited_h >= config.train.wait_for_nodes_h:
                raise
            log.warning("waiting since %.1f h for machines (`ray status`) or the storage: %s", waited_h, error)
            stop.leave()
            time.sleep(_PAUSE_S)
            _repair(run)
        else:
            if result.return_value["finished"]:
                return result
            waiting_since = None
            stop.leave()
            log.warning("machines were taken away: going on from the checkpoint on those that are left")


def _check_passes(run: Location, error: ray.train.ControllerError) -> None:
    """Raises what no waiting ends; machines that are missing may come, and a storage that does not answer may answer."""
    failure = error.controller_failure
    if isinstance(failure, WorkersNotStarted) or passes(failure):
        return
    if isinstance(failure, OSError):
        raise OSError(
            f"{run}: the storage refuses what Ray Train writes there ({failure}): check its name and the rights, and repeat "
            "the command"
        ) from error
    raise error


def _newest(run: Location, unknown: str | None = None) -> str | None:
    """The newest checkpoint, or `unknown` while the storage does not answer."""
    try:
        return newest_checkpoint(run)
    except Exception as error:
        if not passes(error):
            raise
        return unknown


def _repair(run: Location) -> None:
    """Repairs the list of checkpoints, unless the storage does not answer: then Ray Train fails again, and it is tried again."""
    try:
        repair_checkpoint_list(run)
    except Exception as error:
        if not passes(error):
            raise


def _fit_once(
    config: RunConfig, arguments: dict[str, Any], callbacks: Sequence[ray.train.UserCallback] = ()
) -> ray.train.Result:
    """What Ray Train found; KeyboardInterrupt on Ctrl-C."""
    before = signal.getsignal(signal.SIGINT)
    try:
        return trainer(train_worker, config, arguments, callbacks).fit()
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def trainer(
    worker: Callable[[dict[str, Any]], dict[str, Any]],
    config: RunConfig,
    arguments: dict[str, Any],
    callbacks: Sequence[ray.train.UserCallback] = (),
) -> TorchTrainer:
    """Returns the Ray Train run of a configuration that calls `worker(arguments)` on every rank."""
    run = run_location(config)
    return InterruptibleTrainer(
        worker,
        train_loop_config=arguments,
        torch_config=WorkersMeet(),
        scaling_config=scaling(config),
        run_config=ray.train.RunConfig(
            name=run.name,
            storage_path=run.parent.url,
            callbacks=list(callbacks),
            logging_config=ray.train.LoggingConfig(log_level="WARNING"),
            failure_config=ray.train.FailureConfig(max_failures=config.train.max_failures, controller_failure_limit=5),
            checkpoint_config=ray.train.CheckpointConfig(
                num_to_keep=config.train.keep_checkpoints,
                checkpoint_score_attribute=config.search.objective,
                checkpoint_score_order="max",
            ),
        ),
    )


def train_worker(args: dict[str, Any]) -> dict[str, Any]:
    """Runs the loop in one Ray Train worker; returns whether the run is "finished" or only had to leave."""
    configure_logging()
    quieten()
    context = ray.train.get_context()
    folder, remote_logs = args["log_folder"], None
    if context.get_world_rank() != 0:
        folder = None
    elif folder is None:
        storage = context.get_storage()
        remote_logs = RemoteLogs(storage.storage_filesystem, storage.experiment_fs_path)
        folder = remote_logs.folder
    reporter = TrainReporter(background=True, remote_logs=remote_logs)
    device = worker_device(args["config"])
    devices = worker_devices(device)
    if context.get_world_rank() == 0:
        _note(Location(args["run"]), devices)
    loop = Trainer(
        args["config"],
        args["data"],
        rank=context.get_world_rank(),
        world=context.get_world_size(),
        device=device,
        reporter=reporter,
        record=args["record"] | {"devices": devices},
        log_folder=folder and Path(folder),
        start=args["start"],
        poll=leaves(reporter.poll, args.get("stop_note"), context.get_world_rank()),
    )
    loop.run()
    reporter.finish_checkpoint()
    return {"finished": loop.finished}


def scaling(config: RunConfig) -> ray.train.ScalingConfig:
    """Returns the workers and resources of a run: those of the configuration, whatever the cluster has now.

    So an autoscaler sees what is missing, and a run whose GPUs are taken away waits for others.
    """
    gpus = config.train.device == "cuda"
    workers = config.train.num_workers
    if config.train.min_workers is not None and config.train.min_workers != workers:
        workers = (config.train.min_workers, workers)
    resources = {"CPU": config.train.cpus_per_worker} | ({"GPU": 1} if gpus else {})
    return ray.train.ScalingConfig(num_workers=workers, use_gpu=gpus, resources_per_worker=resources)


def least_workers(config: RunConfig) -> int:
    """Returns the number of workers without which a run does not go on."""
    return config.train.min_workers or config.train.num_workers


def wanted(config: RunConfig) -> dict[str, float]:
    """Returns the CPUs and GPUs without which a run does not go on: of its workers, and of a task that reads for them."""
    workers, on_gpu = least_workers(config), config.train.device == "cuda"
    reading = config.data.cpus_per_read if config.data.reader == "ray" else 0.0
    cpus = workers * config.train.cpus_per_worker + reading
    return {"CPU": cpus} | ({"GPU": float(workers)} if on_gpu else {})


def worker_device(config: RunConfig) -> torch.device:
    """Returns the device of this Ray Train worker.

    Raises:
        RuntimeError: it is to compute on a GPU, which PyTorch does not find.
    """
    check_cuda(config)
    return ray.train.torch.get_device() if config.train.device == "cuda" else torch.device("cpu")


def worker_devices(device: torch.device) -> list[str]:
    """Returns the names of the devices of all workers in the order of their ranks; every rank calls it alike."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    if not (dist.is_available() and dist.is_initialized()):
        return [name]
    code = name.encode()[:_NAME_BYTES].ljust(_NAME_BYTES)
    mine = torch.tensor(list(code), dtype=torch.uint8, device=device)
    every = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(every, mine)
    return [bytes(one.tolist()).decode(errors="replace").strip() for one in every]


def _note(run: Location, devices: list[str]) -> None:
    """Writes the devices into the run's record; training does not end for a storage that fails just now."""
    try:
        note_devices(run, devices)
    except OSError as error:
        log.warning("the workers' devices could not be written into %s/record.json: %s", run, error)


def check_cuda(config: RunConfig) -> None:
    """Raises a RuntimeError if this process is to compute on a GPU that PyTorch does not find."""
    if config.train.device == "cuda" and not torch.cuda.is_available():
        node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else "here"
        raise RuntimeError(
            f"train.device='cuda', but PyTorch {torch.__version__} finds no CUDA device on node {node} "
            f"(Ray gave {ray.get_gpu_ids()}): look at its driver (nvidia-smi) and its image, or set train.device=cpu"
        )


def run_location(config: RunConfig) -> Location:
    """Returns the folder or URL of a run."""
    return Location(config.storage) / config.name
