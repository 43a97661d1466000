"""When a codebook has collapsed: one measure and one limit for a run's alarm, the gate of trials, figures and texts.

The measure is the hard perplexity on the validation set, summed over the groups, as a fraction of all codes. It counts
rare codes less. The fraction of codes that are used at all (codebook/used_fraction) stays high while a codebook collapses.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

PERPLEXITY = "codebook/hard_perplexity"
"""Name of the metric, of which one validation gives a value."""
COLLAPSED_BELOW = 0.2
"""Default of `search.min_perplexity_fraction`."""


@dataclass(frozen=True, slots=True)
class CodebookHealth:
    """The limit of one run or sweep."""

    num_codes: int
    """Of all groups together; 0 for continuous targets and for fine-tuning, which have no codebook that could collapse."""
    min_fraction: float = COLLAPSED_BELOW

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Returns the limit of a configuration, given as dotted key -> value (`raysys.config.keys`)."""
        codes = values.get("model.quantizer.num_groups", 0) * values.get("model.quantizer.num_codes", 0)
        without = values.get("model.quantizer.kind") == "none" or values.get("task", "pretrain") != "pretrain"
        return cls(0 if without else codes, values.get("search.min_perplexity_fraction", COLLAPSED_BELOW))

    def fraction(self, metrics: Mapping[str, Any]) -> float:
        """Returns the hard perplexity as a fraction of all codes; NaN where there are no codes or no such metric."""
        perplexity = float(metrics.get(PERPLEXITY, math.nan))
        return perplexity / self.num_codes if self.num_codes else math.nan

    def collapsed(self, metrics: Mapping[str, Any]) -> bool:
        """Returns whether the codebook has collapsed; one whose perplexity is NaN or missing counts as collapsed."""
        perplexity = float(metrics.get(PERPLEXITY, math.nan))
        return self.num_codes > 0 and not perplexity >= self.min_fraction * self.num_codes
