"""Windows cut out of stored traces: the right bytes, at 100 Hz, in the order Z, N, E.

Only the bytes that a window needs are read, straight into the window where the file stores what it wants.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.data.files import open_local, read_hdf5, read_ranges, with_retries
from raysys.data.resample import RATE_HZ, ratio, resampler

__all__ = ["RATE_HZ", "Traces", "read_windows"]

COMPONENT_ROW = {"Z": 0, "N": 1, "E": 2, "1": 1, "2": 2, "R": 1, "T": 2}
"""Component letter -> row of a window."""
_RESAMPLED_TOGETHER = 16
"""Windows of one sampling rate that are resampled in one go: about what fits a processor's cache."""

_READ_BYTES = 16 << 20
"""Whole traces that are read together."""


_LAYOUT = ("node_row", "start", "offset", "stride", "step")
_OF_TRACES = (
    *("dataset", "file", "node", *_LAYOUT, "num_samples", "num_components", "dtype", "scale", "order", "up", "down"),
    *("p_s", "s_s"),
)
"""Columns with a value for each trace."""


@lru_cache(maxsize=1024)
def component_rows(order: str) -> dict[int, int] | None:
    """Returns which channels of a component order are read, and the row of a window to which each goes.

    Every channel has a row of its own, or three of them, ZNE before Z12 before ZRT, fill all rows and the others are
    not read. None stands for an order that is neither.
    """
    rows = {channel: COMPONENT_ROW.get(letter) for channel, letter in enumerate(order)}
    if rows and None not in rows.values() and len(set(rows.values())) == len(rows):
        return rows
    for wanted in ("ZNE", "Z12", "ZRT"):
        if all(order.count(letter) == 1 for letter in wanted):
            return {channel: COMPONENT_ROW[letter] for channel, letter in enumerate(order) if letter in wanted}
    return None


