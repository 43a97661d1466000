"""What the trials of a sweep say: scores at an equal budget, importance, rank correlations, compute."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import pandas as pd
from ray.tune.search import sample
from scipy.stats import spearmanr

from raysys.config import RunConfig
from raysys.report.collect import Sweep
from raysys.tune.ranking import ranked
from raysys.tune.space import parse_space

optuna.logging.set_verbosity(optuna.logging.WARNING)  # it announces every study on the console

FEWEST = 8
"""Trials below which importance and rank correlations say nothing."""
_DESCRIBING = (
    *("val/top1_tie", "probe/macro_ap", "codebook/hard_perplexity"),
    *("dev/p_hit_0.5s", "dev/s_hit_0.5s", "dev/event_auc", "dev/accuracy"),
)
"""Metrics that tell more of a good trial than its objective."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One tuned value as an axis: numbers on a linear or logarithmic scale, or categories in their order."""

    key: str
    low: float
    high: float
    log: bool
    categories: tuple[Any, ...]

    @property
    def name(self) -> str:
        return self.key.split(".", 1)[-1].replace("_", " ")

    def place(self, values: pd.Series) -> np.ndarray:
        """Returns where values lie: the value, its log10, or the number of its category (NaN for one not in the space)."""
        if self.categories:
            places = {_plain(c): float(i) for i, c in enumerate(self.categories)}
            return np.array([places.get(_plain(v), math.nan) for v in values])
        numbers = pd.to_numeric(values, errors="coerce").to_numpy(float)
        return np.log10(np.where(numbers > 0, numbers, np.nan)) if self.log else numbers

    @property
    def limits(self) -> tuple[float, float]:
        """Ends of the axis in the units of `place`."""
        if self.categories:
            return 0.0, max(1.0, len(self.categories) - 1.0)
        return (math.log10(self.low), math.log10(self.high)) if self.log else (self.low, self.high)

    def ticks(self) -> tuple[list[float], list[str]]:
        """Returns tick places and labels."""
        if self.categories:
            return list(map(float, range(len(self.categories)))), [str(c) for c in self.categories]
        if not self.log:
            values = np.linspace(self.low, self.high, 4)
            return list(values), [f"{v:.3g}" for v in values]
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        values = [m * 10.0**d for d in decades for m in (1, 2, 5)]
        values = [v for v in values if self.low * 0.999 <= v <= self.high * 1.001]
        return [math.log10(v) for v in values], [f"{v:g}" for v in values]


def axes_of(sweep: Sweep) -> list[Axis]:
    """Returns the tuned values of a sweep as axes; those without a column in trials.csv are left out.

    Raises:
        ValueError: the search space or the configuration cannot be read.
    """
    space = parse_space(tuple(sweep.config["search"]["space"]), RunConfig.from_dict(sweep.config))
    return [_axis(key, domain) for key, domain in space.items() if key in sweep.trials]


def objective_of(sweep: Sweep) -> str:
    """Returns the name of the metric that ranks the trials."""
    return sweep.config.get("search", {}).get("objective") or sweep.best.get("objective") or "objective"


def top_rows(sweep: Sweep, axes: list[Axis], count: int = 10) -> pd.DataFrame:
    """Returns the best trials: rank, trial, objective, mean over other seeds and its spread where the best were run again,
    status, windows, tuned values, and what else describes them."""
    good = ranked(sweep.trials).head(count)
    others = [c for c in _DESCRIBING if c in good and c != objective_of(sweep)]
    means = ["mean", "spread", "seeds"] if len(sweep.repeats) else []
    out = good[["trial", "objective", *means, "status", "windows", *(a.key for a in axes), *others]].reset_index(
        drop=True
    )
    out.insert(0, "rank", out.index + 1)
    return out


def budget_of(sweep: Sweep) -> float:
    """Returns the full budget of a trial in windows; NaN where it is not recorded."""
    return float(sweep.trials["budget_windows"].max()) if len(sweep.trials) else math.nan


def rungs(config: dict[str, Any], budget: float) -> list[float]:
    """Returns the windows at which ASHA decides (Li et al. 2020, algorithm 2): grace x budget x reduction_factor ** k."""
    search = config.get("search", {})
    if search.get("scheduler", "asha") != "asha" or not math.isfinite(budget):
        return []
    rung, factor, out = search.get("grace", 0.25) * budget, search.get("reduction_factor", 3), []
    while rung < 0.999 * budget:
        out.append(rung)
        rung *= factor
    return out


def first_rung(sweep: Sweep) -> tuple[pd.DataFrame, float]:
    """Returns the metrics of all trials where they had seen about the same number of windows, and that number.

    Stopped trials have a lower score because they trained less: comparing last scores would mistake that for an effect
    of their values. The first rung is the last place that every trial reaches. Columns: trial, status, healthy, and the
    metrics of history.csv; trials that died before the rung are not there.
    """
    history, places = sweep.history, rungs(sweep.config, budget_of(sweep)) or [budget_of(sweep)]
    if not {"trial", "windows"} <= set(history) or not math.isfinite(places[0]):
        return pd.DataFrame(columns=["trial", "status", "healthy"]), math.nan
    reached = history[history["windows"] >= 0.999 * places[0]].sort_values("windows").groupby("trial").first()
    reached = reached[reached["windows"] <= 1.5 * places[0]].drop(columns=["status", "healthy"], errors="ignore")
    outcome = sweep.trials[["trial", "status", "healthy"]]
    return outcome.merge(reached, left_on="trial", right_index=True), float(places[0])


