"""Files of picks in the form that the next program reads.

| format | file | who reads it |
|---|---|---|
| csv | picks.csv | people, and everything that reads tables: the table of picks as it is |
| quakeml | picks.xml | ObsPy, SeisComP |
| phasenet | picks_phasenet.csv | what reads PhaseNet's picks.csv, such as QuakeFlow |
| gamma | picks_gamma.csv, stations_gamma.csv | GaMMA |
| pyocto | picks_pyocto.csv, stations_pyocto.csv | PyOcto |
| seisbench | picks_seisbench.csv | what reads SeisBench's `PickList.to_dataframe()` |

Times are UTC with microseconds: "2020-10-01T00:02:27.343000Z" in picks.csv and QuakeML; without the Z in the other tables, as their
readers write it themselves (GaMMA reads no Z under Python 3.10); seconds since 1970 for PyOcto.

The id of a station is "NET.STA.LOC" (SeisBench's `trace_id`) wherever it is one word, and the same in picks and stations, since
GaMMA and PyOcto leave out picks whose id no station has. PhaseNet's `station_id` is "NET.STA.LOC.HH".
"""

import difflib
import io
import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from raysys.location import Location
from raysys.picking.picks import COLUMNS
from raysys.picking.stations import local_km, station_ids, unmatched, with_ids

log = logging.getLogger(__name__)

MANY = 100_000
"""Picks above which a QuakeML file is warned about: a pick takes 0.7 KB, and 0.3 to 0.6 ms."""
PHASENET_RATE_HZ = 100
_NO_URI = re.compile(r"[^\w\-.*()~']", re.ASCII)


@dataclass(frozen=True, slots=True)
class Format:
    """How picks become files."""

    file: str
    content: Callable[[pd.DataFrame], str | bytes]
    stations_file: str = ""
    """Of the table of stations beside the picks; empty where there is none."""
    stations: Callable[[pd.DataFrame], pd.DataFrame] | None = None
    """Makes that table from one with a column `id`."""


def write_picks(
    picks: pd.DataFrame, to: str, out: str | os.PathLike | Location, stations: pd.DataFrame | None = None
) -> list[Location]:
    """Writes a table of picks in one of the `FORMATS`, and returns the files: that of the picks, then that of the stations.

    No picks make a file with its header, or an empty catalogue. Every id of the picks that no station has is warned about.

    Args:
        picks: a table with the columns `COLUMNS`; others are left out.
        to: one of `FORMATS`.
        out: folder, made where it is not there.
        stations: from `read_stations`; GaMMA and PyOcto get a file of them, other formats have no place for it.

    Raises:
        ValueError: an unknown format, or a column that is missing.
    """
    if to not in FORMATS:
        near = difflib.get_close_matches(to, FORMATS, n=1, cutoff=0.4)
        hint = f", did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown format of picks {to!r}{hint} (known: {', '.join(FORMATS)})")
    if missing := [name for name in COLUMNS if name not in picks]:
        raise ValueError(f"the table of picks has no column {', '.join(missing)}")
    form, out = FORMATS[to], Location(out)
    written = [out / form.file]
    written[0].write(form.content(picks))
    if form.stations and stations is not None:
        for line in unmatched(picks, stations):
            log.warning("%s: %s", form.file, line)
        written.append(out / form.stations_file)
        written[1].write(form.stations(with_ids(stations, picks)).to_csv(index=False))
    return written


def _utc(times: pd.Series) -> np.ndarray:
    """Returns datetime64[us]; a time without a zone is UTC."""
    return pd.to_datetime(times, utc=True).dt.round("us").dt.tz_localize(None).to_numpy().astype("datetime64[us]")


def _iso(times: pd.Series | np.ndarray, zone: str = "") -> np.ndarray:
    times = _utc(times) if isinstance(times, pd.Series) else times
    text = np.datetime_as_string(times, unit="us").astype(object)
    return text + zone if len(text) else text


def _codes(picks: pd.DataFrame) -> pd.Series:
    """NET.STA.LOC.HH of each pick."""
    return station_ids(picks) + "." + picks["instrument"].astype(object).fillna("").astype(str)


def _m_s(picks: pd.DataFrame, file: str) -> pd.Series:
    """Amplitudes in m/s; those in counts are left out, since magnitudes are computed from them."""
    known = picks["amplitude_unit"] == "m/s"
    if count := int((~known & picks["amplitude"].notna()).sum()):
        log.warning("%s: amplitudes of %d picks are left out, since they are in counts and not in m/s", file, count)
    return picks["amplitude"].where(known, np.nan)


def _csv(picks: pd.DataFrame) -> str:
    """Codes are text: read it with `dtype={"location": str}, keep_default_na=False`, or "00" becomes 0 and "NA" nothing."""
    times = {name: _iso(picks[name], "Z") for name in ("peak_time", "start_time", "end_time")}
    return picks[list(COLUMNS)].assign(**times).to_csv(index=False)


def _phasenet(picks: pd.DataFrame) -> str:
    """A file is a day of one instrument, named by the pattern of its channels in an SDS archive; it begins at midnight.

    `phase_index` counts samples of 100 Hz, as PhaseNet does.
    """
    times = _utc(picks["peak_time"])
    day = times.astype("datetime64[D]")
    since = (times - day) / np.timedelta64(1, "s")
    stamp = pd.Series(day, index=picks.index).dt.strftime(".D.%Y.%j")
    columns = {
        "file_name": _codes(picks) + "*" + stamp,
        "begin_time": _iso(day.astype("datetime64[us]")),
        "station_id": _codes(picks),
        "phase_index": np.rint(since * PHASENET_RATE_HZ).astype(np.int64),
        "phase_time": _iso(times),
        "phase_score": picks["probability"],
        "phase_amp": _m_s(picks, "picks_phasenet.csv"),
        "phase_type": picks["phase"],
    }
    return pd.DataFrame(columns).to_csv(index=False)


