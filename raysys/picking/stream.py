"""From an ObsPy stream to curves and picks: what `classify`, `jobs.pick` and everything else here goes through."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from torch import nn

from raysys.picking.curves import probabilities
from raysys.picking.picks import Calibration, find_picks, in_order, no_picks
from raysys.picking.record import Record, records_of

if TYPE_CHECKING:
    from obspy import Stream


def pick_records(
    network: nn.Module, records: list[Record], calibration: Calibration, model: str, batch: int | None = None
) -> pd.DataFrame:
    """Returns the picks in records as a table (`raysys.picking.picks.COLUMNS`).

    Args:
        network: a picker in evaluation mode, ours or SeisBench's (`raysys.networks`).
        records: of one or several instruments.
        calibration: of the picker.
        model: its name.
        batch: windows read at once; None: what suits the device.
    """
    tables = [find_picks(probabilities(network, one, batch).cpu().numpy(), one, calibration, model) for one in records]
    return in_order(pd.concat(tables)) if tables else no_picks()


def read_stream(stream: Stream, window: int) -> tuple[list[Record], list[str]]:
    """Returns the records in a stream, and a line for each instrument that cannot be read."""
    records, why = [], []
    for one in records_of(stream, window):
        (why if isinstance(one, str) else records).append(one)
    return records, why


def curves_as_stream(probability: np.ndarray, record: Record, names: tuple[str, ...]) -> Stream:
    """Returns curves (3, T) along a record as ObsPy traces with the channels `names`, one for each run without a gap."""
    from obspy import Stream, Trace, UTCDateTime

    there = np.concatenate([[False], np.isfinite(probability[0]), [False]])
    traces = []
    for first, last in np.flatnonzero(there[1:] != there[:-1]).reshape(-1, 2):
        begin = UTCDateTime(ns=int(record.time_ns(np.array([first]))[0]))
        header = {"network": record.network, "station": record.station, "location": record.location}
        for name, curve in zip(names, probability, strict=True):
            stats = header | {"channel": name, "starttime": begin, "sampling_rate": 100.0}
            traces.append(Trace(np.ascontiguousarray(curve[first:last]), stats))
    return Stream(traces)
