"""95 % intervals by drawing whole events again, and of the difference of two networks on the same events."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

_AT_ONCE = 32
"""Resamples whose weights are held together."""


@dataclass(frozen=True, slots=True)
class Sums:
    """A number made of sums over rows.

    Attributes:
        unit: (n,) which event each row belongs to.
        terms: (n, k) what is summed.
        value: sums (R, k) -> numbers (R,); what divides by zero is NaN.
        count: rows or onsets behind the number.
    """

    unit: np.ndarray
    terms: np.ndarray
    value: Callable[[np.ndarray], np.ndarray]
    count: int


@dataclass(frozen=True, slots=True)
class Ranks:
    """The area under the ROC curve of rows that are true, (n,) bool, by their score (n,)."""

    unit: np.ndarray
    truth: np.ndarray
    score: np.ndarray

    @property
    def count(self) -> int:
        return len(self.unit)


@dataclass(frozen=True, slots=True)
class Middle:
    """The median of a value (n,)."""

    unit: np.ndarray
    of: np.ndarray

    @property
    def count(self) -> int:
        return len(self.unit)


Statistic = Sums | Ranks | Middle


def replicate(statistics: dict[str, Statistic], num_units: int, resamples: int, seed: int = 0) -> pd.DataFrame:
    """Returns every number (columns) of the events as they are (row 0) and of each resample (rows 1, 2, ...).

    Two calls with the same numbers of events, resamples and seed draw the same events, so that their rows can be compared.

    Args:
        statistics: by name; their `unit` lies below `num_units`.
        num_units: events to draw from.
        resamples: times that as many events are drawn with replacement.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    sums = {name: one for name, one in statistics.items() if isinstance(one, Sums)}
    ordered = {
        name: _ranks(one) if isinstance(one, Ranks) else _median(one)
        for name, one in statistics.items()
        if name not in sums
    }
    totals = [_by_unit(one, num_units) for one in sums.values()]
    table = np.concatenate(totals, axis=1) if totals else np.zeros((num_units, 0))
    ends = np.cumsum([0, *(total.shape[1] for total in totals)])
    columns: dict[str, list] = {name: [] for name in statistics}
    for first in range(0, resamples + 1, _AT_ONCE):
        weights = np.stack([_draw(rng, num_units, first + k) for k in range(min(_AT_ONCE, resamples + 1 - first))])
        drawn = weights @ table
        with np.errstate(divide="ignore", invalid="ignore"):
            for k, (name, one) in enumerate(sums.items()):
                columns[name].append(one.value(drawn[:, ends[k] : ends[k + 1]]))
        for name, number in ordered.items():
            columns[name].append(np.array([number(row) for row in weights]))
    return pd.DataFrame({name: np.concatenate(parts) for name, parts in columns.items()})


def interval(numbers: np.ndarray) -> dict[str, float]:
    """Returns "value", "low" and "high" of a column of `replicate`, or of the difference of two."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of nothing but NaN
        low, high = np.nanquantile(numbers[1:], [0.025, 0.975]) if len(numbers) > 1 else (np.nan, np.nan)
    if np.isnan(numbers[0]):
        low = high = np.nan
    return {"value": float(numbers[0]), "low": float(low), "high": float(high)}


def _draw(rng, num_units: int, number: int) -> np.ndarray:
    """How often each event is drawn; resample 0 is the events themselves."""
    if number == 0:
        return np.ones(num_units)
    return np.bincount(rng.integers(0, num_units, num_units), minlength=num_units).astype(float)


def _by_unit(one: Sums, num_units: int) -> np.ndarray:
    columns = [np.bincount(one.unit, column, minlength=num_units) for column in one.terms.T]
    return np.stack(columns, axis=1) if columns else np.zeros((num_units, 0))


def _ranks(one: Ranks) -> Callable[[np.ndarray], float]:
    """The area under the curve for weights of events: pairs in the right order, ties one half."""
    order = np.argsort(one.score, kind="stable")
    unit, truth, score = one.unit[order], one.truth[order].astype(float), one.score[order]
    first = np.flatnonzero(np.concatenate([[True], score[1:] != score[:-1]])) if len(score) else np.zeros(0, int)

    def area(weights: np.ndarray) -> float:
        if not len(first):
            return float("nan")
        mine = weights[unit]
        positive = np.add.reduceat(mine * truth, first)
        negative = np.add.reduceat(mine * (1 - truth), first)
        pairs = positive.sum() * negative.sum()
        below = np.cumsum(negative) - negative / 2
        return float(positive @ below / pairs) if pairs else float("nan")

    return area


def _median(one: Middle) -> Callable[[np.ndarray], float]:
    order = np.argsort(one.of, kind="stable")
    unit, value = one.unit[order], one.of[order]

    def median(weights: np.ndarray) -> float:
        reached = np.cumsum(weights[unit])
        if not len(reached) or not reached[-1]:
            return float("nan")
        half = reached[-1] / 2
        low, high = (np.searchsorted(reached, half, side) for side in ("left", "right"))
        return float((value[low] + value[min(high, len(value) - 1)]) / 2)

    return median
