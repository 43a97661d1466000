"""What the figures draw, read back from their lines, bars and points."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import Normalize, to_hex

from raysys.report import figures, figures_space, figures_sweep, seismograms
from raysys.report.analysis import Axis
from raysys.report.seismograms import CodedWindows
from raysys.report.style import BLUE, GREY, ORANGE, RED, panels

TRIALS = pd.DataFrame(
    {
        "trial": ["a", "b", "c", "d"],
        "status": ["TERMINATED", "STOPPED_EARLY", "STOPPED_EARLY", "ERROR"],
        "healthy": [True, True, False, True],
        "windows": [100, 50, 25, 10],
        "budget_windows": 200,
        "objective": [0.5, 0.9, 0.0, 0.3],
        "probe/macro_ap": [0.5, 0.9, 0.4, 0.3],
        "codebook/hard_perplexity": [320.0, 160.0, 64.0, 480.0],
        "codebook/used_fraction": [0.8, 0.7, 0.1, 0.9],
        "mask.ratio": [0.4, 0.5, 0.6, 0.7],
        "optim.lr": [1e-3, 1e-2, 1e-3, 1e-2],
    }
)
RATIO = Axis("mask.ratio", 0.3, 0.8, False, ())
RATE = Axis("optim.lr", 1e-4, 1e-2, True, ())


def curves(ax) -> dict:
    """Label -> values of the lines with one; the places of dashed horizontal lines under "levels"."""
    named = {one.get_label(): list(one.get_ydata()) for one in ax.lines if not one.get_label().startswith("_")}
    dashed = [one.get_ydata()[0] for one in ax.lines if list(one.get_xdata()) == [0, 1]]
    return named | {"levels": dashed}


def test_losses_lie_beside_chance_and_the_diversity_is_weighted():
    metrics = pd.DataFrame(
        {"train/contrastive": [3.0, 2.0], "val/contrastive": [np.nan, 2.5], "train/loss": [3.2, 2.1]},
        index=[10, 20],
    )
    left, right = figures.loss_figure(metrics.assign(**{"train/diversity": [0.8, 0.4]}), 3.5, 0.25).axes
    assert curves(left) == {"training": [3.0, 2.0], "validation": [2.5], "levels": [3.5]}
    weighted = {"total": [3.2, 2.1], "contrastive": [3.0, 2.0], "0.25 x diversity": [0.2, 0.1], "levels": []}
    assert curves(right) == weighted
    assert list(left.lines[0].get_xdata()) == [10, 20]


def test_perplexity_lies_beside_its_maximum_and_the_limit_of_a_collapse():
    names = ("codebook/hard_perplexity_0", "codebook/hard_perplexity_1", "codebook/perplexity_1")
    metrics = pd.DataFrame([[10.0, 20.0, 30.0]], columns=names, index=[5])
    metrics["codebook/used_fraction"] = 0.7
    left, right = figures.codebook_figure(metrics, 2, 50, 0.3).axes
    assert curves(left) == {"group 0": [10.0], "group 1": [20.0], "levels": [50, 15.0]}
    assert curves(right) == {"validation set": [0.7], "levels": []}


def test_the_probe_lies_beside_the_untrained_model_and_its_accuracy_beside_chance():
    names = ("probe/macro_ap", "probe/p_ap", "probe/s_ap", "val/top1_tie")
    metrics = pd.DataFrame([[0.4, 0.5, 0.3, 0.2]], columns=names, index=[5])
    left, right = figures.probe_figure(metrics, {"probe/macro_ap": 0.07}, 1 / 101).axes
    assert curves(left) == {"P frames": [0.5], "S frames": [0.3], "mean of both": [0.4], "levels": [0.07]}
    assert curves(right) == {"validation": [0.2], "levels": [1 / 101]}


def test_a_noisy_curve_gets_a_running_mean_of_a_fortieth_of_the_run():
    _, (ax,) = panels(1, 1, 1.0)
    values = np.zeros(200)
    values[100] = 5.0
    figures.noisy_line(ax, pd.DataFrame({"x": values}), "x", "mean", BLUE)
    raw, mean = (one.get_ydata() for one in ax.lines)
    np.testing.assert_array_equal(raw, values)
    np.testing.assert_allclose(mean[97:104], [0, 1, 1, 1, 1, 1, 0], atol=1e-12)


def test_code_usage_is_sorted_by_group_at_the_first_and_the_last_validation():
    usage = {20: np.array([1, 0, 3, 2, 2, 4]), 10: np.array([6, 0, 0, 1, 1, 1]), 15: np.zeros(6)}
    for ax, last, first in zip(
        figures.usage_figure(usage, 2).axes, ([3, 1, 0], [4, 2, 2]), ([6, 0, 0], [1, 1, 1]), strict=True
    ):
        np.testing.assert_allclose([bar.get_height() for bar in ax.patches], np.array(last) / sum(last))
        named = curves(ax)
        assert named.pop("levels") == [1 / 3]
        ((label, line),) = named.items()
        np.testing.assert_allclose(line, np.array(first) / sum(first))
        assert label == f"step 10: {np.count_nonzero(first)} of 3 codes"


def test_the_history_marks_the_best_trial_and_the_rungs():
    reports = [("b", 50, 0.9), ("a", 100, 0.5), ("a", 50, 0.3), ("b", 25, 0.4), ("unknown", 25, 0.1)]
    history = pd.DataFrame(reports, columns=["trial", "windows", "probe/macro_ap"])
    (ax,) = figures_sweep.history_figure(TRIALS, history, "probe/macro_ap", [25.0, 75.0]).axes
    rungs = [one.get_xdata()[0] for one in ax.lines if list(one.get_ydata()) == [0, 1]]
    assert rungs == [25.0, 75.0]
    best, other = (one for one in ax.lines if len(one.get_ydata()) == 2 and one.get_ydata()[1] < 1)
    assert [list(one.get_ydata()) for one in (best, other)] == [[0.3, 0.5], [0.4, 0.9]]
    assert [(one.get_linewidth(), one.get_color()) for one in (best, other)] == [(2.8, BLUE), (1.1, ORANGE)]
    assert "best: trial a" in [text.get_text() for text in ax.texts]


def test_health_is_a_fraction_of_all_codes_beside_its_gate():
    left, right = figures_sweep.health_figure(TRIALS, 640, 0.3, "probe/macro_ap").axes
    sick, well = left.lines
    assert (list(sick.get_xdata()), list(well.get_xdata())) == ([0.1], [0.5, 0.25, 0.75])
    assert [one.get_label() for one in left.lines] == ["failed the gate", "healthy"]
    assert [list(one.get_xdata()) for one in right.lines] == [[0.1], [0.8, 0.7, 0.9]]
    assert [[one.get_width() for one in ax.patches] for ax in (left, right)] == [[0.3], []]


def test_outcomes_have_their_colours_marks_and_shares_of_the_budget():
    rows = [row for _, row in TRIALS.iterrows()]
    assert [figures_sweep.color_of(row) for row in rows] == [BLUE, ORANGE, RED, RED]
    assert figures_sweep.color_of({"healthy": True, "status": "RUNNING"}) == GREY
    assert [figures_sweep.marker_of(row) for row in rows] == ["o", "o", "X", "X"]
    labels = [one.get_label() for one in figures_sweep.legend_of(TRIALS)]
    assert labels == ["ran to the end", "stopped early", "failed, or failed the health gate"]
    (ax,) = figures_sweep.compute_figure(TRIALS).axes
    assert [bar.get_height() for bar in ax.patches] == [1.0] * 4 + [0.5, 0.25, 0.125, 0.05]


def test_slices_show_the_score_over_the_value_and_trials_without_one_on_the_floor():
    ratio, rate = figures_space.slice_figure(TRIALS, [RATIO, RATE], "objective", {"mask.ratio": 0.65}).axes
    points = [(one.get_xdata()[0], one.get_ydata()[0]) for one in ratio.lines if one.get_marker() == "o"]
    assert points == [(0.4, 0.5), (0.5, 0.9)]
    floor, base = (next(one for one in ratio.lines if one.get_marker() == mark) for mark in ("x", "^"))
    assert (list(floor.get_xdata()), list(base.get_xdata())) == ([0.6, 0.7], [0.65])
    assert list(floor.get_ydata()) == [0.03, 0.03]
    np.testing.assert_allclose(ratio.get_xlim(), (0.3 - 0.03, 0.8 + 0.03))
    np.testing.assert_allclose([one.get_xdata()[0] for one in rate.lines if one.get_marker() == "o"], [-3, -2])


def test_parallel_lines_run_through_the_values_to_the_score_and_the_best_is_thick():
    (ax,) = figures_space.parallel_figure(TRIALS, [RATIO, RATE], "objective").axes
    worse, best = (one for one in ax.lines if len(one.get_xdata()) == 3)
    np.testing.assert_allclose(worse.get_ydata(), [0.4, 1.0, 1.0])
    np.testing.assert_allclose(best.get_ydata(), [0.2, 0.5, 0.0])
    assert (best.get_linewidth(), worse.get_linewidth()) == (2.4, 1.0)


def test_pairs_ring_the_winner_and_colour_by_the_score_they_are_given():
    figure = figures_space.pair_figure(TRIALS, [RATIO, RATE], pd.Series({"a": 0.2, "b": 0.1}), "score")
    ax = figure.axes[0]
    (points,) = ax.collections
    np.testing.assert_allclose(points.get_offsets(), [[0.4, -3], [0.5, -2]])
    assert list(points.get_array()) == [0.2, 0.1]
    ring, crosses = ax.lines
    assert (ring.get_xdata()[0], list(crosses.get_xdata())) == (0.4, [0.6, 0.7])


def test_the_surface_is_the_mean_of_neighbours_with_gaussian_weights():
    seen = {}
    ax = SimpleNamespace(contourf=lambda x, y, mean, **_: seen.update(x=x, y=y, mean=mean))
    places = np.array([[0.3, -4.0], [0.8, -2.0], [0.55, np.nan]])
    figures_space._surface(ax, RATIO, RATE, *places.T, np.array([0.0, 1.0, 9.0]), Normalize(0, 1))
    u, v = (seen["x"] - 0.3) / 0.5, (seen["y"] + 4) / 2
    near, far = (np.exp(-24.5 * ((u - at) ** 2 + (v - at) ** 2)) + 1e-12 for at in (0, 1))
    np.testing.assert_allclose(seen["mean"], far / (near + far), atol=1e-9)
    assert (u.min(), u.max()) == pytest.approx((-0.05, 1.05))


def test_importance_bars_have_their_shares():
    table = pd.DataFrame({"key": ["a", "b"], "share": [0.75, 0.25], "rho": [0.5, -0.25]})
    (ax,) = figures_space.importance_figure(table).axes
    assert [bar.get_width() for bar in ax.patches] == [0.25, 0.75], "the largest on top"
    assert ax.texts[0].get_text() == "25%    rank correlation -0.25"


def test_seismograms_have_seconds_picks_and_codes_in_place():
    waveform = np.zeros((1, 3, 800), np.float32)
    waveform[0, :, :400] = np.array([1.0, 2.0, 4.0])[:, None] * np.where(np.arange(400) % 2, 4, 2)
    codes = np.array([[[0, 3], [1, 2], [2, 1], [3, 0]]])
    windows = CodedWindows(
        waveform=waveform, num_valid=np.array([400]), p_sample=np.array([100.0]), s_sample=np.array([250.0]),
        names=("STEAD",), codes=codes, first_center=100.0, fingerprint="",
    )  # fmt: skip
    top, strip = seismograms.seismogram_figure(windows, 4).axes
    traces = [one for one in top.lines if len(one.get_xdata()) == 400]
    for row, trace in enumerate(traces):
        np.testing.assert_allclose(trace.get_xdata(), np.arange(400) / 100)
        np.testing.assert_allclose(trace.get_ydata(), np.where(np.arange(400) % 2, 0.48, -0.48) - row)
    assert [text.get_text() for text in top.texts] == ["Z", "N", "E", "P", "S"]
    for ax in (top, strip):
        assert [one.get_xdata()[0] for one in ax.lines if len(one.get_xdata()) == 2] == [1.0, 2.5]
    assert [to_hex(one.get_color()) for one in top.lines[-2:]] == [BLUE, RED]
    assert strip.images[0].get_extent() == [0, 8.0, 2, 0]
    np.testing.assert_allclose(strip.images[0].get_array()[1], seismograms.code_colors(4)[[3, 2, 1, 0]])
