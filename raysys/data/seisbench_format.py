"""SeisBench's file format, read without SeisBench: metadata<chunk>.csv beside waveforms<chunk>.hdf5.

Format: https://seisbench.readthedocs.io (data format). A trace name is either a node of the HDF5 group `data`, or
"bucket$row,:components,:samples" for one padded row of a block of traces.
"""

from collections import Counter

import fsspec
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from raysys.data.catalog import PHASES

_BLOCK = r"^(?P<node>[^$]+)\$(?P<row>\d+),:(?P<components>\d+),:(?P<samples>\d+)$"
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


def read_chunk(folder: str, name: str, chunk: str) -> tuple[pa.Table, Counter, dict[str, str]]:
    """Returns the index rows of one chunk, the traces left out by reason, and one example for each reason.

    Raises:
        ValueError: the CSV or the HDF5 file cannot be read (truncated, wrong layout), naming the file and the fix.
    """
    fs, path = fsspec.core.url_to_fs(folder)
    metadata = _read_csv(fs, f"{path}/metadata{chunk}.csv")
    columns = {key: _text(metadata, wanted) for key, wanted in _TEXT.items()}
    columns |= {key: _number(metadata, wanted) for key, wanted in _NUMBER.items()}
    waveforms = f"{folder.rstrip('/')}/waveforms{chunk}.hdf5"
    where, defaults = _locate(fs, f"{path}/waveforms{chunk}.hdf5", waveforms, metadata["trace_name"].to_pylist())
    columns |= where
    n = len(metadata)
    columns["rate_hz"] = _rates(metadata, defaults["rate_hz"])
    order = np.array([value or defaults["components"] for value in columns["components"]], dtype=object)
    columns["components"] = order
    columns |= _picks(metadata, columns["rate_hz"])
    columns["station"] = np.array(
        [
            ".".join(part for part in pair if part)
            for pair in zip(columns.pop("network"), columns["station"], strict=True)
        ],
        dtype=object,
    )
    columns["flags"] = np.zeros(n, np.int32)
    columns["dataset"], columns["chunk"] = np.full(n, name, object), np.full(n, chunk, object)
    columns["trace_name"] = np.array(metadata["trace_name"].to_pylist(), dtype=object)
    columns["file"] = np.full(n, waveforms, object)
    return _keep_usable(columns, f"metadata{chunk}.csv")


def _read_csv(fs, path: str) -> pa.Table:
    wanted = {"trace_name", "trace_sampling_rate_hz", "trace_dt_s"}
    wanted |= {c for group in (*_TEXT.values(), *_NUMBER.values()) for c in group}
    wanted |= {f"trace_{phase}_arrival_sample" for phase in PHASES}
    text = {c for group in _TEXT.values() for c in group} | {"trace_name"}
    with fs.open(path) as stream:
        header = stream.readline().decode().strip().split(",")
    present = [c for c in (column.strip('"') for column in header) if c in wanted]
    if "trace_name" not in present:
        raise ValueError(f"{path}: no column trace_name, so this is no SeisBench metadata file")
    options = pyarrow.csv.ConvertOptions(
        include_columns=present,
        column_types={c: pa.string() for c in present if c in text}
        | {c: pa.float64() for c in present if c not in text},
        null_values=["", "nan", "NaN", "None", "NA"],
        strings_can_be_null=True,
    )
    try:
        with fs.open(path) as stream:
            return pyarrow.csv.read_csv(
                stream, convert_options=options, parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True)
            )
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: {error}") from error


def _text(metadata: pa.Table, names: tuple[str, ...]) -> np.ndarray:
    out = np.full(len(metadata), "", object)
    for name in names:
        if name in metadata.column_names:
            values = metadata[name].fill_null("").to_numpy(zero_copy_only=False)
            out = np.where(out == "", values, out)
    return out


def _number(metadata: pa.Table, names: tuple[str, ...]) -> np.ndarray:
    out = np.full(len(metadata), np.nan)
    for name in names:
        if name in metadata.column_names:
            values = metadata[name].to_numpy(zero_copy_only=False).astype(float)
            out = np.where(np.isnan(out), values, out)
    return out


def _rates(metadata: pa.Table, default: float) -> np.ndarray:
    rates = _number(metadata, ("trace_sampling_rate_hz",))
    with np.errstate(divide="ignore"):
        rates = np.where(np.isnan(rates), 1.0 / _number(metadata, ("trace_dt_s",)), rates)
    return np.where(np.isnan(rates), default, rates)


def _picks(metadata: pa.Table, rates: np.ndarray) -> dict[str, np.ndarray]:
    """The first P and the first S of every trace in seconds, and the phase names they were given."""
    out = {}
    for wave in "PS":
        onset, phase = np.full(len(metadata), np.inf), np.full(len(metadata), "", object)
        for column, kind in PHASES.items():
            name = f"trace_{column}_arrival_sample"
            if kind == wave and name in metadata.column_names:
                values = metadata[name].to_numpy(zero_copy_only=False).astype(float)
                earlier = values < onset
                onset, phase = np.where(earlier, values, onset), np.where(earlier, column, phase)
        with np.errstate(divide="ignore", invalid="ignore"):
            out[f"{wave.lower()}_s"] = np.where(np.isinf(onset), np.nan, onset / rates)
        out[f"{wave.lower()}_phase"] = phase
    return out


