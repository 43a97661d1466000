"""Picks of an archive, read into tables, and how far S comes after P."""

import io
import json
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from raysys.location import Location
from raysys.picking.example import FOLDER, Example, read_example
from raysys.picking.picks import in_order, no_picks

PICKED_FILE = "files.parquet"
"""What `jobs.pick` writes first: the files that it read."""
LONGEST_S_MINUS_P_S = 60.0
"""A later S belongs to another P, 500 km being far for a local network."""
_PLACE = ["network", "station", "location", "instrument"]
_DAYS = ("station", "day", "hours", "picks", "why")


@dataclass(frozen=True, kw_only=True, slots=True)
class Picked:
    """What `jobs.pick` wrote.

    Attributes:
        path: its folder or URL.
        picks: one row a pick (`raysys.picking.picks.COLUMNS`).
        days: one row a station-day: station (NET.STA), day, hours of records, picks, why (what could not be read).
        examples: stretches with waveforms and curves; mostly none.
        notes: what could not be read.
    """

    path: Location
    picks: pd.DataFrame
    days: pd.DataFrame
    examples: tuple[Example, ...]
    notes: tuple[str, ...]


def read_picked(path: Location) -> Picked:
    """Returns the picks in a folder."""
    notes: list[str] = []
    tables, days = [], []
    folder = path / "picks"
    for file in [f for station in folder.folders() for f in station.glob("*.parquet")] if folder.is_dir() else []:
        try:
            table = pq.read_table(io.BytesIO(file.read()))
        except (pa.ArrowInvalid, OSError) as error:
            notes.append(f"{file.parent.name}/{file.name} is damaged ({error})")
            continue
        told = json.loads((table.schema.metadata or {}).get(b"raysys", b"{}"))
        tables.append(table.to_pandas())
        day = file.name.removesuffix(".parquet")
        days.append((file.parent.name, day, told.get("hours"), len(table), tuple(told.get("why") or ())))
    examples = []
    for file in (path / FOLDER).glob("*.npz"):
        try:
            examples.append(read_example(file))
        except (ValueError, OSError) as error:
            notes.append(f"{FOLDER}/{file.name} is damaged ({error})")
    filled = [table for table in tables if len(table)]
    return Picked(
        path=path,
        picks=in_order(pd.concat(filled)) if filled else no_picks(),
        days=pd.DataFrame(days, columns=list(_DAYS)).astype({"hours": float, "picks": int}),
        examples=tuple(examples),
        notes=tuple(notes),
    )


def counts_by_station(picked: Picked) -> pd.DataFrame:
    """Returns one row a station: P and S picks, station-days, hours of records; the one with most picks first."""
    days = picked.days.groupby("station").agg(days=("day", "size"), hours=("hours", "sum"))
    station = picked.picks["network"] + "." + picked.picks["station"]
    for wave in "PS":
        counts = station[picked.picks["phase"] == wave].value_counts()
        days.insert(int(wave == "S"), wave, counts.reindex(days.index, fill_value=0))
    order = (days["P"] + days["S"]).sort_values(ascending=False, kind="stable").index
    return days.loc[order].reset_index()


def s_after_p(picks: pd.DataFrame) -> pd.DataFrame:
    """Returns one row for each S with a P right before it at the same instrument: its codes, the time of P, and S minus P in seconds."""
    picks = picks.sort_values([*_PLACE, "peak_time"], kind="stable", ignore_index=True)
    before = picks.shift()
    apart_s = (picks["peak_time"] - before["peak_time"]).dt.total_seconds()
    same = (picks[_PLACE] == before[_PLACE]).all(axis=1)
    found = same & (picks["phase"] == "S") & (before["phase"] == "P") & (apart_s <= LONGEST_S_MINUS_P_S)
    times = {"p_time": before["peak_time"][found], "s_minus_p_s": apart_s[found]}
    return picks[found][_PLACE].assign(**times).reset_index(drop=True)
