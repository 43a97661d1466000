"""SeisBench's file format, read without SeisBench: metadata<chunk>.csv beside waveforms<chunk>.hdf5.

Format: https://seisbench.readthedocs.io (data format). `raysys.data.hdf5_layout` says what a trace name means.
"""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from raysys.data.hdf5_layout import PROBLEMS, Unreadable, locate
from raysys.data.resample import FASTEST_HZ, SLOWEST_HZ, read_rates
from raysys.data.windows import COMPONENT_ROW, component_rows
from raysys.location import Location

PHASES = dict.fromkeys(("p", "pP", "P", "P1", "Pg", "Pn", "PmP", "pwP", "pwPm"), "P") | dict.fromkeys(
    ("s", "S", "S1", "Sg", "SmS", "Sn"), "S"
)
"""Phase name of a metadata column -> P or S, as in the pick benchmark of Muenchmeyer et al. 2022."""

_TEXT = {
    "split": ("split",),
    "event": ("source_id", "event_id"),
    "station": ("station_code",),
    "network": ("station_network_code",),
    "start_time": ("trace_start_time",),
    "category": ("trace_category", "source_type"),
    "origin_time": ("source_origin_time",),
    "components": ("trace_component_order",),
}
_NUMBER = {"latitude": ("source_latitude_deg",), "longitude": ("source_longitude_deg",)}
_COLUMN = {"sampling_rate": "sampling_rate_hz", "component_order": "component_order"}
_EMPTY = ["", "nan", "NaN", "None", "NA"]


def read_chunk(folder: str | Location, name: str, chunk: str) -> tuple[pa.Table, Counter, dict[str, str]]:
    """Returns the index rows of one chunk, the traces left out by reason, and one example for each reason.

    Raises:
        ValueError: the CSV or the HDF5 file cannot be read (truncated, wrong layout), naming the file and the fix.
    """
    folder = Location(folder)
    metadata = _read_csv(folder / f"metadata{chunk}.csv")
    n = len(metadata)
    columns: dict[str, Any] = {key: _text(metadata, wanted) for key, wanted in _TEXT.items()}
    columns |= {key: _number(metadata, wanted) for key, wanted in _NUMBER.items()}
    waveforms = folder / f"waveforms{chunk}.hdf5"
    layout = locate(waveforms, metadata["trace_name"].combine_chunks())
    columns |= layout.columns
    rates = _stated_rates(metadata)
    rate_hz = _default(layout.rate_hz, "sampling_rate", waveforms, np.isnan(rates))
    columns["rate_hz"] = np.where(np.isnan(rates), rate_hz, rates)
    given = columns["components"]
    missing = pc.equal(given, "")
    components = _default(layout.components, "component_order", waveforms, missing.to_numpy(zero_copy_only=False))
    columns["components"] = pc.if_else(missing, components, given)
    columns |= _picks(metadata, read_rates(columns["rate_hz"]))
    network = columns.pop("network")
    both = pc.binary_join_element_wise(network, columns["station"], ".")
    columns["station"] = pc.if_else(pc.equal(network, ""), columns["station"], both)
    columns["flags"], columns["scale"] = np.zeros(n, np.int32), np.ones(n, np.float32)
    columns["trace_name"] = metadata["trace_name"].combine_chunks()
    for key, value in (("dataset", name), ("chunk", chunk)):
        columns[key] = pa.repeat(pa.scalar(value, pa.string()), n)
    return _keep_usable(columns, f"metadata{chunk}.csv", layout.details)


def _read_csv(file: Location) -> pa.Table:
    wanted = {"trace_name", "trace_sampling_rate_hz", "trace_dt_s"}
    wanted |= {c for group in (*_TEXT.values(), *_NUMBER.values()) for c in group}
    wanted |= {f"trace_{phase}_arrival_sample" for phase in PHASES}
    text = {c for group in _TEXT.values() for c in group} | {"trace_name"}
    with file.open() as stream:
        header = stream.readline().decode().strip().split(",")
    present = [c for c in (column.strip('"') for column in header) if c in wanted]
    if "trace_name" not in present:
        raise ValueError(f"{file}: no column trace_name, so this is no SeisBench metadata file")
    options = pyarrow.csv.ConvertOptions(
        include_columns=present,
        column_types={c: pa.string() for c in present if c in text}
        | {c: pa.float64() for c in present if c not in text},
        null_values=_EMPTY,
        strings_can_be_null=True,
    )
    try:
        with file.open() as stream:
            return pyarrow.csv.read_csv(
                stream, convert_options=options, parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True)
            )
    except pa.ArrowInvalid as error:
        raise ValueError(f"{file}: {error}") from error