def at_equal_budget(sweep: Sweep) -> tuple[pd.Series, float]:
    """Returns trial -> objective of the healthy trials at the first rung, and its number of windows."""
    frame, windows = first_rung(sweep)
    if objective_of(sweep) not in frame:
        return pd.Series(dtype=float), windows
    return frame[frame["healthy"]].set_index("trial")[objective_of(sweep)].dropna(), windows


def importance(sweep: Sweep, axes: list[Axis], seed: int = 0) -> pd.DataFrame:
    """Returns one row a tuned value: its share of the score's variance and its rank correlation with the score.

    The share is functional ANOVA on a random forest (Hutter et al. 2014), over all trials that reached the first rung,
    by their scores there. Empty below `FEWEST` trials.
    """
    scores, _ = at_equal_budget(sweep)
    rows = sweep.trials.set_index("trial").loc[scores.index] if len(scores) else sweep.trials.iloc[:0]
    axes = [axis for axis in axes if np.ptp(_filled(axis.place(rows[axis.key]))) > 0] if len(rows) >= FEWEST else []
    if not axes or np.ptp(scores) == 0:
        return pd.DataFrame(columns=["key", "share", "rho", "p", "n"])
    places = {axis.key: axis.place(rows[axis.key]) for axis in axes}
    usable = np.all([np.isfinite(place) for place in places.values()], axis=0)
    study = optuna.create_study(direction="maximize")
    bounds = {
        axis.key: optuna.distributions.FloatDistribution(*_bounds(axis, places[axis.key][usable])) for axis in axes
    }
    for i in np.flatnonzero(usable):
        values = {key: float(place[i]) for key, place in places.items()}
        study.add_trial(optuna.trial.create_trial(params=values, distributions=bounds, value=float(scores.iloc[i])))
    shares = optuna.importance.get_param_importances(
        study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=seed), params=list(places)
    )
    table = [
        {"key": key, "share": shares[key], **rank_correlation(place[usable], scores.to_numpy()[usable])}
        for key, place in places.items()
    ]
    return pd.DataFrame(table).sort_values("share", ascending=False, ignore_index=True)


def rank_correlation(a, b) -> dict[str, float]:
    """Returns Spearman's rho, its two-sided p value and n, over pairs without NaN; NaN below `FEWEST` pairs."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    both = np.isfinite(a) & np.isfinite(b)
    n = int(both.sum())
    if n < FEWEST or np.ptp(a[both]) == 0 or np.ptp(b[both]) == 0:
        return {"rho": math.nan, "p": math.nan, "n": n}
    result = spearmanr(a[both], b[both])
    return {"rho": float(result.statistic), "p": float(result.pvalue), "n": n}


def compute(sweep: Sweep) -> dict[str, Any]:
    """Returns what the search used and what stopping saved; runs with other seeds count for what was used, not for what was saved.

    Keys: windows, full (windows of all trials in full), seconds, saved (fraction of the windows that stopping saved),
    device ("GPU" or "CPU core"), device_hours, and device_hours_saved, which takes a trial's time as proportional to
    its windows. Failed trials are left out of what was saved: they would have failed all the same.
    """
    trials, used = sweep.trials, pd.concat([sweep.trials, sweep.repeats])
    asked = trials[trials["status"] != "ERROR"]
    full, spent = asked["budget_windows"].sum(), asked["windows"].sum()
    device, column = ("GPU", "gpus") if used["gpus"].sum() > 0 else ("CPU core", "cpus")
    rest = (asked["budget_windows"] / asked["windows"] - 1).replace(np.inf, np.nan)
    return {
        "windows": float(used["windows"].sum()),
        "full": float(used["budget_windows"].sum()),
        "seconds": float(used["seconds"].sum()),
        "saved": float(1 - spent / full) if full > 0 else math.nan,
        "device": device,
        "device_hours": float((used["seconds"] * used[column]).sum(min_count=1)) / 3600,
        "device_hours_saved": float((asked["seconds"] * asked[column] * rest).sum(min_count=1)) / 3600,
    }


def _axis(key: str, domain: Any) -> Axis:
    if isinstance(domain, dict):
        return Axis(key, math.nan, math.nan, False, tuple(domain["grid_search"]))
    if isinstance(domain, sample.Categorical):
        return Axis(key, math.nan, math.nan, False, tuple(domain.categories))
    return Axis(key, float(domain.lower), float(domain.upper), isinstance(domain.get_sampler(), sample.LogUniform), ())


def _plain(value: Any) -> Any:
    """A category as it compares: numbers by value, also out of a CSV; everything else by its text."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value)


def _filled(values: np.ndarray) -> np.ndarray:
    finite = values[np.isfinite(values)]
    return finite if len(finite) else np.zeros(1)


def _bounds(axis: Axis, values: np.ndarray) -> tuple[float, float]:
    low, high = axis.limits
    return min(low, float(values.min())), max(high, float(values.max()))
