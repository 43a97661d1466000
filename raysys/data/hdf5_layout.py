"""Where each trace of a chunk lies: in its HDF5 file, or in the file to which that one links.

A trace name is a node of the HDF5 group `data`, or "node$row,a:b,c:d": a row of a block of traces, and the slices of its
two dimensions. Slices may be left out, be open, and count from the end, as in SeisBench.
"""

import os
from typing import Any, NamedTuple

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.data.files import open_hdf5
from raysys.location import Location

_SLICES = r" *(?P<a>{0})? *: *(?P<b>{0})? *(?:, *(?P<c>{0})? *: *(?P<d>{0})? *)?".format(r"-?\d{1,9}")
_BLOCK = rf"^(?P<node>[^$]+)\$ *(?:(?P<row>-?\d{{1,9}}) *(?:,|$))?(?:{_SLICES})?$"

ABSENT = "no such trace in the waveform file (or beyond its end)"
LINK = "linked to what is not there (an object store follows no links)"
UNSUPPORTED = "trace_name or storage of a form that is not read"
NOT_REAL = "samples are not real numbers"
PROBLEMS = ("", ABSENT, LINK, UNSUPPORTED, NOT_REAL)
"""Why a trace cannot be read; the column `problem` holds the number."""


class Unreadable(NamedTuple):
    """A value of the group `data_format` that does not say what it should."""

    text: str
    """Where it stands, and what it is."""


class Layout(NamedTuple):
    """Where traces lie."""

    columns: dict[str, Any]
    """Of the index, and `problem`."""
    details: pa.Array
    """What is to say of the problem of each trace: the file that is not there."""
    components: str | Unreadable
    """The order that the file states for all its traces, "" where it states none."""
    rate_hz: float | Unreadable
    """The rate that it states, NaN where it states none."""


def locate(file: Location, names: pa.Array) -> Layout:
    """Returns where traces lie, and the defaults of their file.

    Raises:
        ValueError: the file is damaged or of another layout (naming the file and the fix).
        PermissionError: it may not be read.
    """
    parts = pc.extract_regex(names, _BLOCK)
    coded = pc.coalesce(pc.struct_field(parts, "node"), names).dictionary_encode()
    code = coded.indices.to_numpy(zero_copy_only=False)
    try:
        with open_hdf5(file) as content:
            order, components, rate_hz = _data_format(content, file)
            group, sizes = _data(content, file), {str(file): file.size()}
            nodes = [_node(group, name, file, sizes) for name in coded.dictionary.to_pylist()]
    except PermissionError:
        raise
    except (OSError, RuntimeError) as error:
        if not file.is_local and isinstance(error, OSError):
            raise  # the network may have failed; the caller tries again
        text = f"{file}: unreadable HDF5 file ({error}). It is damaged, incomplete or being written: fetch it again"
        raise ValueError(text) from error
    columns = _columns(parts, _Nodes.of(nodes, code), order == "WC")
    other_form = pc.and_(pc.match_substring(names, "$"), pc.is_null(pc.struct_field(parts, "node")))
    other_form = other_form.to_numpy(zero_copy_only=False) & (columns["problem"] == PROBLEMS.index(ABSENT))
    columns["problem"][other_form] = PROBLEMS.index(UNSUPPORTED)
    details = pa.array([node.detail for node in nodes], pa.string()).take(pa.array(code))
    return Layout(columns, details, components, rate_hz)


def _data(content: h5py.File, file: Location) -> h5py.Group:
    group = content.get("data")
    if not isinstance(group, h5py.Group):
        found = ", ".join(list(content)[:5]) or "nothing"
        raise ValueError(
            f"{file}: no group 'data' (it holds {found}), so this is not SeisBench's layout: "
            f"convert it with seisbench.data.WaveformDataWriter"
        )
    return group


class _Node(NamedTuple):
    """One HDF5 dataset."""

    problem: int = 0
    detail: str = ""
    file: str = ""
    name: str = ""
    file_size: int = 0
    begin: int = -1
    """First byte in the file, -1 where it is chunked, compressed or virtual."""
    rank: int = 0
    shape: tuple[int, int, int] = (0, 0, 0)
    itemsize: int = 0
    dtype: str = ""


