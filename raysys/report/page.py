"""HTML out of plain pieces. One file, nothing fetched, no script; it prints."""

import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from matplotlib.figure import Figure

from raysys.report.style import svg_uri

_TEMPLATE = Template((Path(__file__).parent / "page.html").read_text(encoding="utf-8"))


@dataclass(frozen=True, slots=True)
class Section:
    """A titled part of a chapter; blocks are HTML."""

    title: str
    blocks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Chapter:
    """What the page says of one folder. `state` is "good", "warn" or "bad"."""

    title: str
    subtitle: str
    verdict: str
    state: str
    tiles: tuple[tuple[str, str, str], ...]
    sections: tuple[Section, ...]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A cell of a table: a number with the interval it lies in, which stands below; NaN bounds are left out."""

    value: float
    low: float
    high: float
    best: bool = False


def render(title: str, subtitle: str, chapters: Sequence[Chapter], appendix: Sequence[Section]) -> str:
    """Returns the whole page."""
    names = [slug(chapter.title, i) for i, chapter in enumerate(chapters)]
    body = "".join(_chapter(chapter, name, len(chapters) > 1) for chapter, name in zip(chapters, names, strict=True))
    body += "".join(_section(section, slug(section.title, "end")) for section in appendix)
    links = [
        (name, chapter.title, [(slug(s.title, name), s.title) for s in chapter.sections])
        for name, chapter in zip(names, chapters, strict=True)
    ]
    rows = [
        f'<li><a href="#{name}">{text(chapter)}</a>: '
        + " · ".join(f'<a href="#{a}">{text(t)}</a>' for a, t in parts)
        + "</li>"
        for name, chapter, parts in links
    ]
    rows += [f'<li><a href="#{slug(s.title, "end")}">{text(s.title)}</a></li>' for s in appendix]
    return _TEMPLATE.substitute(title=text(title), subtitle=text(subtitle), contents="".join(rows), body=body)


def figure(drawn: Figure | None, caption: str, missing: str) -> str:
    """Returns a figure with its caption (plain text), or the note `missing` where there is nothing to draw."""
    if drawn is None:
        return note(missing)
    image = f'<img src="{svg_uri(drawn)}" alt="{text(caption)}">'
    return f"<figure>{image}<figcaption>{text(caption)}</figcaption></figure>"


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "", strong: int | None = None) -> str:
    """Returns a table; numbers are aligned right and shown with their leading digits.

    Args:
        columns: headings.
        rows: cells.
        caption: plain text.
        strong: number of the row to emphasise.
    """
    head = "".join(f"<th>{_breakable(c)}</th>" for c in columns)
    body = ""
    for i, row in enumerate(rows):
        cells = "".join(_cell(c) for c in row)
        body += f'<tr class="strong">{cells}</tr>' if i == strong else f"<tr>{cells}</tr>"
    caption = f"<caption>{text(caption)}</caption>" if caption else ""
    return f'<div class="wide"><table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def folded(words: str, blocks: Sequence[str]) -> str:
    """Returns blocks that a click on `words` (plain text) opens."""
    return f"<details><summary>{text(words)}</summary>{''.join(blocks)}</details>"


def pairs(items: dict[str, Any]) -> str:
    """Returns a list of names and values."""
    rows = "".join(
        f"<dt>{text(k)}</dt><dd>{number(v) if _is_number(v) else _breakable(v)}</dd>" for k, v in items.items()
    )
    return f"<dl>{rows}</dl>"


def paragraph(words: str) -> str:
    """Returns a paragraph of plain text."""
    return f"<p>{text(words)}</p>"


def note(words: str) -> str:
    """Returns one quiet line: what is missing, or how to take what is shown."""
    return f'<p class="note">{text(words)}</p>'


def text(value: Any) -> str:
    """Returns a value as escaped text."""
    return html.escape(str(value))


def number(value: Any, digits: int = 4) -> str:
    """Returns a number for reading: thousands grouped, `digits` leading digits, "n/a" for NaN and infinity."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    value = float(value)
    if not math.isfinite(value):
        return "n/a"
    if value == round(value) and abs(value) < 1e15:
        return f"{value:,.0f}"
    if 1e-3 <= abs(value) < 1e5:
        places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        return f"{value:,.{places}f}"
    return f"{value:.{digits}g}"


def duration(seconds: float) -> str:
    """Returns a time in the unit that suits it, "n/a" where it is not known."""
    if not seconds > 0:
        return "n/a"
    size, unit = next((size, unit) for size, unit in ((3600, "h"), (60, "min"), (1, "s"), (0, "s")) if seconds >= size)
    return f"{seconds / max(1, size):.1f} {unit}"


def slug(title: str, prefix: Any) -> str:
    """Returns an anchor."""
    return f"{prefix}-" + re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _chapter(chapter: Chapter, name: str, headed: bool) -> str:
    heading = f"<h2>{text(chapter.title)}</h2>" if headed else ""
    tiles = "".join(
        f'<div class="tile"><span>{text(label)}</span><b>{text(value)}</b><span>{text(below)}</span></div>'
        for label, value, below in chapter.tiles
    )
    return (
        f'<article id="{name}">{heading}<p class="path">{text(chapter.subtitle)}</p>'
        f'<p class="verdict {chapter.state}">{text(chapter.verdict)}</p><div class="tiles">{tiles}</div>'
        + "".join(_section(section, slug(section.title, name)) for section in chapter.sections)
        + "</article>"
    )


def _section(section: Section, anchor: str) -> str:
    return f'<section id="{anchor}"><h3>{text(section.title)}</h3>{"".join(section.blocks)}</section>'


def _cell(value: Any) -> str:
    if isinstance(value, Estimate):
        shown = _three(value.value)
        shown = f"<b>{shown}</b>" if value.best else shown
        known = math.isfinite(value.low) and math.isfinite(value.high)
        below = f"<small>{_three(value.low)}&ndash;{_three(value.high)}</small>" if known else ""
        return f'<td class="number estimate">{shown}{below}</td>'
    return f'<td class="number">{number(value)}</td>' if _is_number(value) else f"<td>{_breakable(value)}</td>"


def _three(value: float) -> str:
    """A number with three places, as scores between 0 and 1 compare."""
    return f"{value:.3f}" if abs(value) < 10 else number(value, 3)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or hasattr(value, "dtype")


def _breakable(value: Any) -> str:
    """Text in which a line may break after the dots and slashes of keys."""
    return re.sub(r"([./_])(?=[A-Za-z])", r"\1<wbr>", text(value))
