"""The scores of a network in training: hits counted by hand, and NaN where labels are missing."""

import math

import numpy as np
import pytest

from raysys.data.fixed_windows import FixedWindows
from raysys.evaluate.dev_scores import PickReading, class_scores, event_auc, frame_scores, hits, pick_scores

NAN = math.nan


def windows(p: list[float], s: list[float], noise: list[bool], further=None) -> FixedWindows:
    n = len(p)
    columns = (
        np.zeros((n, 3, 8), np.float32),
        np.full(n, 8),
        np.array(p),
        np.array(s),
        np.array(noise),
        np.zeros(n, int),
    )
    return FixedWindows(*columns, ("a",), further)


SOME = windows([100, 200, NAN, NAN], [NAN, 600, 700, NAN], [False, False, False, True])


def test_a_hit_lies_within_the_tolerance_and_windows_without_the_wave_do_not_count():
    found = hits(SOME, np.array([[110, 0], [251, 590], [100, 711], [0, 0]]))
    assert found["p_hit_0.1s"].tolist() == [True, False]
    assert found["p_hit_0.5s"].tolist() == [True, False]
    assert found["s_hit_0.1s"].tolist() == [True, False]
    assert found["s_hit_0.5s"].tolist() == [True, True]


def test_a_pick_at_a_later_onset_of_the_window_is_one_too():
    further = np.full((1, 3, 2), NAN)
    further[0, 0] = [500, 900]
    found = hits(windows([100], [NAN], [False], further), np.array([[905, 0]]))
    assert found["p_hit_0.1s"].tolist() == [True]


def test_the_score_is_the_mean_of_the_four_hit_rates():
    scores = pick_scores(SOME, PickReading(np.array([[110, 0], [251, 590], [100, 711], [0, 0]]), np.arange(4.0)))
    assert scores["dev/score"] == pytest.approx((0.5 + 0.5 + 0.5 + 1) / 4)
    assert scores["dev/event_auc"] == 0.0  # the noise has the highest


def test_without_labels_of_a_wave_the_score_is_nan():
    scores = pick_scores(windows([100], [NAN], [False]), PickReading(np.array([[100, 5]]), np.ones(1)))
    assert scores["dev/p_hit_0.1s"] == 1
    assert math.isnan(scores["dev/s_hit_0.5s"])
    assert math.isnan(scores["dev/score"])
    assert math.isnan(scores["dev/event_auc"])


def test_records_that_are_neither_picked_nor_noise_have_no_part_in_the_event_auc():
    some = windows([100, NAN, NAN], [NAN, NAN, NAN], [False, True, False])
    assert event_auc(some, np.array([0.7, 0.2, 0.0])) == event_auc(some, np.array([0.7, 0.2, 1.0])) == 1


def test_frames_and_classes():
    assert frame_scores(np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.3, 0.4])) == 1
    assert math.isnan(frame_scores(np.ones(3), np.ones(3)))
    probability = np.array([[0.9, 0.1], [0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
    scores = class_scores(np.array([0, 0, 1, 1]), probability)
    assert scores == {"dev/accuracy": 0.75, "dev/score": 0.75}
    assert class_scores(np.array([0, 0, 0, 1]), probability)["dev/score"] == pytest.approx((1 + 1) / 2)
    assert math.isnan(class_scores(np.zeros(4, int), probability)["dev/score"])
