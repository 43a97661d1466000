"""Seismograms above the codes that a trained model gives them."""

from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure

from model.hub import from_pretrained
from raysys.config import RunConfig
from raysys.data.fixed_windows import FixedWindows
from raysys.data.windows import RATE_HZ
from raysys.report.collect import Run
from raysys.report.style import BLUE, INK, RED
from raysys.train.data import prepare_training_data

WAVE_COLORS = {"P": BLUE, "S": RED}
_GOLDEN = 0.618034


@dataclass(frozen=True, kw_only=True, slots=True)
class CodedWindows:
    """n windows of T samples with the codes of their S frames in G groups.

    Attributes:
        waveform: (n, 3, T) Z, N, E in any unit.
        num_valid: (n,) samples before the padding.
        p_sample: (n,) P onset in samples of the window, NaN where there is none.
        s_sample: (n,) S onset.
        names: what each window is called.
        codes: (n, S, G).
        first_center: the sample that the first frame is centred on.
        fingerprint: of the data they come from.
    """

    waveform: np.ndarray
    num_valid: np.ndarray
    p_sample: np.ndarray
    s_sample: np.ndarray
    names: tuple[str, ...]
    codes: np.ndarray
    first_center: float
    fingerprint: str


def coded_windows(run: Run, count: int = 4) -> CodedWindows:
    """Returns some of the run's own validation windows with the codes of its newest checkpoint.

    Raises:
        ValueError, OSError: the configuration, the checkpoint or the data cannot be read; the message says which.
    """
    if run.checkpoint is None:
        raise ValueError("the run has no checkpoint")
    config = RunConfig.from_dict(run.config)
    with run.checkpoint.on_disk() as folder:
        model = from_pretrained(folder)
    # The validation windows do not depend on the probe's; one each of those saves reading them.
    small = config.override({"probe.fit_windows": 1, "probe.score_windows": 1})
    data = prepare_training_data(small)
    windows = data.get("validation")
    windows = windows.take(choose(windows, count))
    codes = model.codes(torch.from_numpy(windows.waveform), torch.from_numpy(windows.num_valid))
    return CodedWindows(
        waveform=windows.waveform,
        num_valid=windows.num_valid,
        p_sample=windows.p_sample,
        s_sample=windows.s_sample,
        names=tuple(windows.datasets[i] for i in windows.dataset),
        codes=codes.numpy(),
        first_center=config.model.encoder.frame_center(0),
        fingerprint=data.fingerprint,
    )


def choose(windows: FixedWindows, count: int) -> np.ndarray:
    """Returns the numbers of `count` windows: those with P and S first, every data set before any comes twice."""
    picks = (~np.isnan(windows.p_sample)).astype(int) + ~np.isnan(windows.s_sample)
    order = np.argsort(-picks, kind="stable")
    seen: dict[int, int] = {}
    turn = np.zeros(len(windows), int)
    for i in order:
        turn[i] = seen.get(windows.dataset[i], 0)
        seen[windows.dataset[i]] = turn[i] + 1
    return order[np.lexsort((-picks[order], turn[order]))][:count]


def seismogram_figure(windows: CodedWindows, num_codes: int) -> Figure:
    """Returns each window's three components with its picks, above one strip of colours a code group.

    Args:
        windows: the windows and their codes.
        num_codes: V; every code has one colour, the same in all windows.
    """
    n, groups = len(windows.names), windows.codes.shape[-1]
    columns = 2 if n > 1 else 1
    rows = -(-n // columns)
    figure = Figure(figsize=(10.4, (2.0 + 0.3 * groups) * rows))
    grid = figure.subplots(2 * rows, columns, squeeze=False, sharex=True, height_ratios=[2.0, 0.3 * groups] * rows)
    palette = code_colors(num_codes)
    for i in range(rows * columns):
        top, strip = grid[2 * (i // columns), i % columns], grid[2 * (i // columns) + 1, i % columns]
        if i >= n:
            top.remove()
            strip.remove()
            continue
        _draw_waveform(top, windows, i)
        samples, frames = windows.waveform.shape[-1], windows.codes.shape[1]
        begin = (windows.first_center - samples / frames / 2) / RATE_HZ
        image = palette[windows.codes[i].T]
        strip.imshow(
            image, aspect="auto", interpolation="nearest", extent=(begin, begin + samples / RATE_HZ, groups, 0)
        )
        strip.set_yticks(np.arange(groups) + 0.5, [f"group {g}" for g in range(groups)])
        strip.grid(False)
        strip.tick_params(left=False, labelbottom=True)
        strip.spines[:].set_visible(False)
        _draw_picks(strip, windows, i, named=False)
        strip.set_xlabel("s" if i >= n - columns else "")
    return figure


def code_colors(num_codes: int) -> np.ndarray:
    """Returns one RGB colour a code, (V, 3); neighbouring numbers get hues far apart."""
    code = np.arange(num_codes)
    hue, level = (code * _GOLDEN) % 1.0, code % 3
    return hsv_to_rgb(np.stack([hue, 0.45 + 0.12 * level, 0.95 - 0.13 * level], axis=-1))


def _draw_waveform(ax, windows: CodedWindows, i: int) -> None:
    draw_components(ax, windows.waveform[i], int(windows.num_valid[i]))
    _draw_picks(ax, windows, i, named=True)
    ax.set_title(windows.names[i], pad=12)


def draw_components(ax, waveform: np.ndarray, valid: int) -> None:
    """Draws the components of a window, (3, T), each at its own scale, on an axis of seconds without frame.

    Args:
        ax: to draw on.
        waveform: Z, N, E in any unit, NaN where nothing was recorded.
        valid: samples before the padding, which is not drawn.
    """
    time = np.arange(valid) / RATE_HZ
    for row, component in enumerate("ZNE"):
        trace = waveform[row, :valid].astype(float)
        there = np.isfinite(trace)
        trace = trace - trace[there].mean() if there.any() else trace
        peak = np.abs(trace[there]).max(initial=0.0)
        ax.plot(time, 0.48 * trace / (peak or 1.0) - row, color=INK, linewidth=0.5, rasterized=valid > 20_000)
        ax.text(-0.012, -row, component, transform=ax.get_yaxis_transform(), ha="right", va="center", fontsize=8.5)
    ax.set(ylim=(-2.6, 0.6), yticks=[], xlim=(0, waveform.shape[-1] / RATE_HZ))
    ax.grid(False)
    ax.tick_params(bottom=False, labelbottom=False)
    ax.spines[:].set_visible(False)


def draw_onset(ax, sample: float, wave: str, color: str, named: bool) -> None:
    """Draws a P or S onset as a vertical line; nothing where it is NaN."""
    if np.isnan(sample):
        return
    ax.axvline(sample / RATE_HZ, color=color, linewidth=1.3)
    if named:
        place = {"xycoords": ("data", "axes fraction"), "xytext": (3, -9), "textcoords": "offset points"}
        ax.annotate(wave, (sample / RATE_HZ, 1.0), color=color, fontweight="bold", **place)


def _draw_picks(ax, windows: CodedWindows, i: int, named: bool) -> None:
    for sample, wave in ((windows.p_sample[i], "P"), (windows.s_sample[i], "S")):
        draw_onset(ax, sample, wave, WAVE_COLORS[wave] if named else INK, named)
