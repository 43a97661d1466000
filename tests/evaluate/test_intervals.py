"""Intervals: values are those of scikit-learn and NumPy, and the intervals hold the truth as often as they say."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from raysys.evaluate.intervals import Middle, Ranks, Sums, interval, replicate


def mean(unit, value):
    terms = np.stack([value, np.ones_like(value)], axis=1)
    return Sums(unit, terms, lambda x: x[:, 0] / x[:, 1], len(value))


def drawn_rows(unit, num_units, number, seed=0):
    """The rows of a resample, each as often as its event is drawn."""
    rng = np.random.default_rng(seed)
    for _ in range(number):
        draw = np.bincount(rng.integers(0, num_units, num_units), minlength=num_units)
    return np.repeat(np.arange(len(unit)), draw[unit])


def test_every_number_is_that_of_the_rows_whose_events_are_drawn():
    rng = np.random.default_rng(1)
    unit, value = rng.integers(0, 12, 60), rng.standard_normal(60)
    truth, score = rng.random(60) < 0.4, np.round(rng.random(60), 1)  # with ties
    found = replicate(
        {"mean": mean(unit, value), "auc": Ranks(unit, truth, score), "median": Middle(unit, value)}, 12, 40
    )
    assert len(found) == 41
    for number in (0, 1, 2, 40):
        rows = drawn_rows(unit, 12, number) if number else np.arange(60)
        assert found["mean"][number] == pytest.approx(value[rows].mean())
        assert found["auc"][number] == pytest.approx(roc_auc_score(truth[rows], score[rows]))
        assert found["median"][number] == pytest.approx(np.median(value[rows]))


def test_an_interval_of_95_percent_holds_the_truth_about_as_often_where_events_have_many_records():
    rng, inside, naive = np.random.default_rng(2), 0, 0
    for _ in range(200):
        unit = np.repeat(np.arange(60), 5)
        value = np.repeat(rng.standard_normal(60), 5) + 0.3 * rng.standard_normal(300)
        found = interval(replicate({"mean": mean(unit, value)}, 60, 300)["mean"].to_numpy())
        inside += found["low"] <= 0 <= found["high"]
        found = interval(replicate({"mean": mean(np.arange(300), value)}, 300, 300)["mean"].to_numpy())
        naive += found["low"] <= 0 <= found["high"]
    assert 180 <= inside <= 199
    assert naive < 150, "records of one event are no independent ones"


def test_the_difference_of_two_networks_on_the_same_events_is_narrower_than_their_intervals():
    rng = np.random.default_rng(3)
    unit, hard = np.arange(200), rng.standard_normal(200)
    a, b = (replicate({"x": mean(unit, hard + shift)}, 200, 500)["x"].to_numpy() for shift in (0.1, 0.0))
    apart = interval(a - b)
    assert apart["value"] == apart["low"] == apart["high"] == pytest.approx(0.1)
    assert interval(a)["high"] - interval(a)["low"] > 0.2


def test_what_has_no_rows_is_nan():
    none = np.zeros(0, int)
    found = replicate(
        {"m": mean(none, np.zeros(0)), "a": Ranks(none, none > 0, np.zeros(0)), "d": Middle(none, np.zeros(0))}, 3, 4
    )
    assert found.isna().all().all()
    assert np.isnan(list(interval(found["m"].to_numpy()).values())).all()
