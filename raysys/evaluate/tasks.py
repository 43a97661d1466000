"""The tasks of Muenchmeyer et al. 2022 as tables: which part of which trace is looked at, and what is there."""

import hashlib
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from raysys.data.onsets import Onsets
from raysys.data.windows import RATE_HZ, Traces

SPLITS = ("dev", "test")
EVENT_SAMPLES, EVENT_MARGIN = 3000, 100
"""Of task 1: earthquake or noise. The margin lies between the first onset and both ends."""
ONSET_SAMPLES, ONSET_MARGIN = 1000, 50
"""Of tasks 2 and 3: which onset it is, and when. The margin also lies between other onsets and the ends."""


@dataclass(frozen=True, slots=True)
class Targets:
    """The tables of one data set, with the columns of the pick-benchmark and three of ours.

    Ours are `trace_chunk`, which names a trace together with `trace_name`, `event`, what is drawn together in a bootstrap, and
    `row`, the row of the index that a trace is.
    """

    task1: pd.DataFrame
    task23: pd.DataFrame

    def of_split(self, split: str) -> dict[str, pd.DataFrame]:
        """Returns the rows of a split by the name of the task."""
        tables = {"task1": self.task1, "task23": self.task23}
        return {name: table[table["trace_split"] == split].reset_index(drop=True) for name, table in tables.items()}


def make_targets(table: pa.Table) -> Targets:
    """Returns the tasks of the dev and test traces of a data set: a pure function of what is known of each trace.

    Task 1 holds a window around the first onset of every trace with one, one of every trace that is known to be noise, and one
    before the first onset where that is a P and there is room. Unlike in the pick-benchmark, a trace without onsets that nobody
    calls noise is none. Tasks 2 and 3 hold a window around every onset that can be alone in one.

    Args:
        table: index of one data set, all splits.
    """
    onsets, length = Onsets.from_table(table), Traces.from_table(table).output_samples(np.arange(len(table)))
    chosen = np.isin(np.array(table["split"].to_pylist()), SPLITS)
    return Targets(_task1(table, onsets, length, chosen), _task23(table, onsets, length, chosen))


def identity_columns(table: pa.Table, rows: np.ndarray) -> dict[str, list]:
    """Returns trace_name, trace_chunk, trace_split and event of rows of an index, as columns; a trace without an event is one."""
    part = table.select(["dataset", "chunk", "trace_name", "split", "event"]).take(pa.array(rows)).to_pydict()
    trace = [f"trace {chunk}/{name}" for chunk, name in zip(part["chunk"], part["trace_name"], strict=True)]
    event = [event or own for event, own in zip(part["event"], trace, strict=True)]
    names = [f"{dataset}/{one}" for dataset, one in zip(part["dataset"], event, strict=True)]
    return {
        "trace_name": part["trace_name"],
        "trace_chunk": part["chunk"],
        "trace_split": part["split"],
        "event": names,
    }


def _task1(table: pa.Table, onsets: Onsets, length: np.ndarray, chosen: np.ndarray) -> pd.DataFrame:
    first_p, first_s, first_other = (x[:, 0] if x.shape[1] else np.full(len(x), np.nan) for x in _all(onsets))
    first = np.fmin(first_p, first_s)
    whole = length <= EVENT_SAMPLES
    start, room = _place(0, length, EVENT_SAMPLES, first, EVENT_MARGIN, _draw(table, "earthquake"))
    quake = chosen & ~np.isnan(first) & (room | whole)
    anywhere, _ = _place(0, length, EVENT_SAMPLES, first, None, _draw(table, "noise"))
    before, fits = _place(0, first - EVENT_MARGIN, EVENT_SAMPLES, first, None, _draw(table, "before"))
    early = chosen & fits & (first == first_p) & ~(first_other < first)
    parts = []
    for kind, which, begin in (
        ("earthquake", quake, np.where(whole, 0, start)),
        ("noise", chosen & onsets.noise, np.where(whole, 0, anywhere)),
        ("noise", early, before),
    ):
        rows = np.flatnonzero(which)
        end = np.minimum(begin[rows] + EVENT_SAMPLES, length[rows])
        parts.append(_frame(table, rows, begin[rows], end).assign(trace_type=kind))
    return pd.concat(parts).sort_values(["row", "start_sample"], kind="stable", ignore_index=True)


