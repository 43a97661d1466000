"""The number that ranks trials, and the gate that an unhealthy trial does not pass."""

import math
from typing import Any

from raysys.config import RunConfig

WORST = 0.0
"""Reported for NaN and for trials that fail the gate; both objectives lie in [0, 1] and larger is better."""


def judge(metrics: dict[str, Any], config: RunConfig) -> dict[str, Any]:
    """Returns `objective`, `healthy` and, where it is not healthy, `reason`, of the metrics of one validation.

    Validation losses do not compare between temperatures, numbers of negatives, lambdas or mask ratios, and a
    collapsed codebook has the smallest of all, so they have no part in it.

    Args:
        metrics: of one validation; needs the objective and codebook/hard_perplexity.
        config: names the objective and sets the gate.
    """
    value = float(metrics.get(config.search.objective, math.nan))
    quantizer = config.model.quantizer
    codes = quantizer.num_groups * quantizer.num_codes
    perplexity = float(metrics["codebook/hard_perplexity"])
    reason = ""
    if not all(math.isfinite(float(metrics[name])) for name in ("train/loss", "val/loss") if name in metrics):
        reason = "the loss is not finite"
    elif not math.isfinite(value):
        reason = f"{config.search.objective} is not finite"
    elif quantizer.kind != "none" and not perplexity >= config.search.min_used_fraction * codes:
        reason = (
            f"the codebook has collapsed: hard perplexity {perplexity:.0f} of {codes}, "
            f"gate {config.search.min_used_fraction:.0%}"
        )
    return {"objective": WORST if reason else value, "healthy": not reason, "reason": reason}
