"""Windows of an evaluation above the probabilities that every model gives them."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from raysys.data.windows import RATE_HZ
from raysys.report.evaluations import WAVES, Examples
from raysys.report.seismograms import WAVE_COLORS, draw_components, draw_onset

_STRIP, _GAP = 0.42, 0.5
"""Heights in inches of a model's strip and of what lies between two windows."""
_SEISMOGRAM, _TITLE = 1.55, 0.2


def example_figure(examples: Examples, models: Sequence[str], rows: Sequence[int]) -> Figure | None:
    """Returns some windows, two beside each other: three components with the labelled onsets, and a strip for each model.

    Args:
        examples: the windows.
        models: in the order of their strips; those without probabilities are left out.
        rows: numbers of the windows.
    """
    models = [name for name in models if name in examples.probability]
    if not len(rows):
        return None
    lines = -(-len(rows) // 2)
    heights = [_SEISMOGRAM, *[_STRIP] * len(models), _GAP]
    height = sum(heights) * lines + _TITLE
    figure = Figure(figsize=(10.4, height), layout="none")
    grid = figure.add_gridspec(
        len(heights) * lines,
        2,
        height_ratios=heights * lines,
        hspace=0.08,
        wspace=0.16,
        left=0.075,
        right=0.99,
        top=1 - _TITLE / height,
        bottom=0,
    )
    for place, i in enumerate(rows):
        first, column = len(heights) * (place // 2), place % 2
        top = figure.add_subplot(grid[first, column])
        _draw_window(top, examples, i)
        strips = [figure.add_subplot(grid[first + 1 + k, column]) for k in range(len(models))]
        for strip, name in zip(strips, models, strict=True):
            _draw_strip(strip, examples, i, name)
        (strips or [top])[-1].tick_params(bottom=True, labelbottom=True)
        (strips or [top])[-1].set_xlabel("s", labelpad=0)
    return figure


def _draw_window(ax, examples: Examples, i: int) -> None:
    draw_components(ax, examples.waveform[i].astype(float), int(examples.num_valid[i]))
    for wave, sample in _onsets(examples, i):
        draw_onset(ax, sample, wave, WAVE_COLORS[wave], named=True)
    ax.set_title(f"{i + 1}. {examples.dataset[i]}", fontsize=9, pad=3)
    ax.set_title(_short(str(examples.trace[i])), fontsize=7, loc="right", pad=3, fontweight="normal", color="#5c6670")


def _draw_strip(ax, examples: Examples, i: int, model: str) -> None:
    probability, valid = examples.probability[model][i].astype(float), int(examples.num_valid[i])
    time = np.arange(valid) / RATE_HZ
    for k, wave in enumerate(WAVES):
        ax.plot(time, probability[k, :valid], color=WAVE_COLORS[wave], linewidth=0.9)
    for wave, sample in _onsets(examples, i):
        ax.axvline(sample / RATE_HZ, color=WAVE_COLORS[wave], linewidth=0.8, linestyle=(0, (1, 1.5)), alpha=0.8)
    ax.set(ylim=(-0.04, 1.08), yticks=[], xlim=(0, examples.waveform.shape[-1] / RATE_HZ))
    ax.text(0.004, 0.94, model, transform=ax.transAxes, ha="left", va="top", fontsize=6.8, color="#5c6670")
    ax.grid(False)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(bottom=False, labelbottom=False, labelsize=7)


def _onsets(examples: Examples, i: int) -> list[tuple[str, float]]:
    of = {"P": examples.p[i], "S": examples.s[i]}
    return [(wave, float(sample)) for wave in WAVES for sample in np.atleast_1d(of[wave]) if not np.isnan(sample)]


def _short(name: str, most: int = 44) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
