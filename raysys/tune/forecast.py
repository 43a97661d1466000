"""What a sweep would do: its trials, rungs and hours."""

import math

from raysys.config import RunConfig
from raysys.console import duration
from raysys.train.describe import describe
from raysys.train.forecast import Rate, data_lines, rate_of
from raysys.train.loop import Budget
from raysys.tune.schedulers import check_space
from raysys.tune.space import parse_space
from raysys.tune.trial import trial_config


def sweep_forecast(config: RunConfig) -> str:
    """Returns what a sweep would do, in lines; reads the index of the data, no waveform, and starts no Ray.

    Raises:
        ValueError: a bad search space.
    """
    check_space(config, parse_space(config.search.space, config))
    lines, epoch = data_lines(config)
    search = config.search
    lines += [f"sweep {config.name}, written to {config.storage}/{config.name}:"]
    lines += [f"  varies {entry}" for entry in search.space]
    of_trial = trial_config(config)
    if of_trial.train.max_steps is None and epoch is None:
        lines.append(f"  {search.num_trials} trials; windows and hours are unknown without the data")
        return "\n".join([*lines, "", describe(of_trial)])
    budget = Budget.of(of_trial, epoch or 1)
    lines.append(
        f"  {search.num_trials} trials of at most {budget.windows:,} windows each, ranked by {search.objective}"
    )
    repeats = min(search.top_k, search.num_trials) * search.top_k_seeds
    if repeats:
        lines.append(
            f"  then the best {search.top_k} again with {search.top_k_seeds} other seeds: {repeats} trials in full"
        )
    if search.scheduler == "asha":
        where = ", ".join(f"{100 * rung / budget.windows:.0f} %" for rung in rungs(config, budget))
        lines.append(f"  rungs at {where} of the budget, where one in {search.reduction_factor} goes on")
    most = (search.num_trials + repeats) * budget.windows
    expected = expected_windows(config, budget) + repeats * budget.windows
    rate = rate_of(of_trial, search.workers_per_trial, "trial_*/")
    lines += [f"  {line}" for line in _hours(config, expected, most, rate)]
    return "\n".join([*lines, "", describe(of_trial)])


def rungs(config: RunConfig, budget: Budget) -> list[int]:
    """Returns the windows at which ASHA stops trials: the first report at or after each of its milestones."""
    out, milestone = [], max(1, math.floor(config.search.grace * budget.windows))
    while milestone < budget.windows:
        report = math.ceil(milestone / budget.between_validations) * budget.between_validations
        out.append(min(report, budget.windows))
        milestone *= config.search.reduction_factor
    return out


def expected_windows(config: RunConfig, budget: Budget) -> float:
    """Returns the windows of all trials, if just one in `reduction_factor` goes on at every rung of its bracket."""
    search = config.search
    if search.scheduler != "asha":
        return search.num_trials * budget.windows
    ladder, total = rungs(config, budget), 0.0
    for bracket in range(search.brackets):
        going, before = search.num_trials / search.brackets, 0
        for rung in ladder[bracket:]:
            total += going * (rung - before)
            going, before = going / search.reduction_factor, rung
        total += going * (budget.windows - before)
    return total


def _hours(config: RunConfig, expected: float, most: float, rate: Rate | None) -> list[str]:
    if rate is None:
        return ["hours: unknown, there is no trial of this name, and no rate was measured for this model"]
    search = config.search
    share = search.gpus_per_trial if search.workers_per_trial == 1 else search.workers_per_trial
    uses_gpu = config.train.device == "cuda"
    unit = "of a GPU" if uses_gpu else "of one trial at a time"
    about, bound = (duration(windows / rate.windows_per_s * (share if uses_gpu else 1)) for windows in (expected, most))
    without = f", at most {bound} without early stopping" if search.scheduler == "asha" else ""
    return [f"about {about} {unit}{without}", f"at {rate.windows_per_s:,.0f} windows/s a trial ({rate.source})"]
