"""Which files of an archive hold which station on which day."""

from __future__ import annotations

import datetime
import logging
import os
import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import ray

log = logging.getLogger(__name__)
DAY_NS = 86_400 * 10**9
_SDS = re.compile(r"^([^.]*)\.([^.]+)\.([^.]*)\.([^.]+)\.D\.(\d{4})\.(\d{3})$")
"""Name of a file in an SDS archive, NET.STA.LOC.CHAN.D.YEAR.DAY: what it holds needs no reading."""
_TOGETHER = 64
"""Files whose headers a task reads."""
_COLUMNS = ("path", "size", "changed_ns", "network", "station", "location", "channel", "first_ns", "last_ns")
_NAMED = 5
"""Files that a line names."""


@dataclass(frozen=True, slots=True)
class StationDay:
    """A station on one day (UTC), and the files that hold any of it, or of what surrounds it.

    Attributes:
        network, station: codes.
        day: its date.
        files: paths with size and time of the last change, which say whether anything is new.
    """

    network: str
    station: str
    day: datetime.date
    files: tuple[tuple[str, int, int], ...]

    @property
    def begin_ns(self) -> int:
        return (self.day - datetime.date(1970, 1, 1)).days * DAY_NS

    @property
    def file_name(self) -> str:
        """Of its picks, below the folder of all picks."""
        return f"{self.network}.{self.station}/{self.day.isoformat()}.parquet"


def find_files(paths: Iterable[str], known: pd.DataFrame | None = None) -> pd.DataFrame:
    """Returns what files hold: one row for each channel of each file, with first and last sample (ns since 1970).

    Files of an SDS archive are taken by their names; the headers of all others are read, in Ray tasks. A file that ObsPy does not read
    is left out, with a line.

    Args:
        paths: files and folders, which are searched with all below them.
        known: an earlier result; files that are the same are not read again.

    Raises:
        FileNotFoundError: a path is not there, or there is no seismogram in any.
    """
    files = _files(paths)
    rows, unread = [], []
    old = {} if known is None else dict(iter(known.groupby(["path", "size", "changed_ns"])))
    for file in files:
        if (part := old.get(file)) is not None:
            rows += part.itertuples(index=False, name=None)
        elif match := _SDS.match(os.path.basename(file[0])):
            rows.append((*file, *match.groups()[:4], *_day_of(*match.groups()[4:])))
        else:
            unread.append(file)
    parts = [unread[first : first + _TOGETHER] for first in range(0, len(unread), _TOGETHER)]
    strange = []
    for part, found in zip(parts, ray.get([ray.remote(_headers).remote(part) for part in parts]), strict=True):
        for file, headers in zip(part, found, strict=True):
            rows += [(*file, *header) for header in headers]
            strange += [] if headers else [file[0]]
    if strange:
        more = f" and {len(strange) - _NAMED} more" if len(strange) > _NAMED else ""
        log.warning("no seismograms that ObsPy reads: %s%s", ", ".join(strange[:_NAMED]), more)
    if not rows:
        raise FileNotFoundError(
            f"no seismograms in {', '.join(map(str, paths))}: name files, folders or an SDS archive"
        )
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def station_days(
    files: pd.DataFrame, margin_s: float, begin: datetime.date | None = None, end: datetime.date | None = None
) -> list[StationDay]:
    """Returns the days on which there is anything of a station, by day and station.

    Args:
        files: what `find_files` returned.
        margin_s: seconds before and after a day that are read with it.
        begin, end: first and last day; None: all.
    """
    margin = round(margin_s * 1e9)
    held, near = set(), defaultdict(set)
    columns = ("network", "station", "first_ns", "last_ns", "path", "size", "changed_ns")
    for network, station, first, last, *file in files[list(columns)].itertuples(index=False, name=None):
        for day in range(first // DAY_NS, last // DAY_NS + 1):
            held.add((day, network, station))
        for day in range((first - margin) // DAY_NS, (last + margin) // DAY_NS + 1):
            near[day, network, station].add(tuple(file))
    days = []
    for day, network, station in sorted(held):
        date = datetime.date(1970, 1, 1) + datetime.timedelta(days=day)
        if (begin is None or date >= begin) and (end is None or date <= end):
            days.append(StationDay(network, station, date, tuple(sorted(near[day, network, station]))))
    return days


def _files(paths: Iterable[str]) -> list[tuple[str, int, int]]:
    """Paths with size and time of the last change, each file once."""
    found = {}
    for path in paths:
        place = Path(path).expanduser().resolve()
        if not place.exists():
            raise FileNotFoundError(f"{path} does not exist")
        for file in _below(place) if place.is_dir() else [place]:
            if file.is_file() and not file.name.startswith("."):
                about = file.stat()
                found[str(file)] = about.st_size, about.st_mtime_ns
    return sorted((path, *about) for path, about in found.items() if about[0])


def _below(place: Path) -> Iterator[Path]:
    """Files in a folder and in those below it; links are followed, to each folder once."""
    seen = set()
    for folder, folders, names in os.walk(place, followlinks=True):
        seen.add(os.path.realpath(folder))
        folders[:] = [f for f in folders if not f.startswith(".") and os.path.realpath(f"{folder}/{f}") not in seen]
        yield from (Path(folder, name) for name in names)


def _day_of(year: str, day: str) -> tuple[int, int]:
    date = datetime.date(int(year), 1, 1) + datetime.timedelta(days=int(day) - 1)
    begin = (date - datetime.date(1970, 1, 1)).days * DAY_NS
    return begin, begin + DAY_NS - 1


def _headers(files: list[tuple[str, int, int]]) -> list[list[tuple]]:
    """In a Ray task: of each file its channels with their first and last sample; nothing of what is no seismogram."""
    import obspy

    found = []
    for path, _, _ in files:
        spans: dict[tuple, list[int]] = {}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                stream = obspy.read(path, headonly=True)
        except Exception:  # ObsPy's readers raise whatever they meet
            stream = []
        for trace in stream:
            stats = trace.stats
            key = stats.network, stats.station, stats.location, stats.channel
            span = spans.setdefault(key, [stats.starttime.ns, stats.endtime.ns])
            span[:] = min(span[0], stats.starttime.ns), max(span[1], stats.endtime.ns)
        found.append([(*key, *span) for key, span in spans.items()])
    return found