def _node(group: h5py.Group, name: str, main: Location, sizes: dict[str, int]) -> _Node:
    try:
        node = h5py.h5d.open(group.id, name.encode())
        dtype, rank = node.dtype, node.rank
    except KeyError:
        link = group.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            return _Node(PROBLEMS.index(LINK), f"{link.filename}, {link.path}")
        return _Node(PROBLEMS.index(ABSENT))
    except TypeError:
        return _Node(PROBLEMS.index(NOT_REAL))
    if rank not in (2, 3) or dtype.kind not in "iufb":
        return _Node(PROBLEMS.index(ABSENT if rank not in (2, 3) else NOT_REAL))
    file, begin = str(main), -1
    if main.is_local:
        file = os.path.abspath(os.fsdecode(h5py.h5f.get_name(node)))
        name = name if file == str(main) else h5py.h5i.get_name(node).decode()
    properties = node.get_create_plist()
    layout = properties.get_layout()
    problem, detail = 0, ""
    if layout == h5py.h5d.VIRTUAL:
        problem, detail = _virtual(h5py.Dataset(node), Location(file))
    elif layout == h5py.h5d.CONTIGUOUS and properties.get_external_count():
        problem, detail, begin = _raw(properties, main.is_local)
        file = file if problem else detail
    elif layout == h5py.h5d.CONTIGUOUS:
        begin = node.get_offset()
        begin = -1 if begin is None else begin
    if file not in sizes:
        sizes[file] = Location(file).size()
    shape = node.shape if rank == 3 else (1, *node.shape)
    return _Node(problem, detail, file, name, sizes[file], begin, rank, shape, dtype.itemsize, dtype.str)


def _raw(properties: h5py.h5p.PropDCID, local: bool) -> tuple[int, str, int]:
    """Problem, file and first byte of samples that lie in a file of their own."""
    name, begin, _ = properties.get_external(0)
    file = os.path.abspath(os.fsdecode(name))  # HDF5 begins at the working directory, which no other process shares
    if properties.get_external_count() > 1 or not local:
        return PROBLEMS.index(UNSUPPORTED), file, -1
    return (0, file, begin) if os.path.isfile(file) else (PROBLEMS.index(LINK), file, -1)


def _virtual(node: h5py.Dataset, file: Location) -> tuple[int, str]:
    """Problem and what it is of a dataset made of others; HDF5 fills in zeros for those that are not there."""
    if not file.is_local:
        return PROBLEMS.index(UNSUPPORTED), "virtual dataset"
    for source in node.virtual_sources():
        path = file.path if source.file_name == "." else os.path.join(os.path.dirname(file.path), source.file_name)
        try:
            with h5py.File(path, "r") as content:
                found = isinstance(content.get(source.dset_name), h5py.Dataset)
        except OSError:
            found = False
        if not found:
            return PROBLEMS.index(LINK), f"{path}, {source.dset_name}"
    return 0, ""


class _Nodes(NamedTuple):
    """The nodes of all traces, as arrays."""

    problem: np.ndarray
    file: pa.Array
    name: pa.Array
    file_size: np.ndarray
    begin: np.ndarray
    rank: np.ndarray
    shape: np.ndarray
    itemsize: np.ndarray
    dtype: pa.Array

    @classmethod
    def of(cls, nodes: list[_Node], code: np.ndarray) -> "_Nodes":
        """Args: nodes: each once; code: of each trace, its node."""
        columns = {name: [getattr(node, name) for node in nodes] for name in cls._fields}
        text = {
            name: pa.array(columns.pop(name), pa.string()).take(pa.array(code)) for name in ("file", "name", "dtype")
        }
        shape = np.array(columns.pop("shape"), np.int64).reshape(-1, 3)[code]
        return cls(**text, shape=shape, **{name: np.array(values, np.int64)[code] for name, values in columns.items()})


