"""SeisBench's file format, read without SeisBench: metadata<chunk>.csv beside waveforms<chunk>.hdf5.

Format: https://seisbench.readthedocs.io (data format). `raysys.data.hdf5_layout` says what a trace name means.
"""

import json
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.data.hdf5_layout import PROBLEMS, Layout, Unreadable, locate
from raysys.data.metadata import Metadata, event_ids, read_metadata
from raysys.data.picks import is_pick, not_understood, read_onsets
from raysys.data.resample import FASTEST_HZ, SLOWEST_HZ, read_rates
from raysys.data.splits import read_splits
from raysys.data.timestamps import epoch_seconds
from raysys.data.windows import COMPONENT_ROW, component_rows
from raysys.location import Location

_TEXT = {
    "event": ("source_id", "event_id"),
    "station": ("station_code",),
    "network": ("station_network_code",),
    "start_time": ("trace_start_time",),
    "category": ("trace_category", "source_type"),
    "origin_time": ("source_origin_time",),
    "components": ("trace_component_order",),
}
_LATITUDE, _LONGITUDE = ("source_latitude_deg",), ("source_longitude_deg",)
_RATE, _STEP = ("trace_sampling_rate_hz",), ("trace_dt_s",)
_WANTED = {
    "trace_name",
    "split",
    *_RATE,
    *_STEP,
    *_LATITUDE,
    *_LONGITUDE,
    *(c for group in _TEXT.values() for c in group),
}


def read_chunk(folder: str | Location, name: str, chunk: str) -> tuple[pa.Table, Counter, dict[str, str]]:
    """Returns the index rows of one chunk, the traces left out by reason, and one example for each reason.

    The metadata of the table's schema say what was read of the rows and not used: "ignored", a JSON object of reasons and
    counts.

    Raises:
        ValueError: the CSV or the HDF5 file cannot be read (truncated, wrong layout), naming the file and the fix.
    """
    folder = Location(folder)
    metadata = read_metadata(folder / f"metadata{chunk}.csv", lambda column: column in _WANTED or is_pick(column))
    n = len(metadata)
    columns: dict[str, Any] = {key: metadata.text(wanted) for key, wanted in _TEXT.items()}
    columns |= _epicentres(metadata)
    columns["split"], columns["event"] = read_splits(metadata), event_ids(columns["event"])
    columns["trace_name"] = metadata.text(("trace_name",))
    layout = locate(folder / f"waveforms{chunk}.hdf5", columns["trace_name"])
    columns |= layout.columns
    columns |= _rates_and_orders(columns, metadata, layout)
    columns |= read_onsets(metadata, columns["num_samples"], read_rates(columns["rate_hz"]))
    network = columns.pop("network")
    both = pc.binary_join_element_wise(network, columns["station"], ".")
    columns["station"] = pc.if_else(pc.equal(network, ""), columns["station"], both)
    columns["flags"], columns["scale"] = np.zeros(n, np.int32), np.ones(n, np.float32)
    columns["more_events"] = pa.ListArray.from_arrays(np.zeros(n + 1, np.int32), pa.array([], pa.string()))
    for key, value in (("dataset", name), ("chunk", chunk)):
        columns[key] = pa.repeat(pa.scalar(value, pa.string()), n)
    table, dropped, example = _keep_usable(columns, metadata, layout.details)
    ignored = _ignored(table, metadata)
    return table.replace_schema_metadata({"ignored": json.dumps(ignored)}), dropped, example


def _ignored(table: pa.Table, metadata: Metadata) -> dict[str, int]:
    """What is not used of the rows that are: by reason, the number of cells or rows."""
    time = table["origin_time"]
    unread = np.isnan(epoch_seconds(time)) & pc.not_equal(time, "").to_numpy()
    counts = {
        "onset that is impossible (outside the trace)": int(np.sum(table["outside"].to_numpy())),
        "origin time that cannot be read": int(unread.sum()),
        "epicentre that is not on Earth": int(np.sum(table["nowhere"].to_numpy(zero_copy_only=False))),
        **{f"column {name}, which looks like a pick": len(table) for name in not_understood(metadata.header)},
        **{f"column {name}, which looks like {known}": len(table) for name, known in _misspelt(metadata.header)},
    }
    return {reason: count for reason, count in counts.items() if count}


