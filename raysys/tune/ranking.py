"""The number that ranks trials, the gate that an unhealthy trial does not pass, and which trials are the best."""

import math
from typing import Any

import pandas as pd

from raysys.codebook_health import CodebookHealth
from raysys.config import RunConfig, keys

WORST = 0.0
"""Reported for NaN and for trials that fail the gate; both objectives lie in [0, 1] and larger is better."""
REPEAT_OF = "repeat_of"
"""Column of trials.csv: the trial whose values a trial repeats with another seed; empty for trials of the search."""


def judge(metrics: dict[str, Any], config: RunConfig) -> dict[str, Any]:
    """Returns `objective`, `healthy` and, where it is not healthy, `reason`, of the metrics of one validation.

    Validation losses do not compare between temperatures, numbers of negatives, lambdas or mask ratios, and a
    collapsed codebook has the smallest of all, so they have no part in it.

    Args:
        metrics: of one validation; needs the objective and, of pretraining, codebook/hard_perplexity.
        config: names the objective and sets the gate.
    """
    value = float(metrics.get(config.search.objective, math.nan))
    health = CodebookHealth.of(keys(config))
    reason = ""
    if not all(
        math.isfinite(float(metrics[name])) for name in ("train/loss", "val/loss", "dev/loss") if name in metrics
    ):
        reason = "the loss is not finite"
    elif not math.isfinite(value):
        reason = f"{config.search.objective} is not finite"
    elif health.collapsed(metrics):
        reason = (
            f"the codebook has collapsed: hard perplexity {metrics['codebook/hard_perplexity']:.0f} of {health.num_codes}, "
            f"gate {health.min_fraction:.0%}"
        )
    return {"objective": WORST if reason else value, "healthy": not reason, "reason": reason}


def ranked(trials: pd.DataFrame) -> pd.DataFrame:
    """Returns the trials with a score, healthy and not failed, the best first.

    Those with a mean over other seeds come before the others, by that mean; then those that went furthest, by their
    objective. A trial that was stopped may have had a lucky last score; the winner is one that kept its promise to the
    end.

    Args:
        trials: rows of trials.csv, with healthy, status, windows, objective and, where there is one, mean.
    """
    good = trials[trials["healthy"] & (trials["status"] != "ERROR") & trials["objective"].notna()]
    furthest = good["windows"] == good["windows"].max()
    mean = good.get("mean", math.nan)
    keys = good.assign(furthest=furthest, mean=mean)
    order = keys.sort_values(
        ["mean", "furthest", "objective"], ascending=False, kind="stable", na_position="last"
    ).index
    return good.loc[order]


def with_means(trials: pd.DataFrame) -> pd.DataFrame:
    """Returns the trials with the columns mean, spread and seeds: of the objective of those that were run again.

    The score that a configuration was chosen by is not among them: it is the largest of many draws and therefore too
    high. A seed that fails the health gate counts with its score of 0; one that died for another reason does not count.

    Args:
        trials: rows of trials.csv, with `repeat_of`. `spread` is the standard deviation over seeds (n - 1).
    """
    done = trials[(trials[REPEAT_OF] != "") & (trials["status"] != "ERROR") & trials["objective"].notna()]
    table = done.groupby(REPEAT_OF)["objective"].agg(["mean", "std", "count"])
    columns = zip(("mean", "spread", "seeds"), table.columns, strict=True)
    return trials.assign(**{name: trials["trial"].map(table[column]) for name, column in columns})


def repeat_points(config: RunConfig, trials: pd.DataFrame, tuned: dict[str, dict]) -> list[dict]:
    """Returns the tuned values of the runs that repeat the `search.top_k` best trials with `search.top_k_seeds` other seeds.

    Args:
        config: of the sweep.
        trials: rows of trials.csv.
        tuned: trial -> dotted key -> value.
    """
    first = config.train.seed + 1
    return [
        {REPEAT_OF: trial, **tuned[trial], "train.seed": seed}
        for trial in ranked(trials)["trial"].head(config.search.top_k)
        for seed in range(first, first + config.search.top_k_seeds)
    ]