def _task23(table: pa.Table, onsets: Onsets, length: np.ndarray, chosen: np.ndarray) -> pd.DataFrame:
    waves = _all(onsets)
    every = np.concatenate(waves, axis=1)
    wave = np.repeat(["P", "S", ""], [x.shape[1] for x in waves])
    first = np.isin(np.arange(every.shape[1]), [0, waves[0].shape[1]])
    order = np.argsort(every, axis=1, kind="stable")
    every, end = np.take_along_axis(every, order, axis=1), np.full((len(every), 1), np.nan)
    low = np.column_stack([end, every[:, :-1]]) + ONSET_MARGIN
    high = np.column_stack([every[:, 1:], end]) - ONSET_MARGIN
    low, high = np.where(np.isnan(low), 0, low), np.where(np.isnan(high), length[:, None], high)
    draw = np.stack([_draw(table, f"onset {k}") for k in range(every.shape[1])], axis=1)
    start, room = _place(low, high, ONSET_SAMPLES, every, ONSET_MARGIN, draw)
    whole = (length[:, None] <= ONSET_SAMPLES) & (low == 0) & (high == length[:, None])
    rows, k = np.nonzero(chosen[:, None] & (wave[order] != "") & ~np.isnan(every) & (room | whole))
    begin = np.where(whole, 0, start)[rows, k]
    label, source = wave[order][rows, k], first[order][rows, k]
    named = {name: np.array(table[f"{name.lower()}_phase"].to_pylist())[rows] for name in "PS"}
    full = np.where(label == "P", named["P"], named["S"])
    return _frame(table, rows, begin, np.minimum(begin + ONSET_SAMPLES, length[rows])).assign(
        phase_label=label,
        full_phase_label=np.where(source & (full != ""), full, label),
        phase_onset=every[rows, k],
    )


def _all(onsets: Onsets) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return onsets.p, onsets.s, onsets.other


def _place(low, high, window: int, onset: np.ndarray, margin: int | None, draw: np.ndarray):
    """First samples of windows between two samples, and where there is room for one.

    Args:
        low, high: limits of the windows.
        window: samples of one.
        onset: that a window holds; it counts only with a margin.
        margin: least distance of the onset from both ends; None: a window lies anywhere.
        draw: numbers in [0, 1) that choose among the places.
    """
    first, last = np.ceil(low), np.floor(high) - window
    if margin is not None:
        first, last = np.fmax(first, np.ceil(onset - window + margin)), np.fmin(last, np.floor(onset - margin))
    start = first + np.floor(draw * np.maximum(0, last - first + 1))
    return np.nan_to_num(start).astype(np.int64), last >= first


def _frame(table: pa.Table, rows: np.ndarray, start: np.ndarray, end: np.ndarray) -> pd.DataFrame:
    places = {"trace_idx": rows, "sampling_rate": RATE_HZ, "start_sample": start, "end_sample": end, "row": rows}
    return pd.DataFrame(identity_columns(table, rows) | places)


def _draw(table: pa.Table, what: str) -> np.ndarray:
    """A number in [0, 1) of every trace, a hash of its name and of what it is for."""
    columns = (table[name].to_pylist() for name in ("dataset", "chunk", "trace_name"))
    names = (f"{what}/{dataset}/{chunk}/{name}" for dataset, chunk, name in zip(*columns, strict=True))
    digests = b"".join(hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names)
    return (np.frombuffer(digests, "<u8") >> np.uint64(11)) / 2.0**53
