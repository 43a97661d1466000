"""A sweep on a Ray cluster: the driver side."""

import functools
import itertools
import logging
import math
import signal
import threading
from collections.abc import Sequence
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search.basic_variant import BasicVariantGenerator

from raysys.cluster import connect, require
from raysys.config import SWEEP_MAY_CHANGE, RunConfig
from raysys.lease import hold
from raysys.location import Location
from raysys.record import began_with, run_record, write_run
from raysys.train.data import TrainingData, check_objective, prepare_training_data
from raysys.train.driver import run_location
from raysys.train.loop import Budget
from raysys.train.trackers import check_trackers
from raysys.tune.callbacks import (
    ForgiveLostNodes,
    FreeAbandonedGroups,
    KeepState,
    OptunaJournal,
    ThinCheckpoints,
    renew_state,
    repair_state,
)
from raysys.tune.progress import ProgressLines
from raysys.tune.ranking import REPEAT_OF, repeat_points
from raysys.tune.results import trial_rows, tuned_values, write_results
from raysys.tune.schedulers import check_space, scheduler_of, searcher_of
from raysys.tune.space import parse_space
from raysys.tune.trial import multi_worker_trial, single_worker_trial, trial_config, trial_folder, trial_resources
from raysys.tune.warm_up import warm_up

log = logging.getLogger(__name__)

_SHARED = ("data.", "probe.", "model.window_samples", "train.val_windows", "search.", "task", "head.classes")
_SHARED += ("finetune.classes_file",)
"""Keys that every trial must share, since they define the data or the yardstick."""
_POPULATION_CHECKPOINTS = 3
"""Kept of each trial of PBT and PB2: others may still be going on from one that is not the newest."""


def sweep(config: RunConfig, callbacks: Sequence[tune.Callback] = ()) -> dict[str, Any]:
    """Returns the best trial (`best.json`), after running the sweep to its end.

    The same configuration under the same name continues a sweep that was interrupted, without repeating finished
    trials; trials that were given up go on from their last checkpoint. Keys of `SWEEP_MAY_CHANGE` may have changed.
    Written: trials.csv, history.csv, best.json, config.json, record.json, optuna.log.

    Args:
        config: with `search`.
        callbacks: of Ray Tune, called beside the sweep's own while the search runs.

    Raises:
        ValueError: a bad search space, a name taken by another sweep, bad data; RuntimeError: no trial is healthy;
            KeyboardInterrupt: on Ctrl-C, after the state is saved.
    """
    space = parse_space(config.search.space, config)
    for key in space:
        if key.startswith(_SHARED):
            raise ValueError(f"search.space: {key} cannot vary, it is part of what trials are compared by")
    if config.search.top_k and "train.seed" in space:
        raise ValueError(
            "search.space: train.seed cannot vary beside search.top_k, which repeats trials with other seeds"
        )
    check_space(config, space)
    check_trackers(config)
    connect()
    own, config = config, trial_config(config)
    require(trial_resources(config), "a trial of a sweep")
    folder = run_location(config)
    with hold(folder):
        return _sweep(own, config, space, folder, callbacks)


def _sweep(own: RunConfig, config: RunConfig, space: dict[str, Any], folder: Location, callbacks) -> dict[str, Any]:
    """What `sweep` returns, for its own configuration and that of its trials."""
    _check_growth(folder, config)
    data = prepare_training_data(config)
    check_objective(config, data, ranks=True)
    record = run_record(config, data.fingerprint, data.contents)
    write_run(folder.url, own, record, may_change=SWEEP_MAY_CHANGE, kind="sweep")
    budget = Budget.of(config, data.plan.epoch_windows)
    data = data.load_into_memory().shared()
    warm_up(config, data)
    trainable = functools.partial(_trainable, config, data, record)
    grids = [_fit(_search(config, space, trainable(folder), budget, callbacks))]
    if config.search.top_k:
        trials = trial_rows(grids[0], budget.windows, trial_resources(config))
        points = repeat_points(config, trials, {row["trial"]: row["tuned"] for row in tuned_values(grids[0])})
        grids += _repeated(config, points, trainable, budget)
    return write_results(folder, own, grids, budget.windows, trial_resources(config))


def _check_growth(folder: Location, config: RunConfig) -> None:
    """Raises a ValueError if a sweep that goes on is to have fewer trials than it began with, or another population."""
    if (began := began_with(folder)) is None:
        return
    before, now = began.search, config.search
    if now.num_trials < before.num_trials or (now.num_trials > before.num_trials and now.scheduler in ("pbt", "pb2")):
        fixed = (
            "has as many trials as its population" if now.scheduler in ("pbt", "pb2") else "can only get more trials"
        )
        raise ValueError(
            f"{folder}: search.num_trials={now.num_trials}, and this sweep has {before.num_trials}. A sweep that goes on "
            f"{fixed}: give it {before.num_trials}, or a new --name."
        )


def _trainable(config: RunConfig, data: TrainingData, record: dict[str, Any], folder: Location):
    single = config.search.workers_per_trial == 1
    function = single_worker_trial if single else multi_worker_trial
    trainable = tune.with_parameters(function, config=config, data=data, record=record, folder=folder)
    return tune.with_resources(trainable, trial_resources(config) if single else {"CPU": 0.01})


