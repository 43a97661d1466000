"""Continuous records at 100 Hz on one grid of time, whatever they were recorded as.

Sample k of the grid lies k / 100 s after 1970, so that a stream has the same samples wherever it is cut. Shapes: C component (Z, N, E),
T samples.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from raysys.data.resample import RATE_HZ, ratio, resampler

if TYPE_CHECKING:
    from obspy import Stream, Trace

GRID_NS = round(1e9 / RATE_HZ)
SLOWEST_HZ = 20.0
"""Slower records hold little of what a picker looks at."""
_EXACT = 1e-9
"""Relative difference up to which a rate is the round one beside it: a tenth of a millisecond a day."""
_PIECE = 1 << 20
"""Samples that are resampled at once."""
_WORDS = {"UD": "Z", "NS": "N", "EW": "E"}
"""Channels that are named by their direction."""
_VERTICAL = "Z", "3"
_HORIZONTAL = ("N", "E"), ("1", "2"), ("2", "3"), ("Y", "X"), ("R", "T")
_NO_MOTION = "CDEFIKMOQRSTUVW"
"""Second letters of SEED channels of something else: pressure, temperature, tides, strain, wind, the state of the instrument. (A, B and a
blank stand for motion in older files.)"""


@dataclass(frozen=True, slots=True)
class Record:
    """A stretch of one instrument's record; gaps in it are shorter than a window.

    Attributes:
        network, station, location: codes, "" where there is none.
        instrument: first two letters of the channels; "" for channels that are named otherwise.
        first: number of the first sample on the grid.
        samples: (3, T) float32 in ZNE order, mean removed; NaN where nothing was recorded.
        late: pieces of the first component that is there: (number of its first sample, seconds by which that one lies behind the grid,
            seconds by which each of the others lies further behind, which is 0 but for rates that are nearly round ones).
    """

    network: str
    station: str
    location: str
    instrument: str
    first: int
    samples: np.ndarray
    late: tuple[tuple[int, float, float], ...]

    @property
    def trace_id(self) -> str:
        return f"{self.network}.{self.station}.{self.location}"

    def __len__(self) -> int:
        return self.samples.shape[1]

    def time_ns(self, sample: np.ndarray) -> np.ndarray:
        """Returns when samples (n,) of this record were taken, in nanoseconds since 1970, int64."""
        begin, late_s, drift_s = (np.array(column) for column in zip(*self.late, strict=True))
        number = np.asarray(sample, np.int64) + self.first
        piece = np.clip(np.searchsorted(begin, number, side="right") - 1, 0, None)
        behind_s = late_s[piece] + drift_s[piece] * (number - begin[piece])
        return number * GRID_NS + np.rint(behind_s * 1e9).astype(np.int64)


def records_of(stream: Stream, window: int) -> Iterator[Record | str]:
    """Yields the records in a stream, and a line for whatever cannot be read as one.

    Channels of one instrument may have any order, rate and names, and any of them may be missing. Where two traces hold the same time the
    earlier one counts.

    Args:
        stream: ObsPy's; is not changed.
        window: samples at 100 Hz; a longer gap begins another record.
    """
    instruments = defaultdict(lambda: defaultdict(list))
    for trace in stream:
        code = trace.stats.channel.strip().upper()
        name = ("", _WORDS[code]) if code in _WORDS else (code[:-1][:2], code[-1:])
        where = trace.stats.network, trace.stats.station, trace.stats.location
        instruments[*where, name[0]][name[1]].append(trace)
    for (network, station, location, instrument), letters in sorted(instruments.items()):
        told = ".".join((network, station, location, instrument + "?"))
        try:
            pieces = _pieces(letters, instrument)
        except ValueError as error:
            yield f"{told}: {error}"
            continue
        for stretch in _stretches(pieces, window):
            yield _joined(stretch, (network, station, location, instrument))


@dataclass(frozen=True, slots=True)
class _Piece:
    """One trace at 100 Hz: its row of the record, the number of its first sample, (T,) float64 samples, seconds behind the grid
    at the first sample, and by how many more at each of the others."""

    row: int
    first: int
    samples: np.ndarray
    late: float
    drift: float

    @property
    def last(self) -> int:
        return self.first + len(self.samples)


def _pieces(letters: dict[str, list[Trace]], instrument: str) -> list[_Piece]:
    if len(instrument) == 2 and instrument[1] in _NO_MOTION:
        raise ValueError("not a seismometer")
    rows = _rows(set(letters))
    rates = sorted({trace.stats.sampling_rate for letter in rows for trace in letters[letter]})
    if rates[-1] < SLOWEST_HZ:
        raise ValueError(f"recorded at {rates[-1]:g} Hz, and at least {SLOWEST_HZ:g} Hz are needed")
    pieces = []
    for letter, row in rows.items():
        traces = [one for one in letters[letter] if len(one.data) and one.stats.sampling_rate >= SLOWEST_HZ]
        pieces += [_at_100_hz(trace, row) for trace in _merged(traces) if len(trace.data)]
    if not pieces:
        raise ValueError("nothing was recorded")
    if not any(one.samples.max() > one.samples.min() for one in pieces):
        raise ValueError("every sample is the same")
    return pieces


def _rows(letters: set[str]) -> dict[str, int]:
    """The row of each component's letter. One alone is taken as the vertical."""
    if letters <= set("UVW"):
        raise ValueError(f"components {', '.join(sorted(letters))} are none of Z, N and E: rotate them before")
    rows = {}
    for letter in _VERTICAL:
        if letter in letters and not rows and (letter == "Z" or {"1", "2"} <= letters):
            rows[letter] = 0
    left = letters - set(rows)
    pairs = [pair for pair in _HORIZONTAL if left & set(pair)]
    for pair in sorted(pairs, key=lambda pair: -len(left & set(pair)))[:1]:  # a whole one rather than a half
        rows |= {letter: row for row, letter in enumerate(pair, start=1) if letter in left}
    if len(letters) == 1:
        rows = {letter: rows.get(letter, 0) for letter in letters}
    if not rows:
        raise ValueError(f"components {', '.join(sorted(letters))} are not known: rename them to Z, N and E")
    return rows


