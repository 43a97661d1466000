"""Earthquakes that pretraining would see and an evaluation tests on: the same event in two splits, or in two data sets.

Catalogues name the same earthquake differently, and so do parts of one data set, so events are compared by their
identifiers and by origin time and epicentre. A foreshock within the tolerance counts as the same event, since the
records of one hold the other: the audit rather excludes too much.
"""

import json
import logging
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.data.timestamps import epoch_seconds

log = logging.getLogger(__name__)

TIME_S = 5.0
DISTANCE_KM = 50.0
"""Origins closer than both are the same event: about what agencies differ by for one earthquake."""
_SAME_ID_S = 60.0
"""Equal identifiers in two data sets mean the same event only if their origin times, where known, agree so far."""
_EARTH_KM = 6371.0
_PAIRS = 4_000_000
"""Candidate pairs that are compared at a time."""


@dataclass(frozen=True, slots=True)
class Leak:
    """Training traces of one data set that share their events with the evaluation splits of another (or the same).

    Attributes:
        train: data set of the traces.
        evaluation: data set whose dev or test split has the events.
        events: events shared.
        traces: training traces of them.
    """

    train: str
    evaluation: str
    events: int
    traces: int


def leaks(corpus: pa.Table, time_s: float = TIME_S, distance_km: float = DISTANCE_KM) -> tuple[np.ndarray, list[Leak]]:
    """Returns which rows are training traces of an evaluated event (rows,) bool, and the table of leaks.

    Args:
        corpus: index rows of all data sets with their splits.
        time_s: origins further apart in time are different events.
        distance_km: origins further apart in space are different events.
    """
    events = _Events.of(corpus)
    train, held = np.flatnonzero(events.train), np.flatnonzero(~events.train)
    pairs = np.concatenate([_by_identity(events, train, held), _by_origin(events, train, held, time_s, distance_km)])
    pairs = np.unique(pairs, axis=0)
    leaking = np.zeros(len(corpus), bool)
    leaking[events.row[np.isin(events.entry, pairs[:, 0])]] = True
    table = []
    names = np.array(events.names)
    both = events.dataset[pairs]
    for a, b in np.unique(both, axis=0).tolist():
        shared = np.unique(pairs[(both == (a, b)).all(axis=1), 0])
        table.append(Leak(names[a].item(), names[b].item(), len(shared), int(events.traces[shared].sum())))
    return leaking, table


def leak_lines(table: list[Leak]) -> str:
    """Returns the table as text."""
    rows = (f"{x.train} train, {x.evaluation} dev/test: {x.events} events, {x.traces} training traces" for x in table)
    return "\n".join(rows) or "none"


@dataclass(frozen=True, slots=True)
class _Events:
    """One entry for each event, data set and side (train or evaluation); noise has none.

    Attributes:
        row: rows of the corpus, once for each event in them.
        entry: the entry of each.
    """

    row: np.ndarray
    entry: np.ndarray
    train: np.ndarray
    dataset: np.ndarray
    identity: np.ndarray
    time_s: np.ndarray
    latitude: np.ndarray
    longitude: np.ndarray
    traces: np.ndarray
    names: list[str]

    @classmethod
    def of(cls, corpus: pa.Table) -> "_Events":
        more = corpus["more_events"].combine_chunks()
        row = np.concatenate([np.arange(len(corpus)), pc.list_parent_indices(more).to_numpy()])
        event = pa.concat_arrays([corpus["event"].combine_chunks(), pc.list_flatten(more)]).dictionary_encode()
        dataset = corpus["dataset"].combine_chunks().dictionary_encode()
        nameless = pc.equal(event.dictionary, "").to_numpy(zero_copy_only=False)
        identity = event.indices.to_numpy().astype(np.int64)
        identity[nameless[identity]] = -1
        train, code = pc.equal(corpus["split"], "train").to_numpy()[row], dataset.indices.to_numpy()[row]
        # The origin of a row is that of its first event.
        place = [epoch_seconds(corpus["origin_time"]), *(corpus[c].to_numpy() for c in ("latitude", "longitude"))]
        time, *place = (np.append(values, np.full(len(row) - len(corpus), np.nan)) for values in place)
        # An event is its identifier where it has one, else its origin; a trace with neither is alone.
        key = np.where(identity >= 0, 0, np.where(np.isnan(time), np.arange(len(row)) + 1, 0))
        columns = [train, code, identity, key, np.where(identity >= 0, 0, np.nan_to_num(time))]
        located = ~np.isnan([time, *place]).any(axis=0)
        order = np.lexsort([~located, *columns])  # an event's first row is one with an origin, where there is one
        new = np.zeros(len(order), bool)
        for column in columns:
            ordered = column[order]
            new[1:] |= ordered[1:] != ordered[:-1]
        new[:1] = True
        entry = np.empty(len(order), np.int64)
        entry[order] = np.cumsum(new) - 1
        first = order[new]
        count = np.bincount(entry, minlength=len(first))
        values = (column[first] for column in (train, code, identity, time, *place))
        return cls(row, entry, *values, count, dataset.dictionary.to_pylist())


