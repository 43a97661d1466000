"""Figures of a sweep. Scores are drawn where a trial has one; failed and unhealthy trials lie as crosses on the floor."""

import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from raysys.report.analysis import Axis, scored
from raysys.report.figures import ALARM
from raysys.report.style import BLUE, GREY, INK, ORANGE, RED, SCORE_MAP, panels

STATUS = {"TERMINATED": ("ran to the end", BLUE), "STOPPED_EARLY": ("stopped early", ORANGE), "ERROR": ("failed", RED)}
CONTOURS_FROM = 20
"""Trials from which a smooth surface is drawn behind the points."""


def history_figure(trials: pd.DataFrame, history: pd.DataFrame, objective: str, rungs: list[float]) -> Figure | None:
    """Returns each trial's objective against the windows it has seen, with the rungs at which ASHA decides."""
    if objective not in history or not {"trial", "windows"} <= set(history):
        return None
    figure, (ax,) = panels(1, 1, 3.8)
    for x in rungs:
        ax.axvline(x, color="#c9d1d8", linewidth=1.2, linestyle=(0, (2, 2)), zorder=1)
        ax.annotate(
            "rung",
            (x, 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, -9),
            textcoords="offset points",
            color=GREY,
            fontsize=8,
        )
    outcome, best = trials.set_index("trial"), next(iter(scored(trials)["trial"]), None)
    for trial, reports in history.dropna(subset=[objective]).sort_values("windows").groupby("trial"):
        if trial not in outcome.index:
            continue
        color = _color(outcome.loc[trial])
        wide = {"linewidth": 2.8, "zorder": 4} if trial == best else {"linewidth": 1.1, "alpha": 0.75}
        ax.plot(reports["windows"], reports[objective], color=color, **wide)
        ax.plot(
            reports["windows"].iloc[-1], reports[objective].iloc[-1], _marker(outcome.loc[trial]), color=color, zorder=5
        )
        if trial == best:
            end = (reports["windows"].iloc[-1], reports[objective].iloc[-1])
            ax.annotate(
                f"best: trial {trial}", end, xytext=(-4, 7), textcoords="offset points", ha="right", fontweight="bold"
            )
    ax.set(xlabel="windows seen", ylabel=objective)
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.legend(handles=_legend(trials), loc="lower right")
    return figure


def slice_figure(trials: pd.DataFrame, axes_: list[Axis], objective: str, base: dict) -> Figure | None:
    """Returns the objective against each tuned value; a triangle marks the value of the base configuration."""
    if not axes_ or scored(trials).empty:
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
    axes[0].legend(handles=_legend(trials), loc="lower left", fontsize=7.5)
    return figure


def pair_figure(trials: pd.DataFrame, axes_: list[Axis], objective: str) -> Figure | None:
    """Returns every pair of tuned values (at most five of them), points coloured by the objective.

    From `CONTOURS_FROM` trials on, the mean of the neighbouring scores (Gaussian weights, a seventh of each axis wide)
    is drawn behind them.
    """
    axes_, good = axes_[:5], scored(trials)
    if len(axes_) < 2 or good.empty:
        return None
    size = len(axes_) - 1
    figure, grid = panels(size, size, 2.6 if size > 1 else 3.6)
    norm = _norm(good["objective"])
    for row in range(size):
        for column in range(size):
            ax, x, y = grid[row * size + column], axes_[column], axes_[row + 1]
            if column > row:
                ax.remove()
                continue
            xs, ys = x.place(good[x.key]), y.place(good[y.key])
            if len(good) >= CONTOURS_FROM:
                _surface(ax, x, y, xs, ys, good["objective"].to_numpy(float), norm)
            ax.scatter(
                xs, ys, c=good["objective"], cmap=SCORE_MAP, norm=norm, s=30, edgecolor="white", linewidth=0.7, zorder=3
            )
            ax.plot(xs[0], ys[0], "o", color="none", markeredgecolor=RED, markersize=10, markeredgewidth=1.6, zorder=4)
            bad = trials[~trials["trial"].isin(good["trial"])]
            ax.plot(x.place(bad[x.key]), y.place(bad[y.key]), "x", color=RED, markersize=4.5, zorder=2)
            scale(ax, x, "x", named=row == size - 1)
            scale(ax, y, "y", named=column == 0)
    figure.colorbar(ScalarMappable(norm, SCORE_MAP), ax=grid, label=objective, shrink=0.6, aspect=30, pad=0.02)
    return figure