@dataclass(frozen=True, slots=True)
class Traces:
    """The columns of an index that readers need, as arrays; strings are coded."""

    dataset: np.ndarray
    datasets: tuple[str, ...]
    file: np.ndarray
    files: tuple[str, ...]
    file_sizes: np.ndarray
    node: np.ndarray
    nodes: tuple[str, ...]
    node_row: np.ndarray
    start: np.ndarray
    offset: np.ndarray
    stride: np.ndarray
    step: np.ndarray
    num_samples: np.ndarray
    num_components: np.ndarray
    dtype: np.ndarray
    dtypes: tuple[np.dtype, ...]
    scale: np.ndarray
    order: np.ndarray
    channels: tuple[tuple[int, ...], ...]
    """Of each component order, the stored channels that are read."""
    rows: tuple[tuple[int, ...], ...]
    """And the row of a window to which each of them goes."""
    up: np.ndarray
    down: np.ndarray
    p_s: np.ndarray
    s_s: np.ndarray
    in_memory: Any = None
    """Where set, `raysys.data.in_memory.InMemorySamples`: the samples themselves, in Ray's object store."""

    @classmethod
    def from_table(cls, table: pa.Table) -> "Traces":
        """Returns the reader's view of an index (`raysys.data.index.SCHEMA`)."""
        coded = {name: _coded(table[name]) for name in ("dataset", "file", "dtype", "components")}
        coded["node"] = _coded(pc.if_else(pc.less(table["offset"], 0), table["node"], ""))  # only HDF5 reads need it
        plain = {
            name: table[name].to_numpy(zero_copy_only=False)
            for name in (*_LAYOUT, "num_samples", "num_components", "scale", "p_s", "s_s")
        }
        sizes = np.full(len(coded["file"][1]), -1, np.int64)
        sizes[coded["file"][0]] = table["file_size"].to_numpy(zero_copy_only=False)
        rates, inverse = np.unique(table["rate_hz"].to_numpy(), return_inverse=True)
        ratios = np.array([ratio(rate) for rate in rates], np.int32).reshape(-1, 2)
        read = [component_rows(order) for order in coded["components"][1]]
        return cls(
            dataset=coded["dataset"][0],
            datasets=coded["dataset"][1],
            file=coded["file"][0],
            files=coded["file"][1],
            file_sizes=sizes,
            node=coded["node"][0],
            nodes=coded["node"][1],
            dtype=coded["dtype"][0],
            dtypes=tuple(np.dtype(d) for d in coded["dtype"][1]),
            order=coded["components"][0],
            channels=tuple(tuple(rows) for rows in read),
            rows=tuple(tuple(rows.values()) for rows in read),
            up=ratios[inverse, 0],
            down=ratios[inverse, 1],
            **plain,
        )

    def __len__(self) -> int:
        return len(self.offset)

    def take(self, ids: np.ndarray) -> "Traces":
        """Returns some of the traces, numbered anew."""
        of_traces = {name: getattr(self, name)[ids] for name in _OF_TRACES}
        in_memory = None if self.in_memory is None else self.in_memory.take(ids)
        return dataclasses.replace(self, **of_traces, in_memory=in_memory)

    def output_samples(self, ids: np.ndarray) -> np.ndarray:
        """Returns the lengths of traces at 100 Hz, in samples."""
        return -(-self.num_samples[ids].astype(np.int64) * self.up[ids] // self.down[ids])

    def remote(self, ids: np.ndarray) -> np.ndarray:
        """Returns which traces lie on an object store."""
        return np.array(["://" in file for file in self.files], bool)[self.file[ids]]


def read_windows(traces: Traces, ids: np.ndarray, starts: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns windows (n, 3, window) float32 in ZNE order and how many of their samples are data (n,) int32.

    Args:
        traces: where the traces lie.
        ids: traces to cut from, (n,).
        starts: first sample of each window, counted at 100 Hz from the start of its trace, (n,).
        window: samples of a window; a shorter trace leaves zeros behind it, a missing component leaves zeros.

    Raises:
        OSError: a file is gone, is not the one that was indexed, or cannot be read after several attempts.
    """
    ids, starts = np.asarray(ids), np.asarray(starts)
    if traces.in_memory is not None:
        return traces.in_memory.crop(ids, starts, window)
    assert (starts >= 0).all()
    out = np.zeros((len(ids), 3, window), np.float32)
    valid = np.clip(traces.output_samples(ids) - starts, 0, window).astype(np.int32)
    up, down = traces.up[ids], traces.down[ids]
    native = up == down
    code = next((k for k, dtype in enumerate(traces.dtypes) if dtype == np.dtype("<f4")), -1)
    as_stored = native & (traces.dtype[ids] == code) & (traces.scale[ids] == 1) & (traces.offset[ids] >= 0)
    all_read = np.array([len(rows) for rows in traces.rows])[traces.order[ids]] == traces.num_components[ids]
    direct = as_stored & all_read & (traces.step[ids] == 1) & ~traces.remote(ids)
    _read_direct(traces, ids, starts, valid, out, np.flatnonzero(direct))
    for rows in _batches(np.flatnonzero(native & ~direct), 64):
        stored = _stored(traces, ids[rows], starts[rows], starts[rows] + valid[rows])
        for row, samples in zip(rows.tolist(), stored, strict=True):
            out[row][list(traces.rows[traces.order[ids[row]]]), : samples.shape[1]] = samples
    pairs = np.stack([up, down], axis=1)
    for pair in np.unique(pairs[~native], axis=0):
        same = np.flatnonzero((pairs == pair).all(axis=1) & ~native)
        same = same[np.lexsort((traces.offset[ids[same]], traces.file[ids[same]]))]
        for rows in _batches(same, _RESAMPLED_TOGETHER):
            _read_resampled(traces, ids[rows], starts[rows], valid[rows], out, rows)
    return out, valid


def whole_traces(traces: Traces, first: int = 0, last: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the traces first .. last - 1 at 100 Hz, by default all of them, with their numbers.

    Each is (3, samples) float32 in ZNE order; a few are read at a time.
    """
    lengths = traces.output_samples(np.arange(len(traces)))[:last]
    per_read = np.maximum(1, _READ_BYTES // (12 * lengths))
    while first < len(lengths):
        same = int(np.argmax(np.append(lengths[first:], -1) != lengths[first]))
        ids = np.arange(first, first + min(same, int(per_read[first])))
        waveforms, _ = read_windows(traces, ids, np.zeros(len(ids), np.int64), int(lengths[first]))
        yield from zip(ids.tolist(), waveforms, strict=True)
        first += len(ids)


def _batches(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[first : first + size] for first in range(0, len(rows), size)]


def _read_direct(traces: Traces, ids, starts, valid, out: np.ndarray, rows: np.ndarray) -> None:
    """Reads local float32 at 100 Hz from the file into the window, component by component, in file order."""
    if not len(rows):
        return
    memory, window = memoryview(out.reshape(-1)).cast("B"), out.shape[-1]
    rows = rows[np.lexsort((traces.offset[ids[rows]], traces.file[ids[rows]]))]
    chosen = ids[rows]
    first = np.concatenate([[0], np.flatnonzero(np.diff(traces.file[chosen])) + 1, [len(rows)]])
    offset = (traces.offset[chosen] + 4 * starts[rows]).tolist()
    stride = (4 * traces.stride[chosen].astype(np.int64)).tolist()
    length, order = (4 * valid[rows]).tolist(), traces.order[chosen].tolist()
    places = [tuple(4 * window * row for row in rows_of) for rows_of in traces.rows]
    begin = (12 * window * rows).tolist()

    def read(file: str, size: int, members: range) -> None:
        fill = open_local(file, size).read_rows
        for k in members:
            at, n = begin[k], length[k]
            fill([memory[at + p : at + p + n] for p in places[order[k]]], offset[k], stride[k])

    for a, b in zip(first[:-1].tolist(), first[1:].tolist(), strict=True):
        code = traces.file[chosen[a]]
        file, size = traces.files[code], int(traces.file_sizes[code])
        with_retries(partial(read, file, size, range(a, b)), file, before_retry=open_local.cache_clear)


def _read_resampled(traces: Traces, ids, starts, valid, out: np.ndarray, rows: np.ndarray) -> None:
    """Reads windows of traces that share a sampling rate, and resamples them together."""
    apply = resampler(int(traces.up[ids[0]]), int(traces.down[ids[0]]))
    window = out.shape[-1]
    first, needed = apply.span(starts, window)
    num = traces.num_samples[ids].astype(np.int64)
    low, high = np.clip(first, 0, num - 1), np.clip(first + needed, 1, num)
    samples = np.zeros((len(ids), 3, needed))
    for k, stored in enumerate(_stored(traces, ids, low, high)):
        into = samples[k, list(traces.rows[traces.order[ids[k]]])]
        before = int(low[k] - first[k])
        after = before + stored.shape[1]
        into[:, before:after] = stored
        into[:, :before], into[:, after:] = into[:, before : before + 1], into[:, after - 1 : after]  # ends are held
        samples[k, list(traces.rows[traces.order[ids[k]]])] = into
    resampled = apply(samples, starts, window)
    for k, row in enumerate(rows.tolist()):
        out[row, :, : valid[k]] = resampled[k, :, : valid[k]]


def _stored(traces: Traces, ids: np.ndarray, first: np.ndarray, last: np.ndarray) -> list[np.ndarray]:
    """Samples first .. last - 1 of traces, (channels that are read, samples) each, in stored order and stored units."""
    item = np.array([dtype.itemsize for dtype in traces.dtypes])[traces.dtype[ids]]
    begin = traces.offset[ids] + first * traces.step[ids] * item
    reach = (traces.num_components[ids].astype(np.int64) - 1) * traces.stride[ids]
    reach = (reach + (last - first - 1) * traces.step[ids] + 1) * item
    far = np.flatnonzero(traces.remote(ids) & (traces.offset[ids] >= 0) & (last > first))
    fetched = {}
    if len(far):
        content = read_ranges([traces.files[code] for code in traces.file[ids[far]]], begin[far], (begin + reach)[far])
        fetched = dict(zip(far.tolist(), content, strict=True))
    out = []
    for k, i in enumerate(ids.tolist()):
        span = slice(int(first[k]), int(last[k]))
        samples = _read_one(traces, i, span, int(begin[k]), int(reach[k]), fetched.get(k))
        channels = traces.channels[traces.order[i]]
        samples = samples if len(channels) == len(samples) else samples[list(channels)]
        out.append(samples if traces.scale[i] == 1 else samples.astype(np.float32) * traces.scale[i])
    return out


def _read_one(traces: Traces, i: int, span: slice, begin: int, reach: int, content: memoryview | None) -> np.ndarray:
    """Stored samples of one trace; `reach` bytes from `begin` on hold them where the file holds them as they are."""
    code, components, length = traces.file[i], int(traces.num_components[i]), span.stop - span.start
    file, size = traces.files[code], int(traces.file_sizes[code])
    dtype, stride, step = traces.dtypes[traces.dtype[i]], int(traces.stride[i]), int(traces.step[i])
    if length == 0:
        return np.zeros((components, 0), dtype)
    if traces.offset[i] < 0:
        return _read_node(traces, i, span, file, size)
    if content is None and step != 1:
        content = memoryview(bytearray(reach))
        _read_local(file, size, [content], begin, reach)
    if content is not None:
        return np.ndarray(
            (components, length), dtype, content, strides=(stride * dtype.itemsize, step * dtype.itemsize)
        )
    samples = np.zeros((components, length), dtype)
    memory, n = memoryview(samples.view(np.uint8).reshape(-1)), length * dtype.itemsize
    _read_local(file, size, [memory[c * n : (c + 1) * n] for c in range(components)], begin, stride * dtype.itemsize)
    return samples


def _read_local(file: str, size: int, views: list[memoryview], offset: int, stride: int) -> None:
    def read() -> None:
        open_local(file, size).read_rows(views, offset, stride)

    with_retries(read, file, before_retry=open_local.cache_clear)


def _read_node(traces: Traces, i: int, span: slice, file: str, size: int) -> np.ndarray:
    """Stored samples of one trace of an HDF5 dataset that only the library can read."""
    start, stride, step, row = (
        int(column[i]) for column in (traces.start, traces.stride, traces.step, traces.node_row)
    )
    count = int(traces.num_components[i])
    samples_first = step > 1 or (stride == 1 and count == 1)
    sample, component = divmod(start, step) if samples_first else divmod(start, stride)[::-1]
    index = (slice(component, component + count), slice(sample + span.start, sample + span.stop))
    index = index[::-1] if samples_first else index
    read = read_hdf5(file, size, traces.nodes[traces.node[i]], index if row < 0 else (row, *index))
    return read.T if samples_first else read


def _coded(column: pa.ChunkedArray | Sequence) -> tuple[np.ndarray, tuple[str, ...]]:
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int32), tuple(encoded.dictionary.to_pylist())
