"""SeisBench's file format, read without SeisBench: metadata<chunk>.csv beside waveforms<chunk>.hdf5.

Format: https://seisbench.readthedocs.io (data format). A trace name is either a node of the HDF5 group `data`, or
"bucket$row,:components,:samples" for one padded row of a block of traces.
"""

from collections import Counter
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from raysys.location import Location

PHASES = dict.fromkeys(("p", "pP", "P", "P1", "Pg", "Pn", "PmP", "pwP", "pwPm"), "P") | dict.fromkeys(
    ("s", "S", "S1", "Sg", "SmS", "Sn"), "S"
)
"""Phase name of a metadata column -> P or S, as in the pick benchmark of Muenchmeyer et al. 2022."""

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
    where, defaults = _locate(waveforms, metadata["trace_name"].combine_chunks())
    columns |= where
    columns["rate_hz"] = _rates(metadata, defaults["rate_hz"])
    given = columns["components"]
    columns["components"] = pc.if_else(pc.equal(given, ""), defaults["components"], given)
    columns |= _picks(metadata, columns["rate_hz"])
    network = columns.pop("network")
    both = pc.binary_join_element_wise(network, columns["station"], ".")
    columns["station"] = pc.if_else(pc.equal(network, ""), columns["station"], both)
    columns["flags"], columns["scale"] = np.zeros(n, np.int32), np.ones(n, np.float32)
    columns["trace_name"] = metadata["trace_name"].combine_chunks()
    for key, value in (("dataset", name), ("chunk", chunk), ("file", str(waveforms))):
        columns[key] = pa.repeat(pa.scalar(value, pa.string()), n)
    return _keep_usable(columns, f"metadata{chunk}.csv")


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


def _rates(metadata: pa.Table, default: float) -> np.ndarray:
    rates = _number(metadata, ("trace_sampling_rate_hz",))
    with np.errstate(divide="ignore"):
        rates = np.where(np.isnan(rates), 1.0 / _number(metadata, ("trace_dt_s",)), rates)
    return np.where(np.isnan(rates), default, rates)


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


def _keep_usable(columns: dict[str, Any], metadata: str) -> tuple[pa.Table, Counter, dict[str, str]]:
    orders = columns["components"].dictionary_encode()
    code, names = orders.indices.to_numpy(zero_copy_only=False), orders.dictionary.to_pylist()
    known = np.array([bool(c) and len(set(c)) == len(c) and set(c) <= set("ZNE12RT") for c in names], bool)
    length = np.array([len(c) for c in names], int)
    rate = columns["rate_hz"]
    reasons = {
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
            example[reason] = f"{metadata} row {first + 2}, trace_name {columns['trace_name'][first]}"
            keep &= ~bad
    return pa.table(columns).filter(pa.array(keep)), dropped, example
