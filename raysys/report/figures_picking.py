"""Figures of picks: tables in, Figure out; None where there is nothing to draw."""

import math

import matplotlib.dates
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from raysys.data.windows import RATE_HZ
from raysys.picking.example import Example
from raysys.report.seismograms import WAVE_COLORS, draw_components
from raysys.report.style import INK, panels

_SEISMOGRAM, _STRIP = 2.6, 1.15
"""Heights in inches of the components and of a picker's strip."""
_NAMED = 12
"""Picks of a strip whose times have room."""
_LABEL, _ROW = 0.14, 0.2
"""Width of such a label, and height of its row, in those of the strip."""
_LONG = 20_000
"""Points of a curve from which on it is drawn as an image."""


def example_figure(example: Example) -> Figure:
    """Returns three components with the picks of all pickers, above one strip a picker: its curves, and its picks with their times."""
    names = list(example.probability)
    figure = Figure(figsize=(10.4, _SEISMOGRAM + _STRIP * len(names)))
    top, *strips = figure.subplots(1 + len(names), 1, sharex=True, height_ratios=[_SEISMOGRAM] + [_STRIP] * len(names))
    draw_components(top, example.waveform, example.waveform.shape[1])
    _draw_onsets(top, example, example.picks)
    begin = pd.Timestamp(example.begin_ns)
    top.set_title(f"{example.instrument}, from {begin:%Y-%m-%d %H:%M:%S} UTC on")
    for strip, name in zip(strips, names, strict=True):
        _draw_strip(strip, example, name)
    (strips or [top])[-1].tick_params(bottom=True, labelbottom=True)
    (strips or [top])[-1].set_xlabel("s")
    return figure


def _draw_strip(ax, example: Example, name: str) -> None:
    curves = example.probability[name].astype(float)
    time = np.arange(curves.shape[1]) / RATE_HZ
    for wave, curve in zip(WAVE_COLORS, curves, strict=False):
        ax.plot(time, curve, color=WAVE_COLORS[wave], linewidth=1.1, rasterized=len(time) > _LONG)
    mine = example.picks[example.picks["model"] == name]
    _draw_onsets(ax, example, mine)
    before, phase, row = -math.inf, "", 0
    for pick in mine.itertuples() if len(mine) <= _NAMED else ():
        at, side = _seconds(example, pick.peak_time), -1 if pick.phase == "P" else 1
        away = at - before > _LABEL * time[-1] or (phase, pick.phase) == ("P", "S")
        before, phase, row = at, pick.phase, 0 if away else row + 1
        ax.annotate(
            f"{pick.phase} {pick.peak_time:%H:%M:%S}.{pick.peak_time.microsecond // 10_000:02d} ({pick.probability:.2f})",
            (at, 1.0 - _ROW * row),
            xytext=(4 * side, 0),
            textcoords="offset points",
            color=WAVE_COLORS[pick.phase],
            ha="right" if side < 0 else "left",
            va="top",
            fontsize=8,
        )
    ax.set(ylim=(-0.04, 1.08), yticks=[0, 1], xlim=(0, len(time) / RATE_HZ))
    ax.set_title(name, loc="right", fontsize=9, fontweight="normal", pad=2)
    ax.grid(False)
    ax.tick_params(bottom=False)


def _draw_onsets(ax, example: Example, picks: pd.DataFrame) -> None:
    for phase, moment in zip(picks["phase"], picks["peak_time"], strict=True):
        ax.axvline(
            _seconds(example, moment), color=WAVE_COLORS[phase], linewidth=0.9, linestyle=(0, (2, 1.5)), alpha=0.8
        )


def _seconds(example: Example, moment: pd.Timestamp) -> float:
    return (moment.value - example.begin_ns) / 1e9


def times_figure(picks: pd.DataFrame) -> Figure | None:
    """Returns picks of P and S in every hour, and by the hour of the day."""
    if picks.empty:
        return None
    figure, (left, right) = panels(1, 2, 2.7, gridspec_kw={"width_ratios": [2.4, 1]})
    hour = picks["peak_time"].dt.tz_localize(None).dt.floor("h")
    hours = pd.date_range(hour.min(), hour.max(), freq="h")
    edges = matplotlib.dates.date2num(hours.append(hours[-1:] + pd.Timedelta(hours=1)))
    for wave, color in WAVE_COLORS.items():
        mine = hour[picks["phase"] == wave]
        counts = mine.value_counts().reindex(hours, fill_value=0)
        look = {"color": color, "label": wave} | ({"fill": True, "alpha": 0.45} if wave == "P" else {"linewidth": 1.3})
        left.stairs(counts, edges, rasterized=len(hours) > _LONG, **look)
        of_day = mine.dt.hour.value_counts().reindex(range(24), fill_value=0)
        right.stairs(of_day, np.arange(25), **look)
    locator = matplotlib.dates.AutoDateLocator()
    left.xaxis.set_major_locator(locator)
    left.xaxis.set_major_formatter(matplotlib.dates.ConciseDateFormatter(locator))
    left.set(title="Picks in every hour", xlim=(edges[0], edges[-1]))
    right.set(title="By hour of the day", xlabel="hour (UTC)", xlim=(0, 24), xticks=range(0, 25, 6))
    for ax in (left, right):
        ax.set_ylim(0, 1.06 * ax.dataLim.y1)
        ax.yaxis.get_major_locator().set_params(integer=True)
    left.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.1)
    return figure


def probability_figure(picks: pd.DataFrame) -> Figure | None:
    """Returns how the probabilities of P and of S picks are distributed."""
    if picks.empty:
        return None
    figure, axes = panels(1, 2, 2.5)
    for ax, (wave, color) in zip(axes, WAVE_COLORS.items(), strict=True):
        counts, edges = np.histogram(picks["probability"][picks["phase"] == wave], bins=40, range=(0, 1))
        ax.stairs(counts, edges, fill=True, color=color, alpha=0.85)
        ax.set(title=f"{wave} picks", xlabel="probability", xlim=(0, 1))
        ax.yaxis.get_major_locator().set_params(integer=True)
    axes[0].set_ylabel("picks")
    return figure


def s_minus_p_figure(pairs: pd.DataFrame) -> Figure | None:
    """Returns how the times between P and S are distributed.

    Args:
        pairs: what `raysys.report.picked.s_after_p` returns.
    """
    if pairs.empty:
        return None
    figure, (ax,) = panels(1, 1, 2.7)
    longest = pairs["s_minus_p_s"].max()
    step = next(step for step in (0.1, 0.25, 0.5, 1.0) if longest / step <= 60 or step == 1.0)
    counts, edges = np.histogram(pairs["s_minus_p_s"], bins=np.arange(0, longest + 2 * step, step))
    ax.stairs(counts, edges, fill=True, color=INK, alpha=0.75)
    ax.set(xlabel="S minus P (s)", ylabel="pairs", xlim=(0, edges[-1]))
    ax.yaxis.get_major_locator().set_params(integer=True)
    return figure
