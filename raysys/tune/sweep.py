"""A sweep on a Ray cluster: the driver side."""

import dataclasses
import logging
import math
from typing import Any

import optuna
import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
from ray.tune.search.basic_variant import BasicVariantGenerator
from ray.tune.search.optuna import OptunaSearch

from raysys.cluster import connect
from raysys.config import RunConfig
from raysys.record import run_record, write_run
from raysys.train.data import prepare_training_data
from raysys.train.driver import run_directory, storage_path, uses_gpu
from raysys.train.loop import Budget
from raysys.tune.results import write_results
from raysys.tune.space import parse_space
from raysys.tune.trial import multi_worker_trial, single_worker_trial

log = logging.getLogger(__name__)

_SHARED = ("data.", "probe.", "model.window_samples", "train.val_windows", "search.")
"""Keys that every trial must share, since they define the data or the yardstick."""


def sweep(config: RunConfig) -> dict[str, Any]:
    """Returns the best trial (`best.json`), after running the sweep to its end.

    The same configuration under the same name continues a sweep that was interrupted, without repeating finished
    trials. Written: trials.csv, history.csv, best.json, config.json, record.json.

    Raises:
        ValueError: a bad search space, a name taken by another sweep, bad data; RuntimeError: no trial is healthy.
    """
    space = parse_space(config.search.space, config)
    for key in space:
        if key.startswith(_SHARED):
            raise ValueError(f"search.space: {key} cannot vary, it is part of what trials are compared by")
    connect()
    config = trial_config(config)
    data = prepare_training_data(config)
    record, directory = run_record(config, data.fingerprint, data.contents), run_directory(config)
    write_run(directory, config, record)
    budget = Budget.of(config, data.plan.epoch_windows)
    grid = _tuner(config, space, data.shared(), record, budget).fit()
    return write_results(directory, config, grid, budget.windows)


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
    return dataclasses.replace(config, storage=storage_path(config), train=train, data=data)


def _tuner(config: RunConfig, space, data, record, budget: Budget) -> tune.Tuner:
    search = config.search
    single = search.workers_per_trial == 1
    trainable = tune.with_parameters(
        single_worker_trial if single else multi_worker_trial, config=config, data=data, record=record
    )
    trainable = tune.with_resources(trainable, _resources(config) if single else {"CPU": 0.01})
    directory = run_directory(config)
    if tune.Tuner.can_restore(directory):
        log.info("sweep %s: going on where it was interrupted", config.name)
        return tune.Tuner.restore(
            directory, trainable=trainable, resume_unfinished=True, restart_errored=True, param_space=space
        )
    return tune.Tuner(
        trainable,
        param_space=space,
        tune_config=tune.TuneConfig(
            metric="objective",
            mode="max",
            num_samples=search.num_trials,
            scheduler=_scheduler(config, budget),
            search_alg=_searcher(config),
            trial_name_creator=str,
            trial_dirname_creator=lambda trial: f"trial_{trial.trial_id}",
            max_concurrent_trials=search.max_concurrent or (None if single else _nested_concurrency(config)),
        ),
        run_config=tune.RunConfig(
            name=config.name,
            storage_path=config.storage,
            verbose=0,
            callbacks=[ProgressLines(search.num_trials, budget.windows)],
            failure_config=tune.FailureConfig(max_failures=search.max_failures),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
        ),
    )


def _scheduler(config: RunConfig, budget: Budget):
    """ASHA (Li et al. 2020) on windows, the one clock that means the same in every trial; or none."""
    if config.search.scheduler == "none":
        return FIFOScheduler()
    if config.search.grace < config.optim.warmup:
        log.warning(
            "search.grace=%s ends inside the warm-up, optim.warmup=%s", config.search.grace, config.optim.warmup
        )
    return ASHAScheduler(
        time_attr="windows",
        max_t=budget.windows,
        grace_period=max(1, math.floor(config.search.grace * budget.windows)),
        reduction_factor=config.search.reduction_factor,
    )


def _searcher(config: RunConfig):
    """Random draws, or TPE (Bergstra et al. 2011) over all keys together; both follow the seed."""
    if config.search.searcher == "tpe":
        return OptunaSearch(sampler=optuna.samplers.TPESampler(seed=config.train.seed, multivariate=True))
    return BasicVariantGenerator(random_state=config.train.seed)


def _resources(config: RunConfig) -> dict[str, float]:
    gpu = {"GPU": config.search.gpus_per_trial} if config.search.gpus_per_trial and uses_gpu(config) else {}
    return {"CPU": config.search.cpus_per_trial} | gpu


def _nested_concurrency(config: RunConfig) -> int:
    """Trials whose workers fit into the cluster together; more would wait for each other for ever."""
    cluster, workers = ray.cluster_resources(), config.search.workers_per_trial
    fits = cluster.get("CPU", 1) // (workers * config.train.cpus_per_worker)
    if uses_gpu(config):
        fits = min(fits, cluster["GPU"] // workers)
    if fits < 1:
        raise ValueError(
            f"search.workers_per_trial={workers} with train.cpus_per_worker={config.train.cpus_per_worker} do not fit into "
            f"the cluster ({cluster.get('CPU', 0):g} CPUs, {cluster.get('GPU', 0):g} GPUs)"
        )
    return int(fits)


class ProgressLines(tune.Callback):
    """One log line for every report of a trial."""

    def __init__(self, num_trials: int, budget: int):
        self._num_trials, self._budget = num_trials, budget
        self._numbers: dict[str, int] = {}

    def on_trial_result(self, iteration, trials, trial, result, **info):
        number = self._numbers.setdefault(trial.trial_id, len(self._numbers) + 1)
        done = result["windows"] / self._budget
        log.info(
            "trial %d/%d  %3.0f %%  objective %.4f  %s",
            number,
            self._num_trials,
            100 * done,
            result["objective"],
            result["reason"] or "healthy",
        )

    def on_trial_error(self, iteration, trials, trial, **info):
        log.warning("trial %s failed: %s", trial.trial_id, trial.error_file or "see its folder")