def _by_identity(events: _Events, train: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Pairs (training entry, evaluation entry) with the same identifier."""
    train, held = train[events.identity[train] >= 0], held[events.identity[held] >= 0]
    held = held[np.argsort(events.identity[held], kind="stable")]
    low = np.searchsorted(events.identity[held], events.identity[train], side="left")
    high = np.searchsorted(events.identity[held], events.identity[train], side="right")
    a, b = _expand(low, high)
    a, b = train[a], held[b]
    apart = np.abs(events.time_s[a] - events.time_s[b]) > _SAME_ID_S
    keep = (events.dataset[a] == events.dataset[b]) | ~apart
    return np.stack([a[keep], b[keep]], axis=1)


def _by_origin(events: _Events, train, held, time_s: float, distance_km: float) -> np.ndarray:
    """Pairs whose origins agree, whatever their identifiers: the records of each hold both."""
    located = ~(np.isnan(events.time_s) | np.isnan(events.latitude) | np.isnan(events.longitude))
    train, held = train[located[train]], held[located[held]]
    held = held[np.argsort(events.time_s[held], kind="stable")]
    low = np.searchsorted(events.time_s[held], events.time_s[train] - time_s, side="left")
    high = np.searchsorted(events.time_s[held], events.time_s[train] + time_s, side="right")
    found = [np.zeros((0, 2), np.int64)]
    cuts = np.searchsorted(np.cumsum(high - low), np.arange(_PAIRS, int((high - low).sum()), _PAIRS))
    for first, last in pairwise(np.unique([0, *cuts, len(train)]).tolist()):
        i, j = _expand(low[first:last], high[first:last])
        a, b = train[first + i], held[j]
        keep = _distance_km(events, a, b) <= distance_km
        found.append(np.stack([a[keep], b[keep]], axis=1))
    return np.concatenate(found)


def _expand(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All (i, j) with low[i] <= j < high[i]."""
    count = high - low
    i = np.repeat(np.arange(len(low)), count)
    return i, np.arange(len(i)) - np.repeat(np.cumsum(count) - count, count) + low[i]


def _distance_km(events: _Events, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Great-circle distance (haversine)."""
    lat_a, lat_b, lon_a, lon_b = (
        np.radians(values)
        for values in (events.latitude[a], events.latitude[b], events.longitude[a], events.longitude[b])
    )
    h = np.sin((lat_b - lat_a) / 2) ** 2 + np.cos(lat_a) * np.cos(lat_b) * np.sin((lon_b - lon_a) / 2) ** 2
    return 2 * _EARTH_KM * np.arcsin(np.sqrt(np.clip(h, 0, 1)))


def leak_report(corpus: pa.Table) -> list[dict]:
    """Returns the leaks that were found when a corpus was loaded, one dictionary (`Leak`) each."""
    return json.loads((corpus.schema.metadata or {}).get(b"leaks", b"[]"))
