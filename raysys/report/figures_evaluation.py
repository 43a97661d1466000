"""Figures of an evaluation: numbers in, Figure out; None where the numbers are not there."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator, PercentFormatter

from raysys.report.evaluations import ALL, HEADLINES, HITS, Evaluation
from raysys.report.style import GREY, INK, RED, SERIES, panels, reference_line

COMPARED = (*HITS[:2], "test_event_auc", *HITS[2:], "test_phase_mcc")
"""Metrics in figures of many models, in the order of their panels."""
_BESIDE = 14
"""Columns of matrices that have room beside each other."""


def ranking_figure(evaluation: Evaluation, models: Sequence[str]) -> Figure | None:
    """Returns hit rates, F1 and AUC of some models as points with their intervals, the first model on top."""
    tables = {metric: evaluation.of(metric).reindex(models) for metric in COMPARED}
    tables = {metric: rows for metric, rows in tables.items() if rows["value"].notna().any()}
    if not tables:
        return None
    columns = min(3, len(tables))
    rows = -(-len(tables) // columns)
    figure, axes = panels(rows, columns, 0.75 + 0.24 * len(models), sharey=True)
    for ax, (metric, table) in zip(axes, tables.items(), strict=False):
        draw_intervals(ax, table, [color_of(evaluation.starts(), evaluation.kind(name)[0]) for name in models])
        ax.set(title=HEADLINES[metric])
        ax.set_yticks(range(len(models)), models)
        ax.set_ylim(len(models) - 0.4, -0.6)
    for ax in axes[len(tables) :]:
        ax.remove()
    return figure


def draw_intervals(ax, table: pd.DataFrame, colors: Sequence[str]) -> None:
    """Draws one point with its interval a row of value, low and high, the first row on top."""
    for y, ((_, row), color) in enumerate(zip(table.iterrows(), colors, strict=True)):
        ax.plot([row["low"], row["high"]], [y, y], color=color, linewidth=2.2, alpha=0.55)
        ax.plot(row["value"], y, "o", color=color, markersize=5.5)
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)


def matrix_figure(evaluation: Evaluation, models: Sequence[str], metrics: Sequence[str]) -> Figure | None:
    """Returns metrics of every model (rows) on every data set (columns), framed where the model was trained on it."""
    columns = [*evaluation.datasets(), ALL]
    tables = {
        metric: pd.DataFrame({name: evaluation.of(metric, name)["value"].reindex(models) for name in columns})
        for metric in metrics
    }
    tables = {
        metric: table.dropna(axis=1, how="all") for metric, table in tables.items() if table.notna().any(axis=None)
    }
    if not tables:
        return None
    beside = len(tables) if len(columns) * len(tables) <= _BESIDE else 1
    figure, axes = panels(-(-len(tables) // beside), beside, 1.1 + 0.27 * len(models), sharey=True)
    for ax, (metric, table) in zip(axes, tables.items(), strict=True):
        _draw_matrix(ax, evaluation, metric, table)
    return figure


def _draw_matrix(ax, evaluation: Evaluation, metric: str, table: pd.DataFrame) -> None:
    low, high = table.min(axis=None), table.max(axis=None)
    ax.imshow(table, cmap="Blues", vmin=low - 0.1 * (high - low), vmax=high + 0.7 * (high - low) + 1e-9, aspect="auto")
    for row, (model, values) in enumerate(table.iterrows()):
        home = {_plain(name) for name in evaluation.models[model].get("trained_on") or ()}
        for column, (name, value) in enumerate(values.items()):
            ax.text(
                column, row, f"{value:.2f}" if math.isfinite(value) else "-", ha="center", va="center", fontsize=8.5
            )
            if _plain(name) in home:
                frame = {"fill": False, "edgecolor": INK, "linewidth": 1.0}
                ax.add_patch(Rectangle((column - 0.47, row - 0.43), 0.94, 0.86, **frame))
    counts = [evaluation.of(metric, name)["count"].max() for name in table]
    labels = [_wrapped(n) + (f"\n{c:,.0f}" if math.isfinite(c) else "") for n, c in zip(table, counts, strict=True)]
    ax.set_xticks(range(len(labels)), labels, fontsize=7.5)
    ax.set_yticks(range(len(table)), table.index)
    ax.axvline(len(labels) - 1.5, color="white", linewidth=4)
    ax.set_title(HEADLINES[metric])
    ax.grid(False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def efficiency_figure(evaluation: Evaluation, metrics: Sequence[str] = HITS) -> Figure | None:
    """Returns metrics against the share of the labels: a line for each way to begin, points for seeds, a band for intervals.

    Models that were not fine-tuned here are dashed lines.
    """
    models = evaluation.named("pick")
    kinds = {name: evaluation.kind(name) for name in models}
    if len({fraction for _, fraction in kinds.values() if math.isfinite(fraction)}) < 2:
        return None
    inits = [init for init in evaluation.starts() if any(k[0] == init and math.isfinite(k[1]) for k in kinds.values())]
    metrics = [metric for metric in metrics if len(evaluation.of(metric))]
    if not metrics:
        return None
    columns = min(2, len(metrics))
    figure, axes = panels(-(-len(metrics) // columns), columns, 2.9, sharex=True)
    for ax, metric in zip(axes, metrics, strict=False):
        rows = evaluation.of(metric)
        rows = rows[rows.index.isin(models)].assign(init=lambda r: [kinds[m][0] for m in r.index])
        rows["fraction"] = [kinds[m][1] for m in rows.index]
        for init in inits:
            mine = rows[(rows["init"] == init) & rows["fraction"].notna()]
            _efficiency_line(ax, mine, init, color_of(evaluation.starts(), init))
        for name, row in rows[rows["fraction"].isna()].iterrows():
            reference_line(ax, row["value"], f"{name}, as published")
        ax.set(title=HEADLINES[metric], xscale="log")
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:g} %"))
        ax.set_xticks(sorted(rows["fraction"].dropna().unique()))
        ax.xaxis.set_minor_locator(NullLocator())
    for ax in axes[-columns:]:
        ax.set_xlabel("share of the labelled training traces")
    axes[0].legend(loc="lower right", title="began with")
    return figure


def _efficiency_line(ax, rows: pd.DataFrame, init: str, color: str) -> None:
    if rows.empty:
        return
    mean = rows.groupby("fraction")[["value", "low", "high"]].mean()
    ax.fill_between(mean.index, mean["low"], mean["high"], color=color, alpha=0.14, linewidth=0)
    ax.plot(mean.index, mean["value"], color=color, label=init)
    ax.plot(rows["fraction"], rows["value"], "o", color=color, markersize=4, alpha=0.8)


def residual_figure(evaluation: Evaluation, models: Sequence[str]) -> Figure | None:
    """Returns how the residuals of P and S picks are distributed, one line a model."""
    told = {name: (evaluation.models[name].get("residuals") or {}).get(ALL) or {} for name in models}
    told = {name: of for name, of in told.items() if any(np.sum(one.get("counts", ())) > 0 for one in of.values())}
    if not told:
        return None
    figure, axes = panels(1, 2, 2.9)
    for ax, wave in zip(axes, "PS", strict=True):
        for name, of in told.items():
            counts, edges = np.asarray(of.get(wave, {}).get("counts", ()), float), of.get(wave, {}).get("edges", ())
            if counts.sum() > 0:
                ax.stairs(counts / counts.sum(), edges, color=color_of(models, name), label=name, linewidth=1.4)
        ax.axvline(0, color=GREY, linewidth=0.9, zorder=1)
        ax.set(title=f"{wave} picks", xlabel="pick minus label (s)")
        ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes[0].set_ylabel("of the picks, a bin")
    axes[-1].legend(loc="upper right")
    return figure


def reliability_figure(evaluation: Evaluation, models: Sequence[str]) -> Figure | None:
    """Returns the share of right picks against their probability, as the networks give it and after the temperature."""
    told = {name: (evaluation.models[name].get("reliability") or {}).get(ALL) or {} for name in models}
    told = {name: of for name, of in told.items() if of.get("before")}
    if not told:
        return None
    figure, axes = panels(1, 2, 3.6, sharey=True, width=9.0)
    for ax, when, title in zip(axes, ("before", "after"), ("As it is", "With the temperature"), strict=True):
        ax.plot([0, 1], [0, 1], color=GREY, linewidth=1.1, linestyle=(0, (4, 3)))
        for name, of in told.items():
            if one := of.get(when):
                _reliability_line(ax, one, name, color_of(models, name))
        ax.set(title=title, xlabel="probability of the pick", xlim=(0, 1), ylim=(0, 1.02))
    axes[0].set_ylabel("share that is right within 0.5 s")
    axes[0].legend(loc="upper left")
    return figure


def _reliability_line(ax, one: dict, name: str, color: str) -> None:
    confidence, right, count = (np.array(one.get(key, ()), float) for key in ("confidence", "accuracy", "counts"))
    filled = np.isfinite(confidence) & np.isfinite(right) & (count > 0)
    ax.plot(confidence[filled], right[filled], color=color, label=name, linewidth=1.2)
    size = 6 + 60 * count[filled] / max(1.0, count.sum())
    ax.scatter(confidence[filled], right[filled], size, color=color)


def difference_figure(pairs: pd.DataFrame) -> Figure | None:
    """Returns differences of models with their intervals, one panel a metric and one row a pair, beside a line at 0."""
    pairs = pairs.dropna(subset=["value"]).assign(pair=lambda p: p["a"] + " - " + p["b"])
    metrics = [metric for metric in COMPARED if (pairs["metric"] == metric).any()]
    if not metrics:
        return None
    names = list(dict.fromkeys(pairs["pair"]))
    columns = min(3, len(metrics))
    figure, axes = panels(-(-len(metrics) // columns), columns, 0.75 + 0.24 * len(names), sharey=True)
    for ax, metric in zip(axes, metrics, strict=False):
        table = pairs[pairs["metric"] == metric].drop_duplicates("pair").set_index("pair").reindex(names)
        sure = (table["low"] > 0) | (table["high"] < 0)
        draw_intervals(ax, table[["value", "low", "high"]], [SERIES[0] if one else GREY for one in sure])
        ax.axvline(0, color=RED, linewidth=1.1, linestyle=(0, (4, 3)), zorder=1.5)
        ax.set(title=HEADLINES[metric], ylim=(len(names) - 0.4, -0.6))
        ax.set_yticks(range(len(names)), names)
    for ax in axes[len(metrics) :]:
        ax.remove()
    return figure


def color_of(names: Sequence[str], name: str) -> str:
    """Returns the colour of one of several models or starts, the same in all figures that show these."""
    return SERIES[list(names).index(name) % len(SERIES)]


def _plain(name: str) -> str:
    return "".join(c for c in str(name).lower() if c.isalnum())


def _wrapped(name: str) -> str:
    """A name in lines short enough to stand beside its neighbours."""
    lines = [""]
    for part in str(name).replace("_", "_ ").split(" "):
        lines = [*lines[:-1], lines[-1] + part] if len(lines[-1] + part) <= 11 else [*lines, part]
    return "\n".join(lines)