def _locate(fs, path: str, shown: str, names: list[str]) -> tuple[dict[str, np.ndarray], dict]:
    """Where each trace lies in the HDF5 file; offset -2 marks a trace that the file does not hold."""
    n = len(names)
    parts = pc.extract_regex(pa.array(names, pa.string()), _BLOCK)
    block = parts.is_valid().to_numpy(zero_copy_only=False)
    nodes = np.where(block, pc.struct_field(parts, "node").to_numpy(zero_copy_only=False), np.array(names, object))

    def integer(field):
        values = np.full(n, -1, np.int64)
        values[block] = np.array([int(v) for v in pc.struct_field(parts, field).drop_null().to_pylist()], np.int64)
        return values

    row, components, samples = integer("row"), integer("components"), integer("samples")
    out = {
        "node": nodes,
        "node_row": row.astype(np.int32),
        "offset": np.full(n, -2, np.int64),
        "stride": np.zeros(n, np.int32),
        "num_samples": np.zeros(n, np.int32),
        "num_components": np.zeros(n, np.int8),
        "dtype": np.full(n, "", object),
    }
    try:
        with fs.open(path) as stream, h5py.File(stream, "r") as file:
            defaults = _data_format(file, shown)
            size = fs.size(path)
            unique, inverse = np.unique(nodes.astype(str), return_inverse=True)
            by_node = np.split(np.argsort(inverse, kind="stable"), np.cumsum(np.bincount(inverse))[:-1])
            for node, rows in zip(unique, by_node, strict=False):  # without rows there is one empty group
                if node in file["data"]:
                    _place(out, rows, file["data"][node], row[rows], components[rows], samples[rows], size)
    except (OSError, KeyError, RuntimeError) as error:
        raise ValueError(f"{shown}: unreadable HDF5 file ({error}). Delete it and fetch it again") from error
    return out, defaults


def _place(out, rows, dataset, row, components, samples, size) -> None:
    """Fills in the rows that lie in one HDF5 dataset; a row that does not fit into it keeps offset -2."""
    shape, item = dataset.shape, dataset.dtype.itemsize
    start = dataset.id.get_offset() if dataset.chunks is None and dataset.compression is None else None
    single = row < 0
    stored_components, stride = shape[-2], shape[-1]
    components = np.where(single, stored_components, components)
    samples = np.where(single, stride, samples)
    fits = (components <= stored_components) & (samples <= stride) & (samples > 0)
    fits &= single if len(shape) == 2 else (~single & (row < shape[0]))
    if start is None:
        offset = np.full(len(rows), -1, np.int64)
    else:
        trace_bytes = stored_components * stride * item
        offset = start + np.maximum(row, 0) * trace_bytes
        fits &= offset + trace_bytes <= size
    kept = rows[fits]
    out["offset"][kept] = offset[fits]
    out["stride"][kept] = stride
    out["num_samples"][kept] = samples[fits]
    out["num_components"][kept] = components[fits]
    out["dtype"][kept] = dataset.dtype.str


def _data_format(file: h5py.File, shown: str) -> dict:
    """Defaults that the file states for all its traces."""
    group = file.get("data_format", {})

    def value(key, default):
        if key not in group:
            return default
        raw = group[key][()]
        return raw.decode() if isinstance(raw, bytes) else raw

    order = value("dimension_order", "CW")
    if order != "CW":
        raise ValueError(f"{shown}: data_format/dimension_order is {order!r}, only 'CW' is supported")
    return {"components": value("component_order", ""), "rate_hz": float(value("sampling_rate", np.nan))}


def _keep_usable(columns: dict[str, np.ndarray], metadata: str) -> tuple[pa.Table, Counter, dict[str, str]]:
    order = columns["components"]
    known = {c: bool(c) and len(set(c)) == len(c) and set(c) <= set("ZNE12RT") for c in set(order.tolist())}
    reasons = {
        "no such trace in the waveform file (or beyond its end)": columns["offset"] == -2,
        "sampling rate is zero, negative or missing": ~(columns["rate_hz"] > 0) | np.isinf(columns["rate_hz"]),
        "component order is not made of Z, N, E, 1, 2": ~np.array([known[c] for c in order], bool),
        "component order does not match the stored components": np.array([len(c) for c in order], int)
        != columns["num_components"],
    }
    keep = np.ones(len(order), bool)
    dropped, example = Counter(), {}
    for reason, bad in reasons.items():
        bad = bad & keep
        if bad.any():
            first = int(np.argmax(bad))
            dropped[reason] = int(bad.sum())
            example[reason] = f"{metadata} row {first + 2}, trace_name {columns['trace_name'][first]}"
            keep &= ~bad
    return pa.table({key: pa.array(values[keep]) for key, values in columns.items()}), dropped, example
