"""Figures of the trials of a sweep: how they went, what they cost, how healthy they are."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from raysys.report.style import BLUE, GREY, ORANGE, RED, panels
from raysys.tune.ranking import ranked

STATUS = {"TERMINATED": ("ran to the end", BLUE), "STOPPED_EARLY": ("stopped early", ORANGE), "ERROR": ("failed", RED)}


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
    outcome, best = trials.set_index("trial"), next(iter(ranked(trials)["trial"]), None)
    for trial, reports in history.dropna(subset=[objective]).sort_values("windows").groupby("trial"):
        if trial not in outcome.index:
            continue
        color = color_of(outcome.loc[trial])
        wide = {"linewidth": 2.8, "zorder": 4} if trial == best else {"linewidth": 1.1, "alpha": 0.75}
        ax.plot(reports["windows"], reports[objective], color=color, **wide)
        ax.plot(
            reports["windows"].iloc[-1],
            reports[objective].iloc[-1],
            marker_of(outcome.loc[trial]),
            color=color,
            zorder=5,
        )
        if trial == best:
            end = (reports["windows"].iloc[-1], reports[objective].iloc[-1])
            ax.annotate(
                f"best: trial {trial}", end, xytext=(-4, 7), textcoords="offset points", ha="right", fontweight="bold"
            )
    ax.set(xlabel="windows seen", ylabel=objective)
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.legend(handles=legend_of(trials), loc="lower right")
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
                label="healthy" if healthy else "failed the gate",
            )
        if column.endswith("perplexity"):
            ax.axvspan(0, gate, color=RED, alpha=0.07, linewidth=0)
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
            ax.plot(trial[column], trial[objective], marker_of(trial), color=color_of(trial), alpha=0.85)
        ax.set(title=title, xlabel=column)
    axes[0].set_ylabel(objective)
    axes[-1].legend(handles=legend_of(trials), loc="best")
    return figure


def compute_figure(trials: pd.DataFrame) -> Figure | None:
    """Returns what each trial used of its budget, in the order of the trials."""
    known = trials.dropna(subset=["windows", "budget_windows"])
    if known.empty or not known["budget_windows"].max() > 0:
        return None
    figure, (ax,) = panels(1, 1, 2.0)
    used = known["windows"] / known["budget_windows"]
    ax.bar(range(len(known)), 1.0, color="#eef1f4", width=0.8)
    ax.bar(range(len(known)), used, color=[color_of(row) for _, row in known.iterrows()], width=0.8)
    few = len(known) <= 32
    ax.set_xticks(
        range(len(known)) if few else [],
        known["trial"].str.split("_").str[-1] if few else [],
        rotation=90 if known["trial"].str.len().max() > 3 else 0,
    )
    ax.set(xlabel="trial", ylabel="of its budget", ylim=(0, 1.02), xlim=(-0.6, len(known) - 0.4))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.grid(axis="x", visible=False)
    return figure


def color_of(trial) -> str:
    """Returns the colour of a trial's outcome."""
    return RED if not trial["healthy"] else STATUS.get(trial["status"], ("", GREY))[1]


def marker_of(trial) -> str:
    """Returns a cross for a trial without a valid score, else a point."""
    return "X" if not trial["healthy"] or trial["status"] == "ERROR" else "o"


def legend_of(trials: pd.DataFrame) -> list[Line2D]:
    """Returns the outcomes that occur, as handles of a legend."""
    bad = ~trials["healthy"] | (trials["status"] == "ERROR")
    present = set(trials.loc[~bad, "status"])
    handles = [
        Line2D([], [], color=color, marker="o", linestyle="", label=label)
        for status, (label, color) in STATUS.items()
        if status in present
    ]
    if bad.any():
        label = "failed, or failed the health gate"
        handles.append(Line2D([], [], color=RED, marker="X", linestyle="", label=label))
    return handles
