"""Figures of one run: numbers in, Figure out; None where the numbers are not there. Steps are optimiser steps."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, PercentFormatter

from raysys.report.style import BLUE, GREEN, GREY, ORANGE, RED, SERIES, panels, reference_line


def loss_figure(metrics: pd.DataFrame, chance: float, diversity_lambda: float) -> Figure | None:
    """Returns the contrastive loss beside chance, and the parts of the total loss.

    Args:
        metrics: of the run, indexed by step.
        chance: log(K + 1) in nats.
        diversity_lambda: weight of the diversity loss.
    """
    if not {"train/contrastive", "val/contrastive"} & set(metrics):
        return None
    figure, (left, right) = panels(1, 2, 3.0, gridspec_kw={"width_ratios": [3, 2]})
    noisy_line(left, metrics, "train/contrastive", "training", GREY)
    line(left, metrics, "val/contrastive", "validation", BLUE, marker="o")
    reference_line(left, chance, f"chance: log(K + 1) = {chance:.2f} nats", RED)
    finish(left, "Contrastive loss", "nats")
    left.margins(y=0.12)
    noisy_line(right, metrics, "train/loss", "total", GREY)
    noisy_line(right, metrics, "train/contrastive", "contrastive", BLUE)
    if "train/diversity" in metrics:
        weighted = metrics.assign(weighted=metrics["train/diversity"] * diversity_lambda)
        noisy_line(right, weighted, "weighted", f"{diversity_lambda:g} x diversity", ORANGE)
    finish(right, "Parts of the training loss", "")
    right.set_ylim(bottom=0)
    return figure


def codebook_figure(metrics: pd.DataFrame, num_groups: int, num_codes: int, limit: float) -> Figure | None:
    """Returns the perplexity of every code group beside its maximum and the limit of a collapse, and the used fraction.

    Args:
        metrics: of the run, indexed by step.
        num_groups: of codes.
        num_codes: of each group.
        limit: fraction of the codes below which a perplexity is that of a collapsed codebook.
    """
    hard = [f"codebook/hard_perplexity_{g}" for g in range(num_groups)]
    soft = [f"codebook/perplexity_{g}" for g in range(num_groups)]
    if not {*hard, *soft, "codebook/used_fraction"} & set(metrics):
        return None
    figure, (left, right) = panels(1, 2, 2.8, gridspec_kw={"width_ratios": [3, 2]})
    for g in range(num_groups):
        line(left, metrics, soft[g], None, SERIES[g], alpha=0.35, linewidth=1.1)
        line(left, metrics, hard[g], f"group {g}", SERIES[g], marker="o")
    reference_line(left, num_codes, f"maximum: all {num_codes} codes equally often")
    reference_line(left, limit * num_codes, f"{limit:.0%}: collapse", RED)
    finish(left, "Perplexity (points: validation; pale: training)", "codes")
    left.set_ylim(0, num_codes * 1.12)
    line(right, metrics, "codebook/batch_used_fraction", "one training batch", GREY)
    line(right, metrics, "codebook/used_fraction", "validation set", BLUE, marker="o")
    finish(right, "Codes used at least once", "of all codes")
    right.set_ylim(0, 1.05)
    right.yaxis.set_major_formatter(PercentFormatter(1.0))
    return figure


def probe_figure(metrics: pd.DataFrame, untrained: dict[str, float], chance: float) -> Figure | None:
    """Returns the probe's average precision beside the untrained model's, and the tie-aware accuracy beside chance."""
    if not {"probe/macro_ap", "probe/p_ap", "probe/s_ap", "val/top1_tie"} & set(metrics):
        return None
    figure, (left, right) = panels(1, 2, 2.8, gridspec_kw={"width_ratios": [3, 2]})
    line(left, metrics, "probe/p_ap", "P frames", BLUE, marker="o", alpha=0.55, linewidth=1.2)
    line(left, metrics, "probe/s_ap", "S frames", ORANGE, marker="o", alpha=0.55, linewidth=1.2)
    line(left, metrics, "probe/macro_ap", "mean of both", "#22303c", marker="o")
    if "probe/macro_ap" in untrained:
        reference_line(left, untrained["probe/macro_ap"], "mean before training", RED)
    finish(left, "Linear probe: average precision", "average precision")
    left.set_ylim(bottom=0)
    line(right, metrics, "val/top1_tie", "validation", GREEN, marker="o")
    before = f", before training {untrained['val/top1_tie']:.3f}" if "val/top1_tie" in untrained else ""
    reference_line(right, chance, f"chance {chance:.3f}{before}", RED)
    finish(right, "Tie-aware top-1 accuracy (100 negatives)", "fraction of frames")
    right.set_ylim(bottom=0)
    return figure


def speed_figure(metrics: pd.DataFrame) -> Figure | None:
    """Returns learning rate, gradient norm, throughput and the time spent waiting for data."""
    wanted = {"optim/lr", "train/grad_norm", "perf/windows_per_s", "perf/data_wait_fraction"}
    if not wanted & set(metrics):
        return None
    figure, axes = panels(2, 2, 2.0, sharex=True)
    two = "optim/backbone_lr" in metrics
    line(axes[0], metrics, "optim/lr", "head" if two else None, BLUE)
    line(axes[0], metrics, "optim/backbone_lr", "backbone", ORANGE)
    finish(axes[0], "Learning rate", "")
    noisy_line(axes[1], metrics, "train/grad_norm", None, BLUE)
    axes[1].set_yscale("log")
    axes[1].yaxis.set_major_formatter(LogFormatter())
    axes[1].yaxis.set_minor_formatter(LogFormatter())
    finish(axes[1], "Gradient norm before clipping", "")
    noisy_line(axes[2], metrics, "perf/windows_per_s", None, GREEN)
    finish(axes[2], "Throughput", "windows / s")
    axes[2].set_ylim(bottom=0)
    line(axes[3], metrics, "perf/data_wait_fraction", None, ORANGE)
    finish(axes[3], "Time waiting for data", "of wall time")
    axes[3].yaxis.set_major_formatter(PercentFormatter(1.0))
    axes[3].set_ylim(0, max(0.05, 1.1 * metrics.get("perf/data_wait_fraction", pd.Series([0.0])).max()))
    for ax in axes[:2]:
        ax.set_xlabel("")
    return figure


def usage_figure(usage: dict[int, np.ndarray], num_groups: int) -> Figure | None:
    """Returns how often each code is used, from the most to the least used, at the first and the last validation.

    Args:
        usage: step -> frames that took each code, (G V,).
        num_groups: G.
    """
    if not usage:
        return None
    first, last = min(usage), max(usage)
    figure, axes = panels(1, num_groups, 2.6, sharey=True)
    for g, ax in enumerate(axes):
        for step, color in {first: GREY, last: SERIES[g]}.items():
            counts = np.sort(usage[step].reshape(num_groups, -1)[g])[::-1]
            share = counts / max(1, counts.sum())
            rank = np.arange(1, len(share) + 1)
            label = f"step {step:,}: {np.count_nonzero(counts)} of {len(counts)} codes"
            if step == last:
                ax.bar(rank, share, width=1.0, color=color, alpha=0.75, label=label)
            else:
                ax.step(rank, share, where="mid", color=color, label=label)
        reference_line(ax, 1 / len(share), "perfectly even")
        ax.set(title=f"Group {g}", xlabel="code, most used first", ylabel="share of frames" if g == 0 else "")
        ax.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g}%")
        ax.legend(loc="upper right")
    return figure


def comparison_figure(runs: dict[str, pd.DataFrame], curves: dict[str, tuple[str, str]]) -> Figure | None:
    """Returns curves of several runs in one picture.

    Args:
        runs: name -> metrics.
        curves: metric -> title and unit, one panel each.
    """
    present = [name for name in curves if any(name in metrics for metrics in runs.values())]
    if not present:
        return None
    figure, axes = panels(1, len(present), 2.8)
    for ax, name in zip(axes, present, strict=True):
        for i, (run, metrics) in enumerate(runs.items()):
            line(ax, metrics, name, run, SERIES[i % len(SERIES)], marker="o")
        finish(ax, *curves[name])
    return figure


def line(ax, metrics: pd.DataFrame, column: str, label: str | None, color: str, **style) -> None:
    """Draws one metric where it has values."""
    if column not in metrics:
        return
    values = metrics[column].dropna()
    style = {"markersize": 3.5} | style
    if len(values) > 40:
        style["marker"] = ""
    ax.plot(values.index, values, color=color, label=label, **style)


def noisy_line(ax, metrics: pd.DataFrame, column: str, label: str | None, color: str) -> None:
    """Draws a per-step metric pale and its running mean (a fortieth of the run) on top."""
    if column not in metrics:
        return
    values = metrics[column].dropna()
    if len(values) < 80:
        ax.plot(values.index, values, color=color, label=label, marker="o" if len(values) == 1 else "")
        return
    ax.plot(values.index, values, color=color, alpha=0.25, linewidth=0.8)
    mean = values.rolling(max(3, len(values) // 40), center=True, min_periods=1).mean()
    ax.plot(mean.index, mean, color=color, label=label)


def finish(ax, title: str, unit: str) -> None:
    """Titles an axis of steps; a panel without a single value says so."""
    ax.set(title=title, ylabel=unit, xlabel="optimiser step")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.xaxis.set_major_formatter("{x:,.0f}")
    if not any(len(drawn.get_xdata()) for drawn in ax.get_lines() if not drawn.get_linestyle().startswith("--")):
        ax.text(0.5, 0.5, "not recorded", transform=ax.transAxes, ha="center", color=GREY)
    if ax.get_legend_handles_labels()[1]:
        ax.legend(loc="best")
