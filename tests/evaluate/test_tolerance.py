"""Picks are peaks, and each onset has one."""

import numpy as np
import torch

from raysys.evaluate.tolerance import find_peaks, match


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