def _text(metadata: pa.Table, names: tuple[str, ...]) -> pa.Array:
    present = [metadata[name].combine_chunks() for name in names if name in metadata.column_names]
    nothing = pa.repeat(pa.scalar("", pa.string()), len(metadata))
    return pc.coalesce(*present, nothing)


def _number(metadata: pa.Table, names: tuple[str, ...]) -> np.ndarray:
    out = np.full(len(metadata), np.nan)
    for name in names:
        if name in metadata.column_names:
            values = metadata[name].to_numpy(zero_copy_only=False).astype(float)
            out = np.where(np.isnan(out), values, out)
    return out


def _stated_rates(metadata: pa.Table) -> np.ndarray:
    rates = _number(metadata, ("trace_sampling_rate_hz",))
    with np.errstate(divide="ignore"):
        return np.where(np.isnan(rates), 1.0 / _number(metadata, ("trace_dt_s",)), rates)


def _default(stated: Any, key: str, file: Location, needed: np.ndarray) -> Any:
    """What a file states for all its traces, which has to be readable where a trace needs it."""
    if not isinstance(stated, Unreadable):
        return stated
    if needed.any():
        count, first = int(needed.sum()), int(np.argmax(needed)) + 2
        raise ValueError(
            f"{file}: data_format/{key} is {stated.text}, which says nothing, and {count} rows of the metadata need it "
            f"(first: row {first}): correct it, or give those rows trace_{_COLUMN[key]}"
        )
    return "" if key == "component_order" else np.nan


def _picks(metadata: pa.Table, rates: np.ndarray) -> dict[str, Any]:
    """The first P and the first S of every trace in seconds, and the phase names they were given."""
    out: dict[str, Any] = {}
    names = list(PHASES)
    for wave in "PS":
        onset, phase = np.full(len(metadata), np.inf), np.full(len(metadata), len(names), np.int32)
        for code, (column, kind) in enumerate(PHASES.items()):
            name = f"trace_{column}_arrival_sample"
            if kind == wave and name in metadata.column_names:
                values = metadata[name].to_numpy(zero_copy_only=False).astype(float)
                earlier = values < onset
                onset[earlier], phase[earlier] = values[earlier], code
        with np.errstate(divide="ignore", invalid="ignore"):
            out[f"{wave.lower()}_s"] = np.where(np.isinf(onset), np.nan, onset / rates)
        out[f"{wave.lower()}_phase"] = pa.array([*names, ""]).take(pa.array(phase))
    return out


def _keep_usable(columns: dict[str, Any], metadata: str, details: pa.Array) -> tuple[pa.Table, Counter, dict[str, str]]:
    orders = columns["components"].dictionary_encode()
    code, names = orders.indices.to_numpy(zero_copy_only=False), orders.dictionary.to_pylist()
    readable = np.array([component_rows(order) is not None for order in names], bool)
    known = np.array([bool(order) and set(order) <= set(COMPONENT_ROW) for order in names], bool)
    length = np.array([len(order) for order in names], int)
    rate, problem = columns["rate_hz"], columns.pop("problem")
    reasons = {reason: problem == number for number, reason in enumerate(PROBLEMS) if reason}
    reasons |= {
        "sampling rate is zero, negative or missing": ~(rate > 0) | np.isinf(rate),
        f"sampling rate is not in {SLOWEST_HZ:g} to {FASTEST_HZ:g} Hz": (rate < SLOWEST_HZ) | (rate > FASTEST_HZ),
        "component order is not made of Z, N, E, 1, 2": ~readable[code] & ~known[code],
        "component order has two letters for one component": ~readable[code] & known[code],
        "component order does not match the stored components": length[code] != columns["num_components"],
    }
    keep = np.ones(len(code), bool)
    dropped, example = Counter(), {}
    for reason, bad in reasons.items():
        bad = bad & keep
        if bad.any():
            first = int(np.argmax(bad))
            dropped[reason] = int(bad.sum())
            example[reason] = f"{metadata} row {first + 2}, trace_name {columns['trace_name'][first]}"
            if detail := details[first].as_py():
                example[reason] += f", {detail}"
            keep &= ~bad
    return pa.table(columns).filter(pa.array(keep)), dropped, example
