"""Figures over the search space: the score against one tuned value, against pairs, and against all of them at once."""

import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from raysys.report.analysis import Axis
from raysys.report.figures_sweep import color_of, legend_of
from raysys.report.style import BLUE, INK, RED, SCORE_MAP, panels
from raysys.tune.ranking import ranked

CONTOURS_FROM = 20
"""Trials from which a smooth surface is drawn behind the points."""


def slice_figure(trials: pd.DataFrame, axes_: list[Axis], objective: str, base: dict) -> Figure | None:
    """Returns the objective against each tuned value; a triangle marks the value of the base configuration."""
    if not axes_ or ranked(trials).empty:
        return None
    columns = min(4, len(axes_))
    figure, axes = panels(-(-len(axes_) // columns), columns, 2.7, sharey=True)
    for ax, axis in zip(axes, axes_, strict=False):
        draw_trials(ax, axis.place(trials[axis.key]), trials)
        scale(ax, axis, "x")
        if axis.key in base:
            ax.plot(
                axis.place(pd.Series([base[axis.key]])),
                [0],
                "^",
                color=INK,
                markersize=7,
                clip_on=False,
                transform=ax.get_xaxis_transform(),
            )
    for ax in axes[::columns]:
        ax.set_ylabel(objective)
    for ax in axes[len(axes_) :]:
        ax.remove()
    figure.legend(handles=legend_of(trials), loc="outside upper right", ncols=3)
    return figure


def pair_figure(trials: pd.DataFrame, axes_: list[Axis], score: pd.Series, label: str) -> Figure | None:
    """Returns every pair of tuned values (at most five of them), points coloured by a score.

    Args:
        trials: of the sweep; those without a score are crosses.
        axes_: tuned values.
        score: trial -> score, compared at the same number of windows.
        label: name of the score.

    From `CONTOURS_FROM` trials on, the mean of the neighbouring scores (Gaussian weights, a seventh of each axis wide)
    is drawn behind them.
    """
    axes_, good = axes_[:5], ranked(trials).assign(score=lambda t: t["trial"].map(score)).dropna(subset=["score"])
    if len(axes_) < 2 or good.empty:
        return None
    size = len(axes_) - 1
    figure, grid = panels(size, size, 2.6 if size > 1 else 3.8, width=10.4 if size > 1 else 6.5)
    norm = _norm(good["score"])
    for row in range(size):
        for column in range(size):
            ax, x, y = grid[row * size + column], axes_[column], axes_[row + 1]
            if column > row:
                ax.set_axis_off()
                continue
            _pair(ax, x, y, good, trials, norm)
            scale(ax, x, "x", named=row == size - 1)
            scale(ax, y, "y", named=column == 0)
    place = {"cax": grid[size - 1].inset_axes((0.3, 0.0, 0.08, 1.0))} if size > 1 else {"ax": grid[0]}
    figure.colorbar(ScalarMappable(norm, SCORE_MAP), label=label, **place)
    return figure


def parallel_figure(trials: pd.DataFrame, axes_: list[Axis], objective: str) -> Figure | None:
    """Returns one line a trial through all its tuned values to its objective, the best in the strongest colours."""
    good = ranked(trials)
    if len(axes_) < 2 or len(good) < 2:
        return None
    figure, (ax,) = panels(1, 1, 3.6)
    norm = _norm(good["objective"])
    heights = [_unit(axis, good[axis.key]) for axis in axes_] + [norm(good["objective"].to_numpy(float))]
    paths = np.array(heights).T
    cmap = ScalarMappable(norm, SCORE_MAP)
    for rank in range(len(good) - 1, -1, -1):
        top = rank < max(1, len(good) // 5)
        ax.plot(
            paths[rank],
            color=cmap.to_rgba(good["objective"].iloc[rank]),
            linewidth=2.4 if top else 1.0,
            alpha=0.95 if top else 0.45,
        )
    small = {
        "fontsize": 8,
        "color": "#5c6670",
        "va": "center",
        "bbox": {"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.8},
    }
    for i, axis in enumerate(axes_):
        ax.axvline(i, color="#b9c0c7", linewidth=1)
        low, high = axis.limits
        for place, label in zip(*axis.ticks(), strict=True):
            ax.text(i - 0.015, (place - low) / (high - low), label, ha="right", **small)
    last = len(axes_)
    ax.axvline(last, color="#b9c0c7", linewidth=1)
    for value in np.linspace(norm.vmin, norm.vmax, 5):
        ax.text(last + 0.015, norm(value), f"{value:.3f}", **small)
    ax.set_xticks(range(last + 1), [axis.name for axis in axes_] + [objective], fontsize=9.5)
    ax.set(yticks=[], xlim=(-0.25, last + 0.25))
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    return figure


def importance_figure(table: pd.DataFrame) -> Figure | None:
    """Returns a bar a tuned value: its share of the score's variance, with its rank correlation written beside it."""
    if table.empty:
        return None
    figure, (ax,) = panels(1, 1, 0.6 + 0.42 * len(table))
    table = table.iloc[::-1]
    ax.barh(table["key"], table["share"], color=BLUE, height=0.55)
    for i, row in enumerate(table.itertuples()):
        ax.text(row.share + 0.008, i, f"{row.share:.0%}    rank correlation {row.rho:+.2f}", va="center", fontsize=8.5)
    ax.set(xlim=(0, min(1.35, table["share"].max() * 1.45)), xlabel="share of the variance of the score")
    ax.set_xticks([tick for tick in (0, 0.2, 0.4, 0.6, 0.8, 1) if tick <= ax.get_xlim()[1]])
    ax.xaxis.set_major_formatter(PercentFormatter(1.0))
    ax.grid(axis="y", visible=False)
    return figure


def draw_trials(ax, x: np.ndarray, trials: pd.DataFrame) -> None:
    """Draws trials at `x` against their objective; those without a score as crosses on the floor of the axis."""
    good = trials["trial"].isin(ranked(trials)["trial"]).to_numpy()
    for i in np.flatnonzero(good):
        row = trials.iloc[i]
        ax.plot(x[i], row["objective"], "o", color=color_of(row), markersize=5.5, alpha=0.8, markeredgewidth=0)
    ax.plot(x[~good], np.full((~good).sum(), 0.03), "x", color=RED, markersize=5, transform=ax.get_xaxis_transform())


def scale(ax, axis: Axis, which: str, named: bool = True) -> None:
    """Gives one side of an axis the ticks, limits and name of a tuned value."""
    low, high = axis.limits
    room = 0.06 * (high - low)
    places, labels = axis.ticks()
    if len(places) > 7:
        places, labels = places[::2], labels[::2]
    getattr(ax, f"set_{which}ticks")(places, labels)
    getattr(ax, f"set_{which}lim")(low - room, high + room)
    if named:
        getattr(ax, f"set_{which}label")(axis.key + (" (log)" if axis.log else ""))


def _pair(ax, x: Axis, y: Axis, good: pd.DataFrame, trials: pd.DataFrame, norm: Normalize) -> None:
    xs, ys = x.place(good[x.key]), y.place(good[y.key])
    if len(good) >= CONTOURS_FROM:
        _surface(ax, x, y, xs, ys, good["score"].to_numpy(float), norm)
    points = {"s": 30, "edgecolor": "white", "linewidth": 0.7, "zorder": 3}
    ax.scatter(xs, ys, c=good["score"], cmap=SCORE_MAP, norm=norm, **points)
    if good["trial"].iloc[0] == ranked(trials)["trial"].iloc[0]:
        ax.plot(xs[0], ys[0], "o", color="none", markeredgecolor=RED, markersize=10, markeredgewidth=1.6, zorder=4)
    bad = trials[~trials["trial"].isin(ranked(trials)["trial"])]
    ax.plot(x.place(bad[x.key]), y.place(bad[y.key]), "x", color=RED, markersize=4.5, zorder=2)


def _surface(ax, x: Axis, y: Axis, xs, ys, score: np.ndarray, norm: Normalize) -> None:
    known = np.isfinite(xs) & np.isfinite(ys)
    (x0, x1), (y0, y1) = x.limits, y.limits
    u, v = np.meshgrid(np.linspace(-0.05, 1.05, 60), np.linspace(-0.05, 1.05, 60))
    distance = (u[..., None] - (xs[known] - x0) / (x1 - x0)) ** 2 + (v[..., None] - (ys[known] - y0) / (y1 - y0)) ** 2
    weight = np.exp(-distance / (2 * (1 / 7) ** 2)) + 1e-12
    mean = (weight * score[known]).sum(-1) / weight.sum(-1)
    ax.contourf(x0 + u * (x1 - x0), y0 + v * (y1 - y0), mean, levels=10, cmap=SCORE_MAP, norm=norm, alpha=0.35)


def _norm(score: pd.Series) -> Normalize:
    low, high = float(score.min()), float(score.max())
    return Normalize(low, high if high > low else low + 1e-6)


def _unit(axis: Axis, values: pd.Series) -> np.ndarray:
    low, high = axis.limits
    return (axis.place(values) - low) / (high - low)
