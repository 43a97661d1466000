"""Calibration: a known temperature is found, and a reliability table counted by hand."""

import numpy as np
import pytest
import torch
from scipy.special import expit

from raysys.evaluate.calibration import (
    LEAST_PICKS,
    best_temperature,
    calibrated,
    calibration_error,
    cooled,
    fit_probability,
    log_odds,
    reliability,
    soft_label_losses,
    spread_of_times,
)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_was_divided_out_is_found_again(temperature):
    generator = torch.Generator().manual_seed(0)
    truth = (2 * torch.randn(4, 3, 500, generator=generator)).softmax(dim=1)
    said = (truth.log() * temperature).softmax(dim=1)
    losses = soft_label_losses(said, truth, torch.ones(4, 500)).numpy()
    assert best_temperature(losses) == pytest.approx(temperature, rel=1e-3)
    back = cooled(said[0].T.numpy(), temperature)
    assert np.allclose(back, truth[0].T, atol=1e-5)


def test_samples_without_a_label_do_not_count():
    said = torch.tensor([0.7, 0.2, 0.1])[None, :, None].expand(1, 3, 10).clone()
    target = said.clone()
    said[..., 5:] = torch.tensor([0.01, 0.01, 0.98])[:, None]
    weight = torch.ones(1, 10)
    weight[:, 5:] = 0
    assert best_temperature(soft_label_losses(said, target, weight).numpy()) == pytest.approx(1, abs=1e-3)
    assert np.isnan(best_temperature(np.zeros((0, 49))))


def test_a_table_of_reliability_counted_by_hand():
    probability = np.array([0.05, 0.05, 0.95, 0.99, 1.0, 0.5])
    right = np.array([False, True, True, True, False, True])
    table = reliability(probability, right)
    assert table["counts"][0] == 2
    assert table["counts"][-1] == 3
    assert table["counts"][7] == 1
    assert sum(table["counts"]) == 6
    assert table["confidence"][-1] == pytest.approx((0.95 + 0.99 + 1) / 3)
    assert table["accuracy"][-1] == pytest.approx(2 / 3)
    expected = (2 * abs(0.5 - 0.05) + 3 * abs(2 / 3 - 0.98) + abs(1 - 0.5)) / 6
    assert calibration_error(table) == pytest.approx(expected)
    assert np.isnan(calibration_error(reliability(np.zeros(0), np.zeros(0, bool))))


def test_errors_that_follow_the_width_of_peaks_have_the_spread_that_made_them():
    rng = np.random.default_rng(0)
    width = rng.uniform(0.05, 0.3, 20_000)
    late = rng.normal(0, 0.7 * width)
    assert spread_of_times(late, width) == pytest.approx(0.7, rel=0.02)
    assert spread_of_times(-late, width) == spread_of_times(late, width)
    late[:100], width[100:200] = np.nan, 0.0
    assert spread_of_times(late, width) == pytest.approx(0.7, rel=0.02), "what is unknown does not count"


def test_a_spread_needs_enough_picks():
    late, width = np.full(LEAST_PICKS, 0.1), np.full(LEAST_PICKS, 0.2)
    assert spread_of_times(late, width) == pytest.approx(0.5)
    assert np.isnan(spread_of_times(late[1:], width[1:]))
    late[0] = np.nan
    assert np.isnan(spread_of_times(late, width))


def test_the_odds_of_picks_are_found_that_were_bent():
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.02, 0.98, 20_000)
    right = rng.random(len(truth)) < truth
    said = expit((log_odds(truth) + 0.7) / 1.6)  # too sure of nothing
    slope, offset = fit_probability(said, right)
    assert (slope, offset) == pytest.approx((1.6, -0.7), abs=0.08)
    np.testing.assert_allclose(calibrated(said, slope, offset), truth, atol=0.02)
    before, after = (calibration_error(reliability(p, right)) for p in (said, calibrated(said, slope, offset)))
    assert after < 0.02 < 0.1 < before
    assert np.isnan(fit_probability(said[:30], np.arange(30) < 19)).all(), "too few"
    assert np.isnan(fit_probability(said[:30], np.ones(30, bool))).all(), "none is wrong"
    assert np.isfinite(calibrated(np.array([0.0, 1.0]), 1.3, 0.2)).all()
