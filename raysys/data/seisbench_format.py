"""SeisBench's file format, read without SeisBench: metadata<chunk>.csv beside waveforms<chunk>.hdf5.

Format: https://seisbench.readthedocs.io (data format). A trace name is either a node of the HDF5 group `data`, or
"bucket$row,:components,:samples" for one padded row of a block of traces.
"""

import json
from collections import Counter
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.data.metadata import Metadata, event_ids, read_metadata
from raysys.data.picks import is_pick, not_understood, read_onsets
from raysys.data.splits import read_splits
from raysys.data.timestamps import epoch_seconds
from raysys.location import Location

_BLOCK = r"^(?P<node>[^$]+)\$(?P<row>\d+),:(?P<components>\d+),:(?P<samples>\d+)$"
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
    waveforms = folder / f"waveforms{chunk}.hdf5"
    where, defaults = _locate(waveforms, columns["trace_name"])
    columns |= where
    columns["rate_hz"] = _rates(metadata, defaults["rate_hz"])
    given = columns["components"]
    columns["components"] = pc.if_else(pc.equal(given, ""), defaults["components"], given)
    columns |= read_onsets(metadata, columns["num_samples"], columns["rate_hz"])
    network = columns.pop("network")
    both = pc.binary_join_element_wise(network, columns["station"], ".")
    columns["station"] = pc.if_else(pc.equal(network, ""), columns["station"], both)
    columns["flags"], columns["scale"] = np.zeros(n, np.int32), np.ones(n, np.float32)
    columns["more_events"] = pa.ListArray.from_arrays(np.zeros(n + 1, np.int32), pa.array([], pa.string()))
    for key, value in (("dataset", name), ("chunk", chunk), ("file", str(waveforms))):
        columns[key] = pa.repeat(pa.scalar(value, pa.string()), n)
    table, dropped, example = _keep_usable(columns, metadata)
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


def _rates(metadata: Metadata, default: float) -> np.ndarray:
    rates = metadata.numbers(_RATE)
    with np.errstate(divide="ignore"):
        rates = np.where(np.isnan(rates), 1.0 / metadata.numbers(_STEP), rates)
    return np.where(np.isnan(rates), default, rates)


def _locate(file: Location, names: pa.Array) -> tuple[dict[str, Any], dict]:
    """Where each trace lies in the HDF5 file; offset -2 marks a trace that the file does not hold."""
    parts = pc.extract_regex(names, _BLOCK)
    coded = pc.coalesce(pc.struct_field(parts, "node"), names).dictionary_encode()
    node = coded.indices.to_numpy(zero_copy_only=False)

    def integer(field: str) -> np.ndarray:
        text = pc.struct_field(parts, field)
        return pc.fill_null(text.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)

    row, components, samples = integer("row"), integer("components"), integer("samples")
    try:
        with file.open() as stream, h5py.File(stream, "r") as content:
            defaults, size = _data_format(content, file), file.size()
            stored = _nodes(content["data"], coded.dictionary.to_pylist())
    except (OSError, KeyError, RuntimeError) as error:
        if not file.is_local and isinstance(error, OSError):
            raise  # the network may have failed; the caller tries again
        raise ValueError(f"{file}: unreadable HDF5 file ({error}). Delete it and fetch it again") from error
    single = row < 0
    begin, dims, held, kept, stride, item = (stored[k][node] for k in ("offset", "dims", *_SHAPE, "itemsize"))
    components, samples = np.where(single, kept, components), np.where(single, stride, samples)
    fits = (components <= kept) & (samples <= stride) & (samples > 0)
    fits &= np.where(dims == 2, single, (dims == 3) & ~single & (row < held))
    trace_bytes = kept * stride * item
    offset = np.where(begin < 0, -1, begin + np.maximum(row, 0) * trace_bytes)
    fits &= (begin < 0) | (offset + trace_bytes <= size)
    out = {
        "node": coded.dictionary.take(pa.array(node)),
        "node_row": row.astype(np.int32),
        "offset": np.where(fits, offset, -2),
        "stride": stride.astype(np.int32),
        "num_samples": samples.astype(np.int32),
        "num_components": components.astype(np.int8),
        "dtype": pa.array(stored["dtype"]).take(pa.array(node)),
        "file_size": np.full(len(names), size, np.int64),
    }
    return out, defaults


_SHAPE = ("rows", "components", "samples")


def _nodes(group: h5py.Group, names: list[str]) -> dict[str, Any]:
    """Layout of HDF5 datasets: first byte (-1 where chunked or compressed), shape, type. Zeros for what is not there."""
    table = np.zeros((len(names), 6), np.int64)
    dtypes = [""] * len(names)
    for i, name in enumerate(names):
        try:
            node = h5py.h5d.open(group.id, name.encode())
        except KeyError:
            continue
        if node.rank not in (2, 3):
            continue
        layout = node.get_create_plist().get_layout()
        begin = node.get_offset() if layout == h5py.h5d.CONTIGUOUS else None
        shape = node.shape if node.rank == 3 else (1, *node.shape)
        table[i] = (-1 if begin is None else begin, node.rank, *shape, node.dtype.itemsize)
        dtypes[i] = node.dtype.str
    return dict(zip(("offset", "dims", *_SHAPE, "itemsize"), table.T, strict=True)) | {"dtype": dtypes}


def _data_format(content: h5py.File, file: Location) -> dict:
    """Defaults that the file states for all its traces."""
    group = content.get("data_format", {})

    def value(key, default):
        if key not in group:
            return default
        raw = group[key][()]
        return raw.decode() if isinstance(raw, bytes) else raw

    order = value("dimension_order", "CW")
    if order != "CW":
        raise ValueError(f"{file}: data_format/dimension_order is {order!r}, only 'CW' is supported")
    return {"components": value("component_order", ""), "rate_hz": float(value("sampling_rate", np.nan))}


def _keep_usable(columns: dict[str, Any], metadata: Metadata) -> tuple[pa.Table, Counter, dict[str, str]]:
    orders = columns["components"].dictionary_encode()
    code, names = orders.indices.to_numpy(zero_copy_only=False), orders.dictionary.to_pylist()
    known = np.array([bool(c) and len(set(c)) == len(c) and set(c) <= set("ZNE12RT") for c in names], bool)
    length = np.array([len(c) for c in names], int)
    rate = columns["rate_hz"]
    reasons = {
        "a row without trace_name": pc.equal(columns["trace_name"], "").to_numpy(zero_copy_only=False),
        "no such trace in the waveform file (or beyond its end)": columns["offset"] == -2,
        "sampling rate is zero, negative or missing": ~(rate > 0) | np.isinf(rate),
        "component order is not made of Z, N, E, 1, 2": ~known[code],
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
            keep &= ~bad
    return pa.table(columns).filter(pa.array(keep)), dropped, example
