"""Windows cut out of stored traces: the right bytes, at 100 Hz, in the order Z, N, E.

Only what a window needs is read. Resampling is a zero-phase polyphase filter whose output at a sample depends on the
samples around it and on nothing else, so a window is the same whether it is cut before or after resampling.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache, partial

import fsspec
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.signal import firwin, upfirdn

RATE_HZ = 100.0
"""Sampling rate of every window."""
COMPONENT_ROW = {"Z": 0, "N": 1, "E": 2, "1": 1, "2": 2, "R": 1, "T": 2}
"""Component letter -> row of a window."""
_RETRIES = 3


@dataclass(frozen=True, slots=True)
class Traces:
    """The columns of an index that readers need, as arrays; strings are coded."""

    dataset: np.ndarray
    datasets: tuple[str, ...]
    file: np.ndarray
    files: tuple[str, ...]
    node: np.ndarray
    nodes: tuple[str, ...]
    node_row: np.ndarray
    offset: np.ndarray
    stride: np.ndarray
    num_samples: np.ndarray
    num_components: np.ndarray
    dtype: np.ndarray
    dtypes: tuple[np.dtype, ...]
    order: np.ndarray
    orders: tuple[tuple[int, ...], ...]
    up: np.ndarray
    down: np.ndarray
    p_s: np.ndarray
    s_s: np.ndarray

    @classmethod
    def from_table(cls, table: pa.Table) -> "Traces":
        """Returns the reader's view of an index (`raysys.data.index.SCHEMA`)."""
        coded = {name: _coded(table[name]) for name in ("dataset", "file", "dtype", "components")}
        coded["node"] = _coded(pc.if_else(pc.less(table["offset"], 0), table["node"], ""))  # only HDF5 reads need it
        plain = {
            name: table[name].to_numpy(zero_copy_only=False)
            for name in ("node_row", "offset", "stride", "num_samples", "num_components", "p_s", "s_s")
        }
        rates, inverse = np.unique(table["rate_hz"].to_numpy(), return_inverse=True)
        ratios = np.array([_ratio(rate) for rate in rates], np.int32).reshape(-1, 2)
        return cls(
            dataset=coded["dataset"][0],
            datasets=coded["dataset"][1],
            file=coded["file"][0],
            files=coded["file"][1],
            node=coded["node"][0],
            nodes=coded["node"][1],
            dtype=coded["dtype"][0],
            dtypes=tuple(np.dtype(d) for d in coded["dtype"][1]),
            order=coded["components"][0],
            orders=tuple(tuple(COMPONENT_ROW[c] for c in order) for order in coded["components"][1]),
            up=ratios[inverse, 0],
            down=ratios[inverse, 1],
            **plain,
        )

    def __len__(self) -> int:
        return len(self.offset)

    def output_samples(self, ids: np.ndarray) -> np.ndarray:
        """Returns the lengths of traces at 100 Hz, in samples."""
        return -(-self.num_samples[ids].astype(np.int64) * self.up[ids] // self.down[ids])


def read_windows(traces: Traces, ids: np.ndarray, starts: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns windows (n, 3, window) float32 in ZNE order and how many of their samples are data (n,) int32.

    Args:
        traces: where the traces lie.
        ids: traces to cut from, (n,).
        starts: first sample of each window, counted at 100 Hz from the start of its trace, (n,).
        window: samples of a window; a shorter trace leaves zeros behind it, a missing component leaves zeros.

    Raises:
        OSError: a file is gone, shorter than it was when it was indexed, or unreadable after three attempts.
    """
    out = np.zeros((len(ids), 3, window), np.float32)
    valid = np.minimum(window, traces.output_samples(ids) - starts).astype(np.int32)
    fetch = _fetcher(traces, ids)
    for j in np.lexsort((traces.offset[ids], traces.file[ids])):
        i, start, length = ids[j], int(starts[j]), int(valid[j])
        rows = traces.orders[traces.order[i]]
        up, down = int(traces.up[i]), int(traces.down[i])
        if up == down:
            data = fetch(i, start, start + length)
        else:
            data = _resampled(fetch, i, int(traces.num_samples[i]), start, length, up, down)
        if rows == (0, 1, 2):
            out[j, :, :length] = data
        else:
            for row, component in zip(rows, data, strict=True):
                out[j, row, :length] = component
    return out, valid


def resampling_filter(up: int, down: int) -> np.ndarray:
    """Returns the taps of the polyphase low-pass; every phase has unit gain at 0 Hz, so an offset leaves no ripple."""
    return _filter(up, down)


@lru_cache(maxsize=64)
def _filter(up: int, down: int) -> np.ndarray:
    half = -(-10 * max(up, down) // down) * down  # a multiple of `down`: the delay is whole output samples
    taps = firwin(2 * half + 1, 1.0 / max(up, down), window=("kaiser", 5.0))
    for phase in range(up):
        taps[phase::up] /= taps[phase::up].sum()
    return taps


def _resampled(fetch, i: int, num_samples: int, start: int, length: int, up: int, down: int) -> np.ndarray:
    """Output samples start .. start + length - 1 of a trace at up / down of its rate; its ends are held constant."""
    taps = _filter(up, down)
    half = len(taps) // 2
    margin = half // up + 1
    first = (start * down // up - margin) // down * down
    last = (start + length) * down // up + margin + 1
    data = fetch(i, max(0, first), min(num_samples, last)).astype(np.float64)
    data = np.pad(data, ((0, 0), (max(0, -first), max(0, last - num_samples))), mode="edge")
    skip = half // down + start - first * up // down
    return upfirdn(taps, data, up, down, axis=-1)[:, skip : skip + length]


@lru_cache(maxsize=256)
def _ratio(rate_hz: float) -> tuple[int, int]:
    """100 Hz over a rate as a fraction of small numbers; rates within 0.1 % of each other count as equal."""
    ratio = Fraction(RATE_HZ / rate_hz).limit_denominator(100)
    if abs(float(ratio) * rate_hz / RATE_HZ - 1) > 1e-3 or not ratio:
        ratio = Fraction(RATE_HZ / rate_hz).limit_denominator(10_000)
    return ratio.numerator, ratio.denominator


def _coded(column: pa.ChunkedArray) -> tuple[np.ndarray, tuple[str, ...]]:
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int32), tuple(encoded.dictionary.to_pylist())


def _fetcher(traces: Traces, ids: np.ndarray):
    """A function (trace, first, last) -> stored samples (components, last - first), by the fastest way there is."""
    remote = _fetch_remote(traces, [i for i in ids if traces.offset[i] >= 0 and "://" in traces.files[traces.file[i]]])

    def fetch(i: int, first: int, last: int) -> np.ndarray:
        offset, stride, components = int(traces.offset[i]), int(traces.stride[i]), int(traces.num_components[i])
        file = traces.files[traces.file[i]]
        if offset < 0:
            return _from_hdf5(file, traces.nodes[traces.node[i]], int(traces.node_row[i]), first, last)
        dtype = traces.dtypes[traces.dtype[i]]
        size = components * stride * dtype.itemsize
        raw = remote[i] if i in remote else _mapped(file)[offset : offset + size]
        if len(raw) != size:
            raise OSError(f"{file}: shorter than when it was indexed (bytes {offset} to {offset + size} are not there)")
        return np.frombuffer(raw, dtype).reshape(components, stride)[:, first:last]

    return fetch


@lru_cache(maxsize=512)
def _mapped(file: str) -> np.ndarray:
    return np.memmap(file, np.uint8, mode="r")


@lru_cache(maxsize=32)
def _hdf5(file: str) -> h5py.File:
    return h5py.File(fsspec.open(file, "rb").open() if "://" in file else file, "r")


def _from_hdf5(file: str, node: str, row: int, first: int, last: int) -> np.ndarray:
    data = _hdf5(file)["data"][node]
    return data[:, first:last] if row < 0 else data[row, :, first:last]


def _fetch_remote(traces: Traces, ids: Sequence[int]) -> dict[int, bytes]:
    """The stored bytes of traces on an object store, fetched together."""
    if not ids:
        return {}
    by_file: dict[str, list[int]] = {}
    for i in ids:
        by_file.setdefault(traces.files[traces.file[i]], []).append(i)
    out = {}
    for file, members in by_file.items():
        fs, path = fsspec.core.url_to_fs(file)
        first = [int(traces.offset[i]) for i in members]
        size = [
            int(traces.num_components[i]) * int(traces.stride[i]) * traces.dtypes[traces.dtype[i]].itemsize
            for i in members
        ]
        last = [a + b for a, b in zip(first, size, strict=True)]
        read = partial(fs.cat_ranges, [path] * len(members), first, last, on_error="raise")
        out |= dict(zip(members, _with_retries(read, file), strict=True))
    return out


def _with_retries(read, file: str):
    for attempt in range(_RETRIES):
        try:
            return read()
        except OSError as error:
            if attempt == _RETRIES - 1:
                raise OSError(f"{file}: unreadable after {_RETRIES} attempts ({error})") from error
            time.sleep(0.5 * 2**attempt)