def parallel_figure(trials: pd.DataFrame, axes_: list[Axis], objective: str) -> Figure | None:
    """Returns one line a trial through all its tuned values to its objective, the best in the strongest colours."""
    good = scored(trials)
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
    for i, axis in enumerate(axes_):
        ax.axvline(i, color="#b9c0c7", linewidth=1)
        low, high = axis.limits
        for place, label in zip(*axis.ticks(), strict=True):
            ax.text(
                i - 0.015, (place - low) / (high - low), label, ha="right", va="center", fontsize=8, color="#5c6670"
            )
    last = len(axes_)
    ax.axvline(last, color="#b9c0c7", linewidth=1)
    for value in np.linspace(norm.vmin, norm.vmax, 5):
        ax.text(last + 0.015, norm(value), f"{value:.3f}", va="center", fontsize=8, color="#5c6670")
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
    ax.xaxis.set_major_formatter(PercentFormatter(1.0))
    ax.grid(axis="y", visible=False)
    return figure


def health_figure(trials: pd.DataFrame, num_codes: int, gate: float, objective: str) -> Figure | None:
    """Returns perplexity and used fraction of each trial's codebook against its objective, with the gate.

    Args:
        trials: of the sweep.
        num_codes: G V, codes of all groups together.
        gate: smallest healthy perplexity as a fraction of `num_codes`.
        objective: name of the objective's column.
    """
    columns = [c for c in ("codebook/hard_perplexity", "codebook/used_fraction") if c in trials]
    if not columns or objective not in trials:
        return None
    figure, axes = panels(1, len(columns), 2.9, sharey=True)
    for ax, column in zip(axes, columns, strict=True):
        whole = num_codes if column.endswith("perplexity") else 1.0
        for healthy, part in trials.groupby("healthy"):
            color, marker = (BLUE, "o") if healthy else (RED, "X")
            ax.plot(
                part[column] / whole,
                part[objective],
                marker,
                color=color,
                alpha=0.8,
                label="healthy" if healthy else "failed",
            )
        limit = gate if column.endswith("perplexity") else ALARM
        ax.axvspan(0, limit, color=RED, alpha=0.07, linewidth=0)
        ax.set(title="Perplexity" if whole > 1 else "Codes used at least once", xlim=(0, 1.03))
        ax.set_xlabel(f"of all {num_codes} codes")
        ax.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes[0].set_ylabel(objective)
    axes[0].legend(loc="lower right")
    return figure


def agreement_figure(trials: pd.DataFrame, objective: str, others: dict[str, str]) -> Figure | None:
    """Returns other scores against the objective, one panel each; `others` maps column -> panel title."""
    others = {column: title for column, title in others.items() if column in trials}
    if not others or objective not in trials:
        return None
    figure, axes = panels(1, len(others), 2.9, sharey=True)
    for ax, (column, title) in zip(axes, others.items(), strict=True):
        for _, trial in trials.iterrows():
            ax.plot(trial[column], trial[objective], _marker(trial), color=_color(trial), alpha=0.85)
        ax.set(title=title, xlabel=column)
    axes[0].set_ylabel(objective)
    axes[-1].legend(handles=_legend(trials), loc="best")
    return figure


def compute_figure(trials: pd.DataFrame) -> Figure | None:
    """Returns what each trial used of its budget, in the order of the trials."""
    known = trials.dropna(subset=["windows", "budget_windows"])
    if known.empty or not known["budget_windows"].max() > 0:
        return None
    figure, (ax,) = panels(1, 1, 2.0)
    used = known["windows"] / known["budget_windows"]
    ax.bar(range(len(known)), 1.0, color="#eef1f4", width=0.8)
    ax.bar(range(len(known)), used, color=[_color(row) for _, row in known.iterrows()], width=0.8)
    few = len(known) <= 32
    ax.set_xticks(
        range(len(known)) if few else [],
        known["trial"] if few else [],
        rotation=90 if known["trial"].str.len().max() > 3 else 0,
    )
    ax.set(xlabel="trial", ylabel="of its budget", ylim=(0, 1.02), xlim=(-0.6, len(known) - 0.4))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.grid(axis="x", visible=False)
    return figure


def draw_trials(ax, x: np.ndarray, trials: pd.DataFrame) -> None:
    """Draws trials at `x` against their objective; those without a score as crosses on the floor of the axis."""
    good = trials["trial"].isin(scored(trials)["trial"]).to_numpy()
    for i in np.flatnonzero(good):
        row = trials.iloc[i]
        ax.plot(x[i], row["objective"], "o", color=_color(row), markersize=5.5, alpha=0.8, markeredgewidth=0)
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


def _color(trial) -> str:
    return RED if not trial["healthy"] else STATUS.get(trial["status"], ("", GREY))[1]


def _marker(trial) -> str:
    return "X" if not trial["healthy"] or trial["status"] == "ERROR" else "o"


def _legend(trials: pd.DataFrame) -> list[Line2D]:
    present = set(trials.loc[trials["healthy"], "status"])
    handles = [
        Line2D([], [], color=color, marker="X" if status == "ERROR" else "o", linestyle="", label=label)
        for status, (label, color) in STATUS.items()
        if status in present
    ]
    if not trials["healthy"].all():
        handles.append(Line2D([], [], color=RED, marker="x", linestyle="", label="failed, or failed the health gate"))
    return handles
