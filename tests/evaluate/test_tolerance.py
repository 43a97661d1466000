"""Picks are peaks, and each onset has one."""

import numpy as np
import torch

from raysys.evaluate.tolerance import find_peaks, match, peak_widths_s


def curve(*peaks, samples=1000):
    x = torch.zeros(1, samples)
    for at, value in peaks:
        x[0, at] = value
    return x


def picked(x, valid=1000):
    sample, value = find_peaks(x, torch.tensor([valid]))
    return [(int(s), round(float(v), 3)) for s, v in zip(sample[0], value[0], strict=True) if v > 0]


def test_peaks_are_the_highest_within_half_a_second_above_the_floor_and_before_the_padding():
    x = curve((100, 0.5), (140, 0.9), (191, 0.3), (400, 0.04), (900, 0.8))
    assert picked(x) == [(140, 0.9), (900, 0.8), (191, 0.3)]
    assert picked(x, valid=900) == [(140, 0.9), (191, 0.3)]
    assert picked(curve((0, 0.2), (999, 0.6))) == [(999, 0.6), (0, 0.2)], "the ends count, too"


def test_of_equal_samples_the_first_is_the_peak():
    x = torch.full((1, 1000), 0.1)
    x[0, 300:320] = 0.7
    assert picked(x)[0] == (300, 0.7)
    assert sum(250 <= at <= 369 for at, _ in picked(x)) == 1


def test_every_onset_takes_one_pick_and_the_most_probable_chooses_first():
    onsets = np.array([[100.0, 130.0, np.nan]])
    sample, there = np.array([[112, 98, 140, 500]]), np.array([[True] * 4])
    late = match(sample, there, onsets, 0.5)
    assert np.allclose(late, [[0.12, -0.32, np.nan, np.nan]], equal_nan=True)
    assert np.isnan(match(sample, there, onsets, 0.05)[0]).tolist() == [True, False, True, True]
    assert np.isnan(match(sample, ~there, onsets, 0.5)).all()
    assert np.isnan(match(sample, there, np.zeros((1, 0)), 0.5)).all()


def test_the_tolerance_is_met_on_its_edge():
    late = match(np.array([[150, 210]]), np.ones((1, 2), bool), np.array([[100.0, 260.5]]), 0.5)
    assert late[0, 0] == 0.5
    assert np.isnan(late[0, 1])


def test_the_width_of_a_peak_is_the_deviation_of_its_curve_around_it():
    t = np.arange(1000)
    bell = np.exp(-(((t - 400) / 8) ** 2) / 2)
    even = ((t >= 590) & (t <= 610)).astype(float)
    curves = np.stack([bell, 0.2 * bell, even])
    widths = peak_widths_s(curves, np.array([[400, 405], [400, 400], [600, 610]]))
    assert np.allclose(widths[0], [0.08, np.hypot(0.08, 0.05)], rtol=1e-3)
    assert np.allclose(widths[1], 0.08, rtol=1e-3), "the height has no part in it"
    assert np.allclose(widths[2], np.sqrt([110 / 3, 110 / 3 + 100]) / 100), "the deviation is that around the peak"


def test_widths_end_half_a_second_away_at_the_edges_and_at_holes():
    ones = np.ones((1, 1000), np.float32)
    whole, edge = peak_widths_s(ones, np.array([[500, 0]]))[0]
    assert whole == np.sqrt((np.arange(-50, 51) ** 2).mean()) / 100
    assert edge == np.sqrt((np.arange(51) ** 2).mean()) / 100
    half = ones.copy()
    half[0, 505:] = np.nan
    expected = np.sqrt((np.arange(-50, 5) ** 2).mean()) / 100
    assert peak_widths_s(half, np.array([[500]]))[0, 0] == expected
    assert np.isnan(peak_widths_s(0 * ones, np.array([[500]]))).all()
    assert peak_widths_s(ones, np.zeros((1, 0), np.int64)).shape == (1, 0)
