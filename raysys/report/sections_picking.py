"""Picks of an archive as a chapter of the report."""

import math

import pandas as pd

from raysys.report import figures_picking
from raysys.report.page import Chapter, Section, duration, figure, folded, note, number, paragraph, table
from raysys.report.picked import LONGEST_S_MINUS_P_S, Picked, counts_by_station, s_after_p

_SHOWN = 12
"""Rows of a table before the rest is folded."""
KM_A_SECOND = 8.0
"""Distance from the hypocentre for each second between P and S: 1 / (1 / vs - 1 / vp) with vp = 6 km/s and vp / vs = 1.73."""


def picking_chapter(picked: Picked) -> Chapter:
    """Returns everything the report says of picks."""
    pairs = s_after_p(picked.picks)
    state, verdict = picking_verdict(picked, pairs)
    return Chapter(
        title=f"Picks: {picked.path.name}",
        subtitle=str(picked.path),
        verdict=verdict,
        state=state,
        tiles=_tiles(picked, pairs),
        sections=(_stream(picked), _probabilities(picked), _s_minus_p(pairs), *_not_read(picked)),
    )


def picking_verdict(picked: Picked, pairs: pd.DataFrame) -> tuple[str, str]:
    """Returns "good", "warn" or "bad", and what was picked in one sentence."""
    picks, stations = picked.picks, picked.days["station"].nunique()
    hours = picked.days["hours"].sum()
    where = f"in {duration(3600 * hours)} of records of {_counted(stations, 'station')}"
    if picks.empty and not hours > 0:
        return "bad", "Nothing was read, so nothing was picked: the end of this chapter says why."
    if picks.empty:
        return "warn", f"There are no picks {where}."
    p, s = ((picks["phase"] == wave).sum() for wave in "PS")
    by = " and ".join(sorted(picks["model"].unique()))
    follow = _counted(len(pairs), "S follows", "S follow")
    said = f"{number(p)} P and {number(s)} S by {by} {where}; {follow} a P within {LONGEST_S_MINUS_P_S:g} s"
    if p == 0 or s == 0:
        return "warn", f"Picks of one phase only: {said}."
    if len(pairs) < s / 2:
        return "warn", f"Most S have no P right before them, so many of both may be false: {said}."
    return "good", f"There are {said}."


def _counted(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _tiles(picked: Picked, pairs: pd.DataFrame) -> tuple[tuple[str, str, str], ...]:
    picks = picked.picks
    of = {wave: picks["probability"][picks["phase"] == wave] for wave in "PS"}
    uncertainty = picks["time_uncertainty_s"].median()
    return (
        *((f"{wave} picks", number(len(p)), f"median probability {number(p.median(), 2)}") for wave, p in of.items()),
        ("stations", number(picked.days["station"].nunique()), _counted(len(picked.days), "station-day")),
        ("records", duration(3600 * picked.days["hours"].sum()), "at 100 Hz"),
        ("S minus P, median", number(pairs["s_minus_p_s"].median(), 3), f"s; {_counted(len(pairs), 'pair')}"),
        *([("uncertainty of time", number(uncertainty, 2), "s, median")] if math.isfinite(uncertainty) else []),
    )


def _stream(picked: Picked) -> Section:
    blocks = []
    for example in picked.examples:
        words = (
            "Components, each at its own scale, with the picks of all pickers; beneath them the probabilities of P (blue) and S (red) by each "
            "picker, and its picks with time and probability. A pick lies at the highest point of a curve. Look for onsets without a peak, for "
            "peaks without an onset, and for peaks that are broad: there the picker is not sure of the time."
        )
        blocks.append(figure(figures_picking.example_figure(example), words, ""))
        columns = ("picker", "phase", "time (UTC)", "probability", "amplitude", "signal over noise (dB)")
        blocks += _folding(columns, [_row(pick) for pick in example.picks.itertuples()])
    counts = counts_by_station(picked)
    rows = [tuple(row) for row in counts.itertuples(index=False, name=None)]
    columns = ("station", "P picks", "S picks", "station-days", "hours of records")
    words = "A station with many more picks an hour than its neighbours is near to something, or noisy; one with none may be dead."
    blocks += _folding(columns, rows)
    blocks.append(paragraph(words) if rows else note("No table: there are no station-days."))
    words = (
        "Earthquakes come as peaks of P and S together, over a level that is that of false picks. A day that is busier than the night, on the "
        "right, tells of traffic and machines."
    )
    blocks.append(figure(figures_picking.times_figure(picked.picks), words, "No figure of times: there are no picks."))
    return Section("Picks of a stream", tuple(blocks))


def _row(pick) -> tuple:
    moment = f"{pick.peak_time:%Y-%m-%d %H:%M:%S.%f}"[:-4]
    size = f"{number(pick.amplitude, 3)} {pick.amplitude_unit}"
    return pick.model, pick.phase, moment, f"{pick.probability:.2f}", size, f"{pick.snr_db:.1f}".replace("nan", "n/a")


def _folding(columns: tuple[str, ...], rows: list[tuple]) -> list[str]:
    """A table of the first rows, and the others folded; nothing without rows."""
    blocks = [table(columns, rows[:_SHOWN])] if rows else []
    rest = rows[_SHOWN:]
    return [*blocks, *([folded(f"{len(rest):,} more", [table(columns, rest)])] if rest else [])]


def _probabilities(picked: Picked) -> Section:
    words = (
        "Each histogram begins at the threshold, chosen where precision and recall balance. Most picks near 1 is a clear case; most picks near "
        "the threshold means that a slightly higher one would take many away, and that some of them are false."
    )
    missing = "No histogram: there are no picks."
    return Section("Probabilities", (figure(figures_picking.probability_figure(picked.picks), words, missing),))


def _s_minus_p(pairs: pd.DataFrame) -> Section:
    words = (
        f"Time from a P to the S that comes next at the same instrument, within {LONGEST_S_MINUS_P_S:g} s and with no pick between. Every second is "
        f"about {KM_A_SECOND:g} km to the hypocentre (P at 6 km/s, S at 3.5 km/s). A swarm is a narrow peak, false picks are a low and flat floor."
    )
    missing = "No histogram: no S has a P right before it."
    return Section("S minus P", (figure(figures_picking.s_minus_p_figure(pairs), words, missing),))


def _not_read(picked: Picked) -> list[Section]:
    told = picked.days.explode("why").dropna(subset="why")
    groups = told.groupby(["station", "why"])["day"].agg(["min", "max", "size"]).reset_index()
    rows = [(one.station, one.why, one.min, one.max, one.size) for one in groups.itertuples(index=False)]
    columns = ("station", "reason", "first day", "last day", "station-days")
    blocks = [*_folding(columns, rows), *(note(f"Not read: {words}.") for words in picked.notes)]
    return [Section("What could not be picked", tuple(blocks))] if blocks else []
