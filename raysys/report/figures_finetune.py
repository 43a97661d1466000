"""Figures of one fine-tuning run. Steps are optimiser steps; None where the numbers are not there."""

import pandas as pd
from matplotlib.figure import Figure

from raysys.report.figures import finish, line, noisy_line
from raysys.report.style import BLUE, GREEN, GREY, INK, ORANGE, RED, panels

_PARTS = {
    "dev/p_hit_0.5s": ("P within 0.5 s", BLUE, "-"),
    "dev/p_hit_0.1s": ("P within 0.1 s", BLUE, (0, (2, 1))),
    "dev/s_hit_0.5s": ("S within 0.5 s", RED, "-"),
    "dev/s_hit_0.1s": ("S within 0.1 s", RED, (0, (2, 1))),
    "dev/event_auc": ("event AUC", GREEN, "-"),
    "dev/accuracy": ("accuracy", ORANGE, "-"),
}


def learning_figure(metrics: pd.DataFrame, chosen: int | None) -> Figure | None:
    """Returns the loss in training and on the dev split, and dev/score with its parts.

    Args:
        metrics: of the run, indexed by step.
        chosen: step of the best checkpoint, which a line marks; None without a score.
    """
    parts = {name: look for name, look in _PARTS.items() if name in metrics and metrics[name].notna().any()}
    if not {"train/loss", "dev/loss", "dev/score", *parts} & set(metrics):
        return None
    figure, (left, right) = panels(1, 2, 3.2, gridspec_kw={"width_ratios": [1, 1]})
    noisy_line(left, metrics, "train/loss", "training", GREY)
    line(left, metrics, "dev/loss", "dev split", BLUE, marker="o")
    finish(left, "Loss", "")
    left.set_ylim(bottom=0)
    for name, (label, color, style) in parts.items():
        line(right, metrics, name, label, color, linewidth=1.1, alpha=0.75, linestyle=style)
    line(right, metrics, "dev/score", "dev/score", INK, marker="o", linewidth=2.2)
    finish(right, "Scores on the dev split", "")
    right.set_ylim(0, 1.02)
    for ax in (left, right) if chosen is not None else ():
        ax.axvline(chosen, color=ORANGE, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1.5)
    if chosen is not None:
        right.annotate(
            "chosen", (chosen, 0.02), xytext=(-3, 0), textcoords="offset points", color=ORANGE, ha="right", fontsize=8
        )
    return figure
