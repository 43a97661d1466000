"""Who proposes values, and who decides which trials go on."""

import json
import math
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.schedulers.pb2 import PB2
from ray.tune.search import sample
from ray.tune.search.basic_variant import BasicVariantGenerator
from ray.tune.search.searcher import Searcher

from raysys.config import RunConfig, check_key
from raysys.ray_internals import enter_rung, set_burn_in
from raysys.train.loop import Budget

_CLOCK = "windows"
"""The one clock that means the same in every trial, and goes on where it was after a restart."""
_CHANGEABLE = ("loss.", "mask.", "optim.")
"""Values that may change between two steps: they shape neither weights nor data."""


def check_space(config: RunConfig, space: dict[str, Any]) -> None:
    """Checks that every value of a search space is one that its key may have, and that the scheduler can work with it.

    Args:
        config: with `search.scheduler`, `search.grace` and `optim.warmup`.
        space: dotted key -> domain (`raysys.tune.space.parse_space`).

    Raises:
        ValueError: a value that a key can never have; ASHA, PBT or PB2 would act inside the learning-rate warm-up, or
            PBT or PB2 would change a value that cannot change or that they cannot handle.
    """
    search = config.search
    for key, domain in space.items():
        _check_values(config, key, domain)
    if search.scheduler == "none":
        return
    warmup = _largest(space["optim.warmup"]) if "optim.warmup" in space else config.optim.warmup
    if search.grace < warmup:
        raise ValueError(
            f"search.grace={search.grace:g} ends inside the learning-rate warm-up, optim.warmup={warmup:g}, where scores "
            f"say little: set search.grace to {warmup:g} or more"
        )
    if search.scheduler == "asha":
        return
    for key, domain in space.items():
        if not key.startswith(_CHANGEABLE):
            raise ValueError(
                f"search.space: {key} cannot change while a trial trains, so search.scheduler={search.scheduler!r} "
                f"cannot search it (it can {', '.join(p + '*' for p in _CHANGEABLE)}): take 'asha'"
            )
        if search.scheduler == "pb2" and not isinstance(domain, sample.Float):
            raise ValueError(f"search.space: {key} must be uniform or loguniform for search.scheduler='pb2'")
        if isinstance(domain, dict):
            raise ValueError(f"search.space: {key} must not be a grid for search.scheduler='pbt': write choice(...)")


def scheduler_of(config: RunConfig, space: dict[str, Any], budget: Budget) -> TrialScheduler:
    """Returns the scheduler that `search.scheduler` names."""
    search = config.search
    if search.scheduler == "none":
        return FIFOScheduler()
    grace = max(1, math.floor(search.grace * budget.windows))
    if search.scheduler == "asha":
        return ResumableASHA(
            time_attr=_CLOCK,
            max_t=budget.windows,
            grace_period=grace,
            reduction_factor=search.reduction_factor,
            brackets=search.brackets,
        )
    # In step with each other: every trial is compared with the others at the same number of windows.
    options = {"time_attr": _CLOCK, "perturbation_interval": budget.between_validations, "synch": True}
    if search.scheduler == "pb2":
        bounds = {key: [domain.lower, domain.upper] for key, domain in space.items()}
        pb2 = PB2(hyperparam_bounds=bounds, **options)
        set_burn_in(pb2, grace, budget.between_validations)
        return pb2
    mutations = {k: list(d.categories) if isinstance(d, sample.Categorical) else d for k, d in space.items()}
    return PopulationBasedTraining(
        hyperparam_mutations=mutations,
        burn_in_period=grace,
        custom_explore_fn=lambda values: values | {k: _inside(d, values[k]) for k, d in space.items()},
        **options,
    )


def searcher_of(config: RunConfig, max_concurrent: int | None = None) -> Searcher | BasicVariantGenerator:
    """Returns random draws, or TPE (Bergstra et al. 2011) over all keys together; both follow the seed.

    Args:
        config: with `search.searcher` and `train.seed`.
        max_concurrent: trials that run at a time. Random draws count them themselves; for TPE Ray Tune does
            (`TuneConfig.max_concurrent_trials`, which it ignores for random draws).
    """
    if config.search.searcher == "tpe":
        import optuna  # the other searchers do without it
        from ray.tune.search.optuna import OptunaSearch

        return OptunaSearch(sampler=optuna.samplers.TPESampler(seed=config.train.seed, multivariate=True))
    return BasicVariantGenerator(max_concurrent=max_concurrent or 0, random_state=config.train.seed)


class ResumableASHA(ASHAScheduler):
    """ASHA (Li et al. 2020) that knows, after a sweep was interrupted, what its trials had reported before.

    Ray Tune restores trials and searcher, not the scheduler: without this the rungs of a resumed sweep are empty.
    """

    def on_trial_add(self, tune_controller, trial):
        super().on_trial_add(tune_controller, trial)
        for result in _reported(trial):
            enter_rung(self, trial, result)


def _reported(trial) -> list[dict[str, Any]]:
    """What a trial reported before this process began."""
    if not (trial.storage and trial.storage.trial_dir_name):  # a new one
        return []
    fs, path = trial.storage.storage_filesystem, f"{trial.storage.trial_fs_path}/result.json"
    if not fs.get_file_info(path).is_file:
        return []
    with fs.open_input_stream(path) as stream:
        return [json.loads(line) for line in stream.read().decode().splitlines() if line.endswith("}")]


def _inside(domain: Any, value: Any) -> Any:
    """A value brought back into its range, to which the upper end of randint does not belong."""
    if isinstance(domain, sample.Categorical):
        return value
    return min(max(value, domain.lower), domain.upper - isinstance(domain, sample.Integer))


def _check_values(config: RunConfig, key: str, domain: Any) -> None:
    """Checks every choice, or the first and the last number of a range, whose end is not drawn."""
    if isinstance(domain, dict):
        values = domain["grid_search"]
    elif isinstance(domain, sample.Categorical):
        values = domain.categories
    elif isinstance(domain, sample.Integer):
        values = (domain.lower, domain.upper - 1)
    else:
        values = (domain.lower, math.nextafter(domain.upper, domain.lower))
    for value in values:
        try:
            check_key(config, key, value)
        except ValueError as error:
            raise ValueError(f"search.space: {error}") from None
        except TypeError:  # no number at all: the trial says so
            continue


def _largest(domain: Any) -> float:
    if isinstance(domain, dict):
        return max(domain["grid_search"])
    return max(domain.categories) if isinstance(domain, sample.Categorical) else domain.upper
