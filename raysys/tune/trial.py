"""One trial of a sweep: the training loop with some keys replaced, judged at every report."""

import dataclasses
import logging
import math
import os
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import ray
import ray.train
import torch
from ray import tune
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback

from raysys.cluster import quieten
from raysys.config import RunConfig
from raysys.console import configure_logging
from raysys.location import Location
from raysys.presets import with_absolute_places
from raysys.train.data import TrainingData
from raysys.train.driver import check_cuda, run_location, scaling, worker_devices
from raysys.train.loop import Trainer
from raysys.train.reporter import Metrics, Reporter, TrainReporter, TuneReporter
from raysys.train.storage import RemoteLogs
from raysys.tune.ranking import REPEAT_OF, WORST, judge

log = logging.getLogger(__name__)


def trial_config(config: RunConfig) -> RunConfig:
    """Returns the configuration that all trials start from: absolute storage, and a validation at every rung."""
    workers = config.search.workers_per_trial
    train = dataclasses.replace(config.train, num_workers=workers, min_workers=None)
    rungs = config.search.rungs_per_budget
    if train.max_steps is not None:
        train = dataclasses.replace(train, validate_every=max(1, math.ceil(train.max_steps / rungs)))
    else:
        train = dataclasses.replace(train, validate_every=None, validations_per_epoch=rungs / train.epochs)
    data = config.data if workers > 1 else dataclasses.replace(config.data, reader="process")
    config = dataclasses.replace(config, storage=Location(config.storage).url, train=train, data=data)
    return with_absolute_places(config)


def trial_resources(config: RunConfig) -> dict[str, float]:
    """Returns the CPUs and GPUs that a trial holds, all its workers together."""
    search, gpu = config.search, config.train.device == "cuda"
    if search.workers_per_trial > 1:
        workers = search.workers_per_trial
        return {"CPU": workers * config.train.cpus_per_worker} | ({"GPU": float(workers)} if gpu else {})
    return {"CPU": search.cpus_per_trial} | ({"GPU": search.gpus_per_trial} if gpu else {})


class JudgingReporter:
    """Adds objective, health, reason and node to what the loop reports."""

    def __init__(self, reporter: Reporter, config: RunConfig):
        self._reporter, self._config = reporter, config
        self.latest_checkpoint = reporter.latest_checkpoint

    def report(self, metrics: Metrics, save: Callable[[Path], None]) -> None:
        place = {"node_id": ray.get_runtime_context().get_node_id()}
        self._reporter.report(metrics | judge(metrics, self._config) | place, save)


def trial_folder(trial: str) -> str:
    """Returns the name of a trial's folder among those of its sweep."""
    return f"trial_{trial}"


def single_worker_trial(
    tuned: dict[str, Any], *, config: RunConfig, data: TrainingData, record: dict[str, Any], folder: Location
) -> None:
    """Trains one trial in the process of its Tune function: about a second to start.

    Args:
        tuned: see `train_trial`.
        config: of `trial_config`.
        data: the same for all trials.
        record: what every checkpoint says of its run.
        folder: that holds the folders of the trials.
    """
    folder = folder / trial_folder(tune.get_context().get_trial_id())
    with _logs(folder) as (log_folder, remote_logs):
        where = {"rank": 0, "world": 1, "log_folder": log_folder, "reporter": TuneReporter(remote_logs)}
        train_trial(tuned, config, data, record, **where, report=tune.report, folder=folder)


def multi_worker_trial(
    tuned: dict[str, Any], *, config: RunConfig, data: TrainingData, record: dict[str, Any], folder: Location
) -> None:
    """Trains one trial as a Ray Train run of several workers; Ray's dashboard must be on, or stopped trials leak.

    Args: those of `single_worker_trial`.
    """
    trial = tune.get_context().get_trial_id()
    config = dataclasses.replace(
        config, train=dataclasses.replace(config.train, num_workers=config.search.workers_per_trial)
    )
    TorchTrainer(
        _train_worker,
        train_loop_config={
            "trial": {"tuned": tuned, "config": config, "data": data, "record": record},
            "folder": folder / trial_folder(trial),
        },
        scaling_config=scaling(config),
        run_config=ray.train.RunConfig(
            name=f"train-{trial}",
            storage_path=(run_location(config) / "workers").url,
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
            failure_config=ray.train.FailureConfig(max_failures=config.search.max_failures, controller_failure_limit=5),
            logging_config=ray.train.LoggingConfig(log_level="WARNING"),
            callbacks=[TuneReportCallback()],
        ),
    ).fit()


