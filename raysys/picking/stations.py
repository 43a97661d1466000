"""Where stations stand, whether picks name them, and what a count of theirs is worth.

The id of a station is "NET.STA.LOC", as SeisBench's `trace_id` is: "IU.ANMO.00", and "GR.FUR." where there is no location code.
"""

import difflib
import io
import logging
import os
from collections.abc import Iterable

import numpy as np
import pandas as pd

from raysys.location import Location

log = logging.getLogger(__name__)

_CODES = ["network", "station", "location"]
COLUMNS = (*_CODES, "latitude", "longitude", "elevation_m")
"""Of a table of stations: codes as text, degrees, and metres above the sea (NaN where unknown)."""
_M_S = {"M/S": 1.0, "M/SEC": 1.0, "CM/S": 1e2, "MM/S": 1e3, "UM/S": 1e6, "NM/S": 1e9}
"""What stands in one m/s, by the unit of the ground's motion."""
_COUNTS = ("COUNTS", "COUNT")
_MOVED_M = 100.0
_SEMI_MAJOR_KM, _FLATTENING = 6378.137, 1 / 298.257223563
"""Of the ellipsoid WGS84."""


def station_ids(table: pd.DataFrame) -> pd.Series:
    """Returns "NET.STA.LOC" of every row of a table of picks or stations."""
    network, station, location = (table[name].astype(object).fillna("").astype(str) for name in _CODES)
    return network + "." + station + "." + location


def read_stations(path: str | os.PathLike | Location) -> pd.DataFrame:
    """Returns one row a station and location code, with the columns `COLUMNS`, sorted by codes.

    A file that ends in .csv has columns `latitude`, `longitude`, `elevation` (or `elevation_m`), and either `id` ("NET.STA" or
    "NET.STA.LOC"; what follows is not read) or `network`, `station` and, if there is one, `location`. Any other file
    is one that ObsPy reads as an inventory (StationXML, SC3ML, dataless SEED, FDSN text). Where a station has
    moved its last place counts, with a warning for those that moved by more than 100 m.

    Raises:
        ValueError: a column is missing, or a number or an id cannot be read.
    """
    path = Location(path)
    rows = _from_csv(path) if path.name.lower().endswith(".csv") else _from_inventory(response(path))
    rows = rows[list(COLUMNS)].sort_values(_CODES, kind="stable")
    ids = station_ids(rows)
    table = rows[~ids.duplicated(keep="last")].reset_index(drop=True)
    if len(table) < len(rows):
        _warn_of_moves(path, rows.set_axis(ids.to_numpy()), table)
    return table


def _warn_of_moves(path: Location, rows: pd.DataFrame, table: pd.DataFrame) -> None:
    last = table.set_axis(station_ids(table).to_numpy()).loc[rows.index]
    north = (rows["latitude"] - last["latitude"]).to_numpy() * 111_195
    east = (
        (rows["longitude"] - last["longitude"]).to_numpy() * 111_195 * np.cos(np.radians(last["latitude"].to_numpy()))
    )
    moved = rows.index[np.hypot(north, east) > _MOVED_M].unique()
    if len(moved):
        log.warning("%s: the last place counts of stations that have moved: %s", path, ", ".join(moved))


def _from_csv(path: Location) -> pd.DataFrame:
    given = pd.read_csv(io.BytesIO(path.read()), dtype=str, keep_default_na=False, skipinitialspace=True)
    given.columns = [str(name).strip().lower() for name in given.columns]
    given = given.rename(columns={"elevation": "elevation_m"})
    if "id" in given and "station" not in given:
        parts = given["id"].str.split(".", expand=True).reindex(columns=range(3)).fillna("")
        if (bad := given["id"][parts[1] == ""]).size:
            raise ValueError(f"{path}: {bad.iloc[0]!r} is no id of a station: write NET.STA or NET.STA.LOC")
        given[_CODES] = parts.set_axis(_CODES, axis=1)
    if "location" not in given:
        given["location"] = ""
    if missing := [name for name in COLUMNS if name not in given]:
        raise ValueError(
            f"{path}: no column {', '.join(missing)}: a table of stations has id (or network, station, location), "
            f"latitude, longitude, elevation (here are {', '.join(given.columns)})"
        )
    for name, limit in (("latitude", 90), ("longitude", 360), ("elevation_m", np.inf)):
        number = pd.to_numeric(given[name], errors="coerce")
        unknown = (given[name] == "") & (name == "elevation_m")
        if (bad := given[name][~(number.abs() <= limit) & ~unknown]).size:
            raise ValueError(f"{path}: {name} of row {bad.index[0] + 1} cannot be {bad.iloc[0]!r}")
        given[name] = number
    return given


