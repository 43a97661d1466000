"""A pretraining run on a Ray cluster: the driver side."""

import logging
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchTrainer

from raysys.cluster import configure_logging, connect
from raysys.config import RunConfig
from raysys.record import run_record, write_run
from raysys.train.data import prepare_training_data
from raysys.train.loop import Trainer
from raysys.train.reporter import TrainReporter

log = logging.getLogger(__name__)


def pretrain(config: RunConfig) -> dict[str, Any]:
    """Returns the metrics of the last report, after training to the end of the budget.

    The same configuration under the same name continues a run that was interrupted, from its last checkpoint.

    Raises:
        ValueError: the name is taken by a run with another configuration, or bad data (naming file and fix).
        ray.train.TrainingFailedError: more failures than `train.max_failures`.
    """
    connect()
    data = prepare_training_data(config)
    directory = run_directory(config)
    record = run_record(config, data.fingerprint, data.contents)
    write_run(directory, config, record)
    result = TorchTrainer(
        train_worker,
        train_loop_config={"config": config, "data": data.shared(), "record": record, "log_folder": log_folder(config)},
        scaling_config=scaling(config),
        run_config=ray.train.RunConfig(
            name=config.name,
            storage_path=storage_path(config),
            logging_config=ray.train.LoggingConfig(log_level="WARNING"),
            failure_config=ray.train.FailureConfig(max_failures=config.train.max_failures, controller_failure_limit=5),
            checkpoint_config=ray.train.CheckpointConfig(
                num_to_keep=config.train.keep_checkpoints,
                checkpoint_score_attribute=config.search.objective,
                checkpoint_score_order="max",
            ),
        ),
    ).fit()
    log.info("run %s finished, written to %s", config.name, directory)
    return {**(result.metrics or {}), "directory": directory}


def train_worker(args: dict[str, Any]) -> dict[str, Any]:
    """Runs the loop in one Ray Train worker."""
    configure_logging()
    context = ray.train.get_context()
    return Trainer(
        args["config"],
        args["data"],
        rank=context.get_world_rank(),
        world=context.get_world_size(),
        device=ray.train.torch.get_device(),
        reporter=TrainReporter(),
        record=args["record"],
        log_folder=Path(args["log_folder"]) if args["log_folder"] and context.get_world_rank() == 0 else None,
    ).run()


def scaling(config: RunConfig) -> ray.train.ScalingConfig:
    """Returns the workers and resources of a run; GPUs are used where the cluster has them."""
    gpus = uses_gpu(config)
    workers = config.train.num_workers
    if config.train.min_workers is not None and config.train.min_workers != workers:
        workers = (config.train.min_workers, workers)
    resources = {"CPU": config.train.cpus_per_worker} | ({"GPU": 1} if gpus else {})
    return ray.train.ScalingConfig(num_workers=workers, use_gpu=gpus, resources_per_worker=resources)


def uses_gpu(config: RunConfig) -> bool:
    """Returns whether workers get GPUs: asked for, or "auto" and the cluster has some.

    Raises:
        ValueError: "cuda" on a cluster without GPUs.
    """
    available = ray.cluster_resources().get("GPU", 0) if ray.is_initialized() else 0
    if config.train.device == "cuda" and not available:
        raise ValueError("train.device='cuda', but the cluster has no GPU: use 'auto' or 'cpu', or add GPU nodes")
    return config.train.device != "cpu" and available > 0


def storage_path(config: RunConfig) -> str:
    """Returns `storage` as an absolute path, or as it is if it is a URL (workers have another working directory)."""
    return config.storage if "://" in config.storage else str(Path(config.storage).expanduser().resolve())


def run_directory(config: RunConfig) -> str:
    """Returns the folder or URL of the run."""
    return f"{storage_path(config)}/{config.name}"


def log_folder(config: RunConfig) -> str | None:
    """Returns the folder for TensorBoard and metrics.jsonl, or None where the storage is no local path."""
    return None if "://" in config.storage else run_directory(config)