def _train_worker(args: dict[str, Any]) -> None:
    context = ray.train.get_context()
    where = {"rank": context.get_world_rank(), "world": context.get_world_size(), "report": ray.train.report}
    with _logs(args["folder"] if where["rank"] == 0 else None) as (log_folder, remote_logs):
        reporter = TrainReporter(remote_logs=remote_logs)
        train_trial(**args["trial"], **where, folder=args["folder"], log_folder=log_folder, reporter=reporter)


@contextmanager
def _logs(folder: Location | None):
    """Gives the local folder that a trial's logs are written to, and what copies them to its own folder, if it is not that one."""
    if folder is None:
        yield None, None
    elif folder.is_local:
        yield Path(folder.make_folder().path), None
    else:
        remote = RemoteLogs(pafs.PyFileSystem(pafs.FSSpecHandler(folder.fs)), folder.path)
        try:
            yield remote.folder, remote
        finally:
            remote.upload()  # also what was written after the last report


def train_trial(
    tuned: dict[str, Any],
    config: RunConfig,
    data: TrainingData,
    record: dict[str, Any],
    *,
    rank: int,
    world: int,
    reporter: Reporter,
    log_folder: Path | None,
    report: Callable[[Metrics], None],
    folder: Location | None = None,
) -> None:
    """Trains to the end of the budget, or until there are numbers that are not finite: that is reported, not retried.

    Args:
        tuned: dotted key -> value, or such a dictionary under "repeat".
        config: of `trial_config`.
        data: the same for all trials.
        record: what every checkpoint says of its run.
        rank: of this process among the trial's workers.
        world: number of the trial's workers.
        reporter: takes what the loop reports, after it is judged.
        log_folder: for TensorBoard and metrics.jsonl; None for none.
        report: takes the last metrics of a trial that is not finite.
        folder: of the trial; needed where there is a log_folder and `train.trackers`.
    """
    configure_logging()
    quieten()
    if torch.cuda.is_available():
        import triton

        # Else Inductor may set another one in the middle of a process: kernels would be looked for where they are not.
        os.environ.setdefault("TRITON_CACHE_DIR", triton.knobs.cache.dir)
    tuned = {key: value for key, value in tuned.get("repeat", tuned).items() if key != REPEAT_OF}
    for name in ("raysys.train.metrics", "raysys.data.corpus"):
        logging.getLogger(name).setLevel(logging.WARNING)  # the sweep prints a line for every report
    config = config.override(tuned)
    data = data.of_run(config)
    record = record | {"data": data.contents}
    check_cuda(config)
    on_gpu = config.train.device == "cuda"
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
    reporter = JudgingReporter(reporter, config)
    record = record | {"devices": worker_devices(device)}
    logs = {"log_folder": log_folder, "trial": folder}
    trainer = Trainer(config, data, rank=rank, world=world, device=device, reporter=reporter, record=record, **logs)
    try:
        trainer.run()
    except (FloatingPointError, ValueError, RuntimeError) as error:
        reason = str(error) if isinstance(error, FloatingPointError) else _not_finite(trainer)
        if not reason:
            raise
        place = {"step": trainer.step, "windows": trainer.windows, "node_id": ray.get_runtime_context().get_node_id()}
        report(place | {"objective": WORST, "healthy": False, "reason": reason})


@torch.no_grad()
def _not_finite(trainer: Trainer) -> str:
    """Which numbers of a model are not finite, the same text on all ranks; empty where all are."""
    for name, weight in trainer.model.eval().named_parameters():
        if not weight.isfinite().all():
            return f"step {trainer.step}: the weights are not finite ({name})"
    if not all(output.isfinite().all() for output in trainer.task.outputs()):
        return f"step {trainer.step}: the features are not finite"
    return ""