def _search(config: RunConfig, space: dict[str, Any], trainable, budget: Budget, callbacks) -> tune.Tuner:
    search, storage = config.search, Location(config.storage)
    journal = OptunaJournal(storage / config.name, config.name, space, budget.windows)
    tune_config = tune.TuneConfig(
        num_samples=search.num_trials,
        scheduler=scheduler_of(config, space, budget),
        search_alg=searcher_of(config, _concurrency(config)),
        max_concurrent_trials=_concurrency(config) if search.searcher == "tpe" else None,
    )
    callbacks = (journal, *callbacks)
    points = math.prod(len(domain["grid_search"]) for domain in space.values() if isinstance(domain, dict))
    trials = search.num_trials * points
    return _tuner(config, storage, config.name, trainable, space, tune_config, budget, trials, *callbacks)


def _repeated(config: RunConfig, points: list[dict[str, Any]], trainable, budget: Budget) -> list[tune.ResultGrid]:
    """The trials that repeat the best, of all folders that hold some: a sweep that got more trials may have another best."""
    sweep, grids = run_location(config), []
    for number in itertools.count(1):
        name = "seeds" if number == 1 else f"seeds-{number}"
        if not points and not (sweep / name).exists():
            return grids
        grids.append(_fit(_repeats(config, name, points, trainable(sweep / name), budget)))
        done = [{REPEAT_OF: row[REPEAT_OF], **row["tuned"]} for row in tuned_values(grids[-1])]
        points = [point for point in points if point not in done]


def _repeats(config: RunConfig, name: str, points: list[dict[str, Any]], trainable, budget: Budget) -> tune.Tuner:
    """The runs that repeat the best configurations, in a folder of the sweep."""
    log.info("sweep %s: the best %d again, with other seeds", config.name, len({p[REPEAT_OF] for p in points}))
    space = {"repeat": tune.grid_search(points)}
    search_alg = BasicVariantGenerator(max_concurrent=_concurrency(config) or 0)
    tune_config = tune.TuneConfig(scheduler=FIFOScheduler(), search_alg=search_alg)
    return _tuner(config, run_location(config), name, trainable, space, tune_config, budget, len(points))


def _tuner(
    config: RunConfig,
    storage: Location,
    name: str,
    trainable,
    space,
    tune_config,
    budget: Budget,
    num_trials: int,
    *callbacks,
) -> tune.Tuner:
    """A new Tuner, or one that goes on with what was done in this folder."""
    folder = storage / name
    goes_on = repair_state(folder)
    population = config.search.scheduler in ("pbt", "pb2")
    tune_config.metric, tune_config.mode = "objective", "max"
    tune_config.trial_name_creator = str
    tune_config.trial_dirname_creator = _folder_name
    samples = tune_config.num_samples
    new = tune.Tuner(
        trainable,
        param_space=space,
        tune_config=tune_config,
        run_config=tune.RunConfig(
            name=name,
            storage_path=storage.url,
            verbose=0,
            stop={"windows": budget.windows},
            callbacks=[
                ProgressLines(num_trials, budget.windows),
                ThinCheckpoints(budget.windows, run_location(config) / "workers"),
                ForgiveLostNodes(),
                *([FreeAbandonedGroups()] if config.search.workers_per_trial > 1 else []),
                KeepState(),
                *callbacks,
            ],
            failure_config=tune.FailureConfig(max_failures=config.search.max_failures),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=_POPULATION_CHECKPOINTS if population else 1),
        ),
    )
    if not goes_on:
        return new
    log.info("sweep %s: going on where it was interrupted", config.name)
    renew_state(folder, samples, _concurrency(config))
    # It takes over what the new one has written: callbacks, scheduler and the like of this process.
    return tune.Tuner.restore(
        folder.url, trainable=trainable, resume_unfinished=True, resume_errored=True, param_space=space
    )


def _fit(tuner: tune.Tuner) -> tune.ResultGrid:
    """What Tune found; it saves the state on Ctrl-C and returns as if it had come to its end."""
    before = signal.getsignal(signal.SIGINT)
    grid = tuner.fit()
    if threading.current_thread() is threading.main_thread():
        interrupted = signal.getsignal(signal.SIGINT) is before  # Tune's own handler stays unless it was called
        signal.signal(signal.SIGINT, before)
        if interrupted:
            raise KeyboardInterrupt
    return grid


def _folder_name(trial) -> str:
    return trial_folder(trial.trial_id)


def _concurrency(config: RunConfig) -> int | None:
    """Trials at a time; None leaves it to the resources that each holds.

    Nested ones hold nothing themselves: more than fit into the cluster would wait for each other for ever.
    """
    if config.search.max_concurrent or config.search.workers_per_trial == 1:
        return config.search.max_concurrent
    cluster, workers = ray.cluster_resources(), config.search.workers_per_trial
    fits = cluster.get("CPU", 1) // (workers * config.train.cpus_per_worker)
    if config.train.device == "cuda":
        fits = min(fits, cluster.get("GPU", 0) // workers)
    trials = max(1, int(fits))
    log.info("trials of %d workers: %d at a time; --search.max-concurrent, if the cluster will grow", workers, trials)
    return trials