def _gamma(picks: pd.DataFrame) -> str:
    """Read it with `parse_dates=["timestamp"]`: GaMMA 1.2.17 fails at times that are text under pandas 3."""
    columns = {
        "id": station_ids(picks),
        "timestamp": _iso(picks["peak_time"]),
        "type": picks["phase"].astype(str).str.lower(),
        "prob": picks["probability"],
        "amp": _m_s(picks, "picks_gamma.csv"),
    }
    return pd.DataFrame(columns).to_csv(index=False)


def _gamma_stations(table: pd.DataFrame) -> pd.DataFrame:
    """GaMMA's z grows downwards; `associate_gamma` of PyOcto 0.2.2 takes it for the height, and wants it negated.

    GaMMA leaves out stations with an empty cell, so only what it needs is here.
    """
    x, y, (latitude, longitude) = local_km(table["latitude"], table["longitude"])
    log.info("stations_gamma.csv: x and y are km east and north of latitude %.5f, longitude %.5f", latitude, longitude)
    columns = {"id": table["id"], "x(km)": x, "y(km)": y, "z(km)": -table["elevation_m"] / 1000}
    return pd.DataFrame(columns).round(6)


def _pyocto(picks: pd.DataFrame) -> str:
    columns = {
        "station": station_ids(picks),
        "time": _utc(picks["peak_time"]).astype(np.int64) / 1e6,
        "phase": picks["phase"],
        "probability": picks["probability"],
    }
    return pd.DataFrame(columns).to_csv(index=False)


def _pyocto_stations(table: pd.DataFrame) -> pd.DataFrame:
    """Of these `transform_stations` makes x, y and z in the associator's own projection, in which it finds its events, too."""
    return table[["id", "longitude", "latitude", "elevation_m"]].rename(columns={"elevation_m": "elevation"})


def _seisbench(picks: pd.DataFrame) -> str:
    columns = {
        "station": station_ids(picks),
        "time": _utc(picks["peak_time"]),
        "start_time": _utc(picks["start_time"]),
        "end_time": _utc(picks["end_time"]),
        "probability": picks["probability"],
        "phase": picks["phase"],
    }
    table = pd.DataFrame(columns).sort_values("time", kind="stable").assign(polarity="", polarity_probability="")
    times = {name: _iso(table[name].to_numpy()) for name in ("time", "start_time", "end_time")}
    return table.assign(**times).to_csv(index=False)


def _quakeml(picks: pd.DataFrame) -> bytes:
    """One event a pick, since nothing is associated yet.

    The channel code has two letters: the picker reads all components. The comment of a pick is "probability=0.93".
    """
    from obspy.core.event import Catalog, ResourceIdentifier

    if len(picks) > MANY:
        log.warning("picks.xml: %d picks make a QuakeML file of about %d MB", len(picks), len(picks) * 7 // 10_000)
    times = _utc(picks["peak_time"]).astype(np.int64).tolist()
    rows = zip(times, _codes(picks), picks.itertuples(index=False), strict=True)
    events = [_event(*row) for row in rows]
    content = io.BytesIO()
    Catalog(events, resource_id=ResourceIdentifier("smi:local/raysys/picks")).write(content, format="QUAKEML")
    return content.getvalue()


def _event(microseconds: int, codes: str, pick):
    """An ObsPy event of one pick. Its ids are made of the pick, so that one table always makes one file."""
    from obspy import UTCDateTime
    from obspy.core.event import Comment, Event, Pick, QuantityError, ResourceIdentifier, WaveformStreamID

    network, station, location, instrument = codes.split(".")
    name = _NO_URI.sub("_", f"{codes}.{pick.phase}.{microseconds}.{pick.model}")
    known = not np.isnan(pick.time_uncertainty_s)
    made = Pick(
        resource_id=ResourceIdentifier(f"smi:local/raysys/pick/{name}"),
        time=UTCDateTime(ns=microseconds * 1000),
        time_errors=QuantityError(uncertainty=pick.time_uncertainty_s if known else None),
        waveform_id=WaveformStreamID(network, station, location_code=location, channel_code=instrument),
        phase_hint=pick.phase,
        method_id=ResourceIdentifier(f"smi:local/raysys/{_NO_URI.sub('_', pick.model) or 'picker'}"),
        evaluation_mode="automatic",
        comments=[Comment(text=f"probability={float(pick.probability)!r}", force_resource_id=False)],
    )
    return Event(resource_id=ResourceIdentifier(f"smi:local/raysys/event/{name}"), picks=[made])


FORMATS = {
    "csv": Format("picks.csv", _csv),
    "quakeml": Format("picks.xml", _quakeml),
    "phasenet": Format("picks_phasenet.csv", _phasenet),
    "gamma": Format("picks_gamma.csv", _gamma, "stations_gamma.csv", _gamma_stations),
    "pyocto": Format("picks_pyocto.csv", _pyocto, "stations_pyocto.csv", _pyocto_stations),
    "seisbench": Format("picks_seisbench.csv", _seisbench),
}