def _integers(parts: pa.StructArray, field: str) -> tuple[np.ndarray, np.ndarray]:
    """Whether each name gives a number, and the number, 0 where it gives none."""
    text = pc.struct_field(parts, field)
    known = pc.fill_null(pc.not_equal(text, ""), False)
    number = pc.if_else(known, text, "0").cast(pa.int64())
    return known.to_numpy(zero_copy_only=False), number.to_numpy(zero_copy_only=False)


def _slice(parts: pa.StructArray, fields: str, size: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First element and number of elements of a slice of a dimension, and whether the dimension holds them."""
    ends = []
    for field, default in zip(fields, (0, size), strict=True):
        known, number = _integers(parts, field)
        ends.append(np.where(known, number + size * (number < 0), default))
    start, stop = ends
    return start, stop - start, (start >= 0) & (start < stop) & (stop <= size)


def _columns(parts: pa.StructArray, nodes: _Nodes, samples_first: bool) -> dict[str, Any]:
    """The columns of the index: each trace is a row, and a slice of each dimension, of its node."""
    in_block, row = _integers(parts, "row")
    held, *sizes = nodes.shape.T
    row = row + held * (row < 0)
    first, count, inside = zip(
        *(_slice(parts, f, size) for f, size in zip(("ab", "cd"), sizes, strict=True)), strict=True
    )
    fits = np.where(in_block, nodes.rank == 3, nodes.rank == 2) & (row >= 0) & (row < held) & inside[0] & inside[1]
    along = (sizes[1], np.ones_like(held))  # stored samples from one element of a dimension to the next
    (stride, step), (components, samples) = (along[::-1], count[::-1]) if samples_first else (along, count)
    start = first[0] * along[0] + first[1]
    last = (components - 1) * stride + (samples - 1) * step
    offset = nodes.begin + (row * sizes[0] * sizes[1] + start) * nodes.itemsize
    contiguous = nodes.begin >= 0
    fits &= ~contiguous | (offset + (last + 1) * nodes.itemsize <= nodes.file_size)
    problem = np.where(nodes.problem > 0, nodes.problem, np.where(fits, 0, PROBLEMS.index(ABSENT)))
    return {
        "node": nodes.name,
        "node_row": np.where(in_block, row, -1),
        "start": start,
        "offset": np.where(contiguous, offset, -1),
        "stride": stride,
        "step": step,
        "num_samples": samples,
        "num_components": components,
        "dtype": nodes.dtype,
        "file": nodes.file,
        "file_size": nodes.file_size,
        "problem": problem,
    }


def _data_format(content: h5py.File, file: Location) -> tuple[str, str | Unreadable, float | Unreadable]:
    """Order of the dimensions, order of the components, and rate that the file states for all its traces."""
    group = content.get("data_format", {})
    stated = {
        key: _stated(group[key]) for key in ("dimension_order", "component_order", "sampling_rate") if key in group
    }
    order = stated.get("dimension_order", "CW")
    if order not in ("CW", "WC"):
        text = f"data_format/dimension_order is {order!r}, and only 'CW' (components, samples) and 'WC' are read"
        raise ValueError(f"{file}: {text}: store traces in one of these orders and say so")
    components, rate_hz = stated.get("component_order", ""), stated.get("sampling_rate", np.nan)
    if not isinstance(components, str):
        components = Unreadable(f"{file}: data_format/component_order is {components!r}")
    try:
        rate_hz = float(rate_hz)
    except (TypeError, ValueError):
        rate_hz = Unreadable(f"{file}: data_format/sampling_rate is {rate_hz!r}")
    return order, components, rate_hz


def _stated(value: Any) -> Any:
    """A value of `data_format`: text, also where it is an array of letters, or what else stands there."""
    if not isinstance(value, h5py.Dataset):
        return str(value)
    raw = value[()]
    parts = [one.decode() if isinstance(one, bytes) else one for one in np.ravel(np.array(raw, object)).tolist()]
    if len(parts) == 1:
        return parts[0]
    return "".join(parts) if all(isinstance(one, str) and len(one) == 1 for one in parts) else parts