def _from_inventory(inventory) -> pd.DataFrame:
    rows = []
    for network in inventory:
        for station in sorted(network, key=_since):
            places = [(_location(c), c) for c in sorted(station, key=_since)] or [("", station)]
            rows += [
                (network.code, station.code, code, float(x.latitude), float(x.longitude), float(x.elevation))
                for code, x in places
            ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _location(channel) -> str:
    return (channel.location_code or "").strip("- ")


def _since(epoch) -> float:
    return epoch.start_date.timestamp if epoch.start_date else -np.inf


def response(path: str | os.PathLike | Location):
    """Returns the ObsPy inventory of a file, with the responses that it holds."""
    from obspy import read_inventory

    with Location(path).on_disk() as local:
        return read_inventory(str(local))


def counts_per_m_s(inventory, seed_id: str, time) -> float | None:
    """Returns how many counts one m/s makes at a channel: the overall sensitivity, at the frequency that it was given for.

    Amplitudes in m/s are amplitudes in counts divided by it; this is right in the flat part of the response only.
    None is returned for a channel that does not measure velocity: what an accelerometer writes has to be integrated first, and
    what a pressure gauge writes is no ground motion. None is returned, too, where there is no such channel at that time, or
    it has no sensitivity.

    Args:
        inventory: from `response`.
        seed_id: "NET.STA.LOC.CHA".
        time: ObsPy's UTCDateTime, or what it takes.
    """
    from obspy import UTCDateTime

    network, station, location, channel = seed_id.split(".")
    epochs = (
        c
        for n in inventory
        for s in n
        for c in s
        if (n.code, s.code, _location(c), c.code) == (network, station, location, channel)
    )
    epoch = next((c for c in epochs if c.is_active(time=UTCDateTime(time))), None)
    found = epoch.response.instrument_sensitivity if epoch is not None and epoch.response else None
    if found is None or not found.value or str(found.output_units).upper() not in _COUNTS:
        return None
    per_unit = _M_S.get(str(found.input_units).upper())
    return None if per_unit is None else float(found.value) * per_unit


def unmatched(picks: pd.DataFrame, stations: pd.DataFrame) -> list[str]:
    """Returns one line for each id of the picks that no station has, with the known id that is most like it.

    A station without a location code serves all its locations. Associators leave out, without a word, the picks that these lines
    are about.
    """
    known, everywhere = _known(stations)
    lines = []
    for name in _distinct(picks):
        if name not in known and _without_location(name) not in everywhere:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            lines.append(f"{name} is not among the stations" + (f": did you mean {near[0]}?" if near else ""))
    return lines


def with_ids(stations: pd.DataFrame, picks: pd.DataFrame) -> pd.DataFrame:
    """Returns the stations with a column `id` in front, each once, and again under each id of the picks that it serves.

    So the ids of picks and stations are equal, as associators want them: "IU.ANMO.00" is added where the station
    "IU.ANMO." is known only. An elevation that is unknown becomes 0, with a warning.
    """
    table = stations.set_axis(station_ids(stations).to_numpy())
    table = table[~table.index.duplicated(keep="last")]
    known, everywhere = _known(stations)
    served = [name for name in _distinct(picks) if name not in known and _without_location(name) in everywhere]
    more = table.loc[[_without_location(name) for name in served]].set_axis(served)
    table = pd.concat([table, more]).rename_axis("id").reset_index()
    if len(unknown := table["id"][table["elevation_m"].isna()]):
        log.warning("elevation taken for 0 m where none is given: %s", ", ".join(unknown))
    return table.fillna({"elevation_m": 0.0})


def _distinct(picks: pd.DataFrame) -> list[str]:
    return sorted(station_ids(picks[_CODES].drop_duplicates()).unique())


def _without_location(name: str) -> str:
    return name[: name.rindex(".") + 1]


def _known(stations: pd.DataFrame) -> tuple[dict[str, None], set[str]]:
    """All ids, and those of stations that serve all their locations."""
    known = dict.fromkeys(station_ids(stations))
    return known, {name for name in known if name.endswith(".")}


def local_km(
    latitude: Iterable[float], longitude: Iterable[float]
) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """Returns x (east) and y (north) in km from the mean of some places, and the latitude and longitude of that mean.

    Places on the ellipsoid WGS84 are seen from straight above the mean, on the plane that touches the ellipsoid there.
    Distances come out too short by a share of at most d^2 / (2 R^2), where d is the distance from the mean and R the
    radius of the Earth: 0.01 % at 100 km, 0.3 % at 500 km, 1.2 % at 1000 km.
    """
    latitude, longitude = np.radians(np.asarray(latitude, float)), np.radians(np.asarray(longitude, float))
    if not len(latitude):
        return latitude, longitude, (np.nan, np.nan)
    middle = latitude.mean()
    meridian = np.arctan2(np.sin(longitude).mean(), np.cos(longitude).mean())  # right at 180 degrees, too
    (across, up), (across_0, up_0) = _on_ellipsoid(latitude), _on_ellipsoid(middle)
    outward = across * np.cos(longitude - meridian)
    x = across * np.sin(longitude - meridian)
    y = np.cos(middle) * (up - up_0) - np.sin(middle) * (outward - across_0)
    return x, y, (float(np.degrees(middle)), float(np.degrees(meridian)))


def _on_ellipsoid(latitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance in km from the axis of the Earth, and above the plane of the equator."""
    squared = _FLATTENING * (2 - _FLATTENING)
    normal = _SEMI_MAJOR_KM / np.sqrt(1 - squared * np.sin(latitude) ** 2)
    return normal * np.cos(latitude), normal * (1 - squared) * np.sin(latitude)