def _misspelt(header: tuple[str, ...]) -> list[tuple[str, str]]:
    """Columns that differ from a known one by case, blanks or hyphens."""
    known = {column.replace("_", ""): column for column in _WANTED}
    folded = ((name, known.get("".join(filter(str.isalnum, name.lower())))) for name in header)
    return [(name, column) for name, column in folded if column and column not in header]


def _epicentres(metadata: Metadata) -> dict[str, np.ndarray]:
    """Latitude and longitude in degrees, NaN where there is none, and which are none because they cannot be."""
    latitude, longitude = metadata.numbers(_LATITUDE), metadata.numbers(_LONGITUDE)
    nowhere = (np.abs(latitude) > 90) | (np.abs(longitude) > 360)
    latitude[nowhere] = longitude[nowhere] = np.nan
    return {"latitude": latitude, "longitude": longitude, "nowhere": nowhere}


def _rates_and_orders(columns: dict[str, Any], metadata: Metadata, layout: Layout) -> dict[str, Any]:
    """Rate and component order of every trace: those of its row, else those of its file."""
    named = pc.not_equal(columns["trace_name"], "").to_numpy(zero_copy_only=False)
    rates, orders = _stated_rates(metadata), columns["components"]
    no_rate, no_order = np.isnan(rates), pc.equal(orders, "").to_numpy(zero_copy_only=False)
    rate_hz = _default(layout.rate_hz, np.nan, named & no_rate, *_RATE)
    order = _default(layout.components, "", named & no_order, *_TEXT["components"])
    return {"rate_hz": np.where(no_rate, rate_hz, rates), "components": pc.if_else(pa.array(no_order), order, orders)}


def _stated_rates(metadata: Metadata) -> np.ndarray:
    rates = metadata.numbers(_RATE)
    with np.errstate(divide="ignore"):
        return np.where(np.isnan(rates), 1.0 / metadata.numbers(_STEP), rates)


def _default(stated: Any, nothing: Any, needed: np.ndarray, column: str) -> Any:
    """What a file states for all its traces, which has to be readable where a trace needs it."""
    if not isinstance(stated, Unreadable):
        return stated
    if needed.any():
        raise ValueError(
            f"{stated.text}, which says nothing, and {needed.sum()} rows of the metadata need it "
            f"(first: row {int(np.argmax(needed)) + 2}): correct it, or give those rows {column}"
        )
    return nothing


def _keep_usable(
    columns: dict[str, Any], metadata: Metadata, details: pa.Array
) -> tuple[pa.Table, Counter, dict[str, str]]:
    orders = columns["components"].dictionary_encode()
    code, names = orders.indices.to_numpy(zero_copy_only=False), orders.dictionary.to_pylist()
    readable = np.array([component_rows(order) is not None for order in names], bool)
    known = np.array([bool(order) and set(order) <= set(COMPONENT_ROW) for order in names], bool)
    length = np.array([len(order) for order in names], int)
    rate, problem = columns["rate_hz"], columns.pop("problem")
    reasons = {"a row without trace_name": pc.equal(columns["trace_name"], "").to_numpy(zero_copy_only=False)}
    reasons |= {reason: problem == number for number, reason in enumerate(PROBLEMS) if reason}
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
            example[reason] = f"{metadata.place(first)}, trace_name {columns['trace_name'][first]}"
            if detail := details[first].as_py():
                example[reason] += f", {detail}"
            keep &= ~bad
    return pa.table(columns).filter(pa.array(keep)), dropped, example
