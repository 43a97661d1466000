"""A stretch of a stream with the curves and picks of several pickers, as a small file beside the picks of an archive."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from raysys.location import Location
from raysys.picking.curves import probabilities
from raysys.picking.picks import find_picks, in_order, no_picks
from raysys.picking.stream import read_stream
from raysys.picking.trained import TrainedPicker

if TYPE_CHECKING:
    from obspy import Stream

FOLDER = "examples"
"""Of these files, in the folder that `jobs.pick` wrote."""
_CURVE = "curve of "


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """T samples of one instrument at 100 Hz, and what pickers make of them.

    Attributes:
        instrument: NET.STA.LOC.HH, without the letter of the component.
        begin_ns: when the first sample was taken, in nanoseconds since 1970.
        waveform: (3, T) Z, N, E, mean removed, float32; NaN where nothing was recorded.
        probability: name of a picker -> (3, T) of P, S and noise, NaN where nothing was recorded.
        picks: of all pickers (`raysys.picking.picks.COLUMNS`).
    """

    instrument: str
    begin_ns: int
    waveform: np.ndarray
    probability: dict[str, np.ndarray]
    picks: pd.DataFrame


def make_examples(stream: Stream, pickers: Sequence[TrainedPicker]) -> list[Example]:
    """Returns one example for each record in a stream.

    Args:
        stream: ObsPy's; is not changed.
        pickers: with names of their own.
    """
    records, _ = read_stream(stream, max(one.network.window_samples for one in pickers))
    examples = []
    for record in records:
        curves = {one.name: probabilities(one.network, record).cpu().numpy() for one in pickers}
        tables = [find_picks(curves[one.name], record, one.calibration, one.name) for one in pickers]
        examples.append(
            Example(
                instrument=f"{record.trace_id}.{record.instrument}",
                begin_ns=int(record.time_ns(np.zeros(1))[0]),
                waveform=record.samples,
                probability=curves,
                picks=in_order(pd.concat(tables)),
            )
        )
    return examples


def write_example(example: Example, file: Location) -> None:
    """Writes an example as .npz without pickles; the picks in it are a Parquet file."""
    stream = io.BytesIO()
    np.savez_compressed(
        stream,
        instrument=np.array(example.instrument),
        begin_ns=np.array(example.begin_ns),
        waveform=example.waveform,
        picks=np.frombuffer(example.picks.to_parquet(index=False), np.uint8),
        **{_CURVE + name: curve.astype(np.float16) for name, curve in example.probability.items()},
    )
    file.write(stream.getvalue())


def read_example(file: Location) -> Example:
    """Returns what `write_example` wrote, with curves to three digits.

    Raises:
        ValueError: the file holds something else, or a part of it.
    """
    try:
        with np.load(io.BytesIO(file.read())) as arrays:
            picks = pd.read_parquet(io.BytesIO(arrays["picks"].tobytes()))
            return Example(
                instrument=str(arrays["instrument"]),
                begin_ns=int(arrays["begin_ns"]),
                waveform=arrays["waveform"],
                probability={n.removeprefix(_CURVE): arrays[n] for n in arrays.files if n.startswith(_CURVE)},
                picks=in_order(picks) if len(picks) else no_picks(),
            )
    except (KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file} is no example of picks: {error}") from None