def _merged(traces: list[Trace]) -> Iterator[Trace]:
    """Traces of finite samples in rising order; those that continue each other become one, as each has an edge when it is resampled."""
    from obspy import Stream, Trace

    alike = defaultdict(list)
    for trace in traces:
        data = trace.data
        if np.ma.isMaskedArray(data):
            data = data.astype(np.float64).filled(np.nan)
        header = {"starttime": trace.stats.starttime, "sampling_rate": trace.stats.sampling_rate}
        alike[trace.stats.sampling_rate, data.dtype].append(Trace(data, header))
    merged = itertools.chain.from_iterable(Stream(some).merge(-1) for some in alike.values())
    whole = itertools.chain.from_iterable(_whole_parts(trace) for trace in merged)
    yield from sorted(whole, key=lambda trace: trace.stats.starttime)


def _whole_parts(trace: Trace) -> Iterator[Trace]:
    from obspy import Trace

    finite = np.isfinite(trace.data)
    if finite.all():
        yield trace
        return
    rate, begin = trace.stats.sampling_rate, trace.stats.starttime
    there = np.concatenate([[False], finite, [False]])
    for first, last in np.flatnonzero(there[1:] != there[:-1]).reshape(-1, 2).tolist():
        yield Trace(trace.data[first:last], {"starttime": begin + first / rate, "sampling_rate": rate})


def _at_100_hz(trace: Trace, row: int) -> _Piece:
    data, begin_ns = np.asarray(trace.data, np.float64), trace.stats.starttime.ns
    up, down = ratio(trace.stats.sampling_rate)
    number = round(Fraction(begin_ns * down, GRID_NS * up))  # of the first sample, at the trace's own rate
    # In integers, as floats of seconds since 1970 are 0.2 us apart.
    late = float(Fraction(begin_ns * down - number * GRID_NS * up, down * 10**9))
    seconds = up / down / RATE_HZ
    drift = (1 / trace.stats.sampling_rate - seconds) / seconds / RATE_HZ
    drift = drift if abs(drift) * RATE_HZ > _EXACT else 0.0
    if up == down:
        return _Piece(row, number, data, late, drift)
    first, last = (-(-end * up // down) for end in (number, number + len(data)))
    return _Piece(row, first, _resampled(data, number, first, last, up, down), late, drift)


def _resampled(data: np.ndarray, number: int, first: int, last: int, up: int, down: int) -> np.ndarray:
    """Samples first .. last - 1 of the grid, of data whose first sample has a number at its own rate; its ends are held."""
    apply, parts = resampler(up, down), []
    for begin in range(first, last, _PIECE):
        window = min(_PIECE, last - begin)
        low, needed = apply.span(np.array([begin]), window)
        place = np.clip(np.arange(needed) + int(low[0]) - number, 0, len(data) - 1)
        parts.append(apply(data[place][None, None], np.array([begin]), window)[0, 0])
    return np.concatenate(parts) if parts else np.zeros(0)


def _stretches(pieces: list[_Piece], window: int) -> Iterator[list[_Piece]]:
    stretch, end = [], 0
    for piece in sorted(pieces, key=lambda one: one.first):
        if stretch and piece.first - end >= window:
            yield stretch
            stretch = []
        end = max(end, piece.last) if stretch else piece.last
        stretch.append(piece)
    if stretch:
        yield stretch


def _joined(pieces: list[_Piece], codes: tuple[str, str, str, str]) -> Record:
    first, last = min(one.first for one in pieces), max(one.last for one in pieces)
    samples = np.full((3, last - first), np.nan)
    for one in pieces:
        into = samples[one.row, one.first - first : one.last - first]
        into[np.isnan(into)] = one.samples[np.isnan(into)]
    there = np.isfinite(samples)
    mean = np.where(there, samples, 0).sum(axis=1) / np.maximum(1, there.sum(axis=1))
    row = min(one.row for one in pieces)
    late = tuple((one.first, one.late, one.drift) for one in pieces if one.row == row)
    return Record(*codes, first, (samples - mean[:, None]).astype(np.float32), late)
