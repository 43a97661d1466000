"""Picks of an archive: one Ray task or GPU, one Parquet file and at most one line of complaint for every station and day."""

from __future__ import annotations

import datetime
import hashlib
import io
import itertools
import json
import logging
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from raysys.cluster import connect, require
from raysys.config_finetuning import PACKAGED
from raysys.evaluate.stored import weights_digest
from raysys.location import Location
from raysys.picking.archive import StationDay, find_files, station_days
from raysys.picking.formats import FORMATS, write_picks
from raysys.picking.picks import in_order, no_picks
from raysys.picking.record import Record
from raysys.picking.stations import counts_per_m_s, read_stations, response
from raysys.picking.stream import pick_records, read_stream
from raysys.picking.trained import TrainedPicker, load_picker

log = logging.getLogger(__name__)
INSTRUMENTS = ("HH", "EH", "BH", "SH", "CH", "DH", "GH", "HN", "EN", "BN", "SN", "HL", "EL", "BL")
"""Of several at a place the first one that is there is read: fast seismometers, then slow ones, then accelerometers."""
_VERSION = 1
"""Of the way in which picks are made; a change of it makes all of them anew."""
_ABOUT = b"raysys"
"""Key of the metadata of a Parquet file."""
_LINE_EVERY_S = 10.0
_AHEAD = 2
"""Station-days that are read ahead for each one that is being picked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picking:
    """How an archive is picked.

    Attributes:
        picker: what `raysys.picking.trained.load_picker` takes.
        instruments: first two letters of channels, the preferred ones first; of each place one is read. Channels without such
            letters are read too.
        begin, end: first and last day (UTC); None: all.
        stations: StationXML or the like, whose responses make amplitudes in m/s, or a CSV; with the places of stations, for associators.
        formats: `raysys.picking.formats.FORMATS` that are written in the end.
        device: "cuda" or "cpu".
    """

    picker: str = PACKAGED
    instruments: tuple[str, ...] = INSTRUMENTS
    begin: datetime.date | None = None
    end: datetime.date | None = None
    stations: str | None = None
    formats: tuple[str, ...] = ("csv",)
    device: str = "cpu"


def pick_archive(paths: tuple[str, ...], out: str, how: Picking = Picking()) -> dict[str, Any]:
    """Returns counts, after the picks of an archive are written to `out`.

    `out`/picks/NET.STA/DATE.parquet holds those of a station on a day. What is there for the same picker and the same files is not
    done again, so that the same call goes on after an interruption, or when files were added.

    Args:
        paths: files, folders, or an SDS archive.
        out: folder or URL.
        how: to pick.

    Raises:
        ValueError, FileNotFoundError: no such picker, files or formats.
    """
    if unknown := set(how.formats) - set(FORMATS):
        raise ValueError(f"--to {', '.join(sorted(unknown))}: choose of {', '.join(FORMATS)}")
    picker, place = load_picker(how.picker), Location(out).make_folder()
    stations = read_stations(how.stations) if how.stations else None
    connect()
    require({"GPU": 1} if how.device == "cuda" else {"CPU": 1}, "picking")
    margin_s = 2 * picker.network.window_samples / 100 + 60
    days = station_days(_known_files(paths, place), margin_s, how.begin, how.end)
    common = _common_mark(picker, how)
    marks = {day: hashlib.sha256(f"{common} {day}".encode()).hexdigest()[:16] for day in days}
    stations_there = {(day.network, day.station) for day in days}
    log.info("%s on %s: %d station-days of %d stations", picker.name, how.device, len(days), len(stations_there))
    progress = _Progress(len(days))
    waiting = []
    for day in days:
        if (told := _about(place / "picks" / day.file_name)) and told["mark"] == marks[day]:
            progress.skip(day, told)
        else:
            waiting.append(day)
    if progress.skipped:
        log.info("%d station-days are there already", progress.skipped)
    for day, result in _results(picker, how, waiting, margin_s):
        if isinstance(result, Exception):
            progress.fail(day, result)
            continue
        table, told = result
        told |= {"mark": marks[day]}
        (place / "picks" / day.file_name).write(_as_parquet(table, told))
        progress.add(day, told)
    progress.tell_why()
    picks = read_picks(place, days)
    for name in how.formats:
        log.info("written: %s", ", ".join(map(str, write_picks(picks, name, place, stations))))
    counts = {f"picks_{wave}": int((picks["phase"] == wave).sum()) for wave in "PS"}
    return counts | progress.counts()


def read_picks(out: Location | str, days: list[StationDay] | None = None) -> pd.DataFrame:
    """Returns the picks below a folder as one table, of some station-days or of all."""
    folder = Location(out) / "picks"
    files = (
        [folder / day.file_name for day in days]
        if days is not None
        else [f for s in folder.folders() for f in s.glob("*.parquet")]
    )
    tables = [pd.read_parquet(io.BytesIO(file.read())) for file in files if file.exists()]
    filled = [table for table in tables if len(table)]
    return in_order(pd.concat(filled)) if filled else no_picks()


def read_day(
    day: StationDay, margin_s: float, window: int, instruments: tuple[str, ...]
) -> tuple[list[Record], list[str]]:
    """Returns the records of a station around a day, and a line for whatever cannot be read."""
    import obspy

    begin, end = (obspy.UTCDateTime(ns=day.begin_ns + round(1e9 * s)) for s in (-margin_s, 86_400 + margin_s))
    stream, why = obspy.Stream(), []
    for path, _, _ in day.files:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                stream += obspy.read(path, starttime=begin, endtime=end, nearest_sample=False)
        except Exception as error:  # ObsPy's readers raise whatever they meet
            why.append(f"{path}: {' '.join(str(error).split()) or type(error).__name__}")
    mine = [one for one in stream if (one.stats.network, one.stats.station) == (day.network, day.station)]
    records, more = read_stream(obspy.Stream(_preferred(mine, instruments)), window)
    return records, why + more + _left_out(mine, instruments)


def _left_out(traces: list, instruments: tuple[str, ...]) -> list[str]:
    """A line for each place that has none of the instruments."""
    there = defaultdict(set)
    for trace in traces:
        there[f"{trace.stats.network}.{trace.stats.station}.{trace.stats.location}"].add(trace.stats.channel.upper())
    return [
        f"{place}: {', '.join(sorted(channels))}, none of the instruments {', '.join(instruments)}"
        for place, channels in sorted(there.items())
        if all(len(code) == 3 and code[:2] not in instruments for code in channels)
    ]


def _preferred(traces: list, instruments: tuple[str, ...]) -> list:
    """The traces of one instrument at each place; those whose channels have no such name, too."""
    order = {name: k for k, name in enumerate(instruments)}
    there = defaultdict(set)
    for trace in traces:
        there[trace.stats.location].add(trace.stats.channel[:2].upper())
    best = {place: min((n for n in names if n in order), key=order.get, default=None) for place, names in there.items()}

    def taken(trace) -> bool:
        code = trace.stats.channel.upper()
        return (
            code[:2] == best[trace.stats.location] if len(code) == 3 and best[trace.stats.location] else len(code) != 3
        )

    return [trace for trace in traces if taken(trace)]


@dataclass(frozen=True)
class _Worker:
    """Picks station-days, in a task or as an actor with a GPU."""

    picker: TrainedPicker
    how: Picking
    inventory: Any = None
    device: str = "cpu"

    def pick(self, day: StationDay, read: tuple[list[Record], list[str]]) -> tuple[pd.DataFrame, dict[str, Any]]:
        records, why = read
        begun = time.perf_counter()
        network = self.picker.network.to(self.device)
        table = pick_records(network, records, self.picker.calibration, self.picker.name)
        begin, end = (day.begin_ns + s * 10**9 for s in (0, 86_400))
        time_ns = table["peak_time"].astype("int64")
        table = table[(time_ns >= begin) & (time_ns < end)].reset_index(drop=True)
        table = _in_m_per_s(table, self.inventory) if self.inventory else table
        ends_ns = [np.clip(one.time_ns(np.array([0, len(one)])), begin, end) for one in records]
        hours = sum(int(last - first) for first, last in ends_ns) / 3.6e12
        told = {"why": why, "hours": hours, "picks": len(table), "seconds": time.perf_counter() - begun}
        return table, told


def _in_m_per_s(table: pd.DataFrame, inventory) -> pd.DataFrame:
    """Amplitudes over the sensitivity of the vertical channel on that day, where it is known."""
    from obspy import UTCDateTime

    for codes, part in table.groupby(["network", "station", "location", "instrument"]):
        moment = UTCDateTime(ns=int(part["peak_time"].astype("int64").iloc[0]))
        if counts := counts_per_m_s(inventory, ".".join(codes) + "Z", moment):
            table.loc[part.index, "amplitude"] /= counts
            table.loc[part.index, "amplitude_unit"] = "m/s"
    return table


def _results(
    picker: TrainedPicker, how: Picking, days: list[StationDay], margin_s: float
) -> Iterator[tuple[StationDay, Any]]:
    """Yields each day with its picks, or with the error that it ended in, as they come."""
    submit, at_a_time = _submitter(picker, how, margin_s)
    pending: dict[ray.ObjectRef, StationDay] = {}
    for day in [*days, None]:
        while pending and (day is None or len(pending) >= at_a_time):
            (done, *_), _ = ray.wait(list(pending), num_returns=1)
            mine = pending.pop(done)
            try:
                yield mine, ray.get(done)
            except ray.exceptions.RayError as error:
                yield mine, error
        if day is not None:
            pending[submit(day)] = day


def _submitter(
    picker: TrainedPicker, how: Picking, margin_s: float
) -> tuple[Callable[[StationDay], ray.ObjectRef], int]:
    """What begins a station-day, and how many are on their way at a time. On a GPU, other processes read what it picks."""
    inventory = _responses(how.stations)
    arguments = margin_s, picker.network.window_samples, how.instruments
    there = ray.cluster_resources()
    if how.device == "cpu":
        worker, task = ray.put(_Worker(picker, how, inventory)), ray.remote(_read_and_pick).options(num_cpus=1)
        return lambda day: task.remote(worker, day, *arguments), _AHEAD * max(1, int(there.get("CPU", 1)))
    read, gpus = ray.remote(read_day).options(num_cpus=1), max(1, int(there.get("GPU", 1)))
    actor = ray.remote(_Worker).options(num_gpus=1, num_cpus=0)
    actors = itertools.cycle([actor.remote(picker, how, inventory, how.device) for _ in range(gpus)])
    return lambda day: next(actors).pick.remote(day, read.remote(day, *arguments)), gpus * (1 + _AHEAD)


def _responses(stations: str | None) -> Any:
    """The inventory in a file of stations; None where it has no responses."""
    return None if stations is None or stations.lower().endswith(".csv") else response(stations)


def _read_and_pick(worker: _Worker, day: StationDay, *arguments) -> tuple[pd.DataFrame, dict[str, Any]]:
    return worker.pick(day, read_day(day, *arguments))


def _known_files(paths: tuple[str, ...], place: Location) -> pd.DataFrame:
    """What the files hold; a second call reads the headers of new files only."""
    list_of_files = place / "files.parquet"
    known = pd.read_parquet(io.BytesIO(list_of_files.read())) if list_of_files.exists() else None
    files = find_files(paths, known)
    list_of_files.write(files.to_parquet(index=False))
    return files


def _common_mark(picker: TrainedPicker, how: Picking) -> str:
    """A digest of all that decides the picks of a day, but its files."""
    responses = hashlib.sha256(Location(how.stations).read()).hexdigest() if how.stations else None
    built = getattr(picker.network, "model_config", "")  # what has no weights, as a high-pass
    return weights_digest(picker.network, _VERSION, built, picker.calibration, how.instruments, responses)


def _as_parquet(table: pd.DataFrame, told: dict[str, Any]) -> bytes:
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    stream = pa.BufferOutputStream()
    pq.write_table(arrow.replace_schema_metadata(arrow.schema.metadata | {_ABOUT: json.dumps(told)}), stream)
    return stream.getvalue().to_pybytes()


def _about(file: Location) -> dict[str, Any] | None:
    """What was told of a station-day that is done; None where nothing is."""
    if not file.exists():
        return None
    with file.open() as stream:
        return json.loads(pq.read_schema(stream).metadata[_ABOUT])


@dataclass
class _Progress:
    """Counts, and a line now and then."""

    days: int
    skipped: int = 0
    done: int = 0
    failed: int = 0
    picks: int = 0
    hours: float = 0.0
    why: dict[str, dict[str, list[datetime.date]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    begun: float = field(default_factory=time.perf_counter)
    said: float = 0.0

    def skip(self, day: StationDay, told: dict[str, Any]) -> None:
        self.skipped += 1
        self._count(day, told)

    def add(self, day: StationDay, told: dict[str, Any]) -> None:
        self.done += 1
        self.hours += told["hours"]
        self._count(day, told)
        self._say()

    def fail(self, day: StationDay, error: Exception) -> None:
        self.failed += 1
        cause = getattr(error, "cause", None) or error
        log.error("%s.%s %s failed: %s: %s", day.network, day.station, day.day, type(cause).__name__, cause)

    def counts(self) -> dict[str, Any]:
        seconds = time.perf_counter() - self.begun
        per_hour = self.done / seconds * 3600
        return {
            **{"station_days": self.done, "skipped": self.skipped, "failed": self.failed, "picks": self.picks},
            **{"hours_of_records": self.hours, "seconds": seconds, "station_days_an_hour": per_hour},
        }

    def tell_why(self) -> None:
        """One line for every station and reason for which something was not picked."""
        for station, reasons in sorted(self.why.items()):
            for reason, days in sorted(reasons.items()):
                when = f"{min(days)}" if len(days) == 1 else f"{len(days)} days from {min(days)} to {max(days)}"
                log.warning("%s, %s: %s", station, when, reason)

    def _count(self, day: StationDay, told: dict[str, Any]) -> None:
        self.picks += told["picks"]
        for reason in told["why"] or ([] if told["hours"] else ["nothing was recorded"]):
            self.why[f"{day.network}.{day.station}"][reason].append(day.day)

    def _say(self) -> None:
        now = time.perf_counter()
        ended = self.skipped + self.done + self.failed
        if now - self.said < _LINE_EVERY_S and ended < self.days:
            return
        self.said = now
        left = (self.days - ended) * (now - self.begun) / max(1, self.done) / 60
        log.info(
            "%d of %d station-days, %.0f min left, %d picks, %.0f station-days an hour",
            *(ended, self.days, left, self.picks, self.done / (now - self.begun) * 3600),
        )
