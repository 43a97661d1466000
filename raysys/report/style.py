"""How figures look, and how they get into a page."""

import base64
import io
import re

import matplotlib

matplotlib.use("Agg")

from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED, PURPLE, GREY, INK = (
    "#2b6a99",
    "#d9822b",
    "#3f8f6b",
    "#b5403f",
    "#7a5c99",
    "#8b939c",
    "#22303c",
)
SERIES = (BLUE, ORANGE, GREEN, PURPLE, RED, "#4aa3b5", "#a8862c", "#6b7f3a")
SCORE_MAP = "viridis_r"
"""Dark is good: the best trials stand out on white paper."""
STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#b9c0c7",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.linewidth": 0.8,
    "axes.prop_cycle": matplotlib.cycler(color=SERIES),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlecolor": INK,
    "figure.constrained_layout.use": True,
    "figure.dpi": 110,
    "font.size": 9,
    "grid.color": "#e6e9ec",
    "grid.linewidth": 0.7,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "raysys",
    "text.color": INK,
    "xtick.color": "#5c6670",
    "xtick.labelsize": 8.5,
    "ytick.color": "#5c6670",
    "ytick.labelsize": 8.5,
}


def styled():
    """Returns the context in which figures are made and written."""
    return matplotlib.rc_context(STYLE)


def panels(rows: int, columns: int, height: float, width: float = 10.4, **kwargs) -> tuple[Figure, list]:
    """Returns a figure and its axes in reading order; sizes in inches, `height` of one row."""
    figure = Figure(figsize=(width, height * rows))
    axes = figure.subplots(rows, columns, squeeze=False, **kwargs)
    return figure, list(axes.flat)


def svg_uri(figure: Figure) -> str:
    """Returns the figure as a data URI of an SVG; the same figure gives the same text."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None}, dpi=150)
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", stream.getvalue(), flags=re.DOTALL)
    text = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), text)  # a hundredth of a point
    return "data:image/svg+xml;base64," + base64.b64encode(text.encode()).decode()


def reference_line(ax, y: float, text: str, color: str = GREY) -> None:
    """Draws a dashed horizontal line with its name at its right end: curves of a training begin at such lines."""
    ax.axhline(y, color=color, linewidth=1.1, linestyle=(0, (4, 3)), zorder=1.5)
    ax.annotate(
        text,
        (0.99, y),
        xycoords=("axes fraction", "data"),
        xytext=(0, 2.5),
        textcoords="offset points",
        color=color,
        fontsize=8,
        va="bottom",
        ha="right",
        bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.5},
    )
