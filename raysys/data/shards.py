"""Shards: traces at 100 Hz in ZNE order, in Arrow IPC files of which readers take one window at a time.

A shard is an Arrow IPC file with one row a trace, its samples in a binary column: float32 as they are, or float16 after
the mean of each component is taken off, with one scale a trace. Its index says at which byte of the file each trace
begins, so that shards are read by the very code that reads contiguous HDF5.
"""

import errno
import hashlib
import json
import logging
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from raysys.config import DataConfig, RunConfig
from raysys.data.catalog import resolve
from raysys.data.download import download
from raysys.data.files import with_retries, write_whole
from raysys.data.index import SCHEMA, VERSION, dropped_rows, load_index, parquet_bytes, read_parquet
from raysys.data.quality import LEGEND, mask, quality_row, quality_table, reasons, trace_flags
from raysys.data.resample import SAMPLES_VERSION
from raysys.data.windows import RATE_HZ, Traces, whole_traces
from raysys.location import Location

log = logging.getLogger(__name__)

_HALF_PEAK = 32768.0
"""Largest value of a trace in float16, so that its smallest normal number lies 2e-9 below the peak."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was written for one data set."""

    dataset: str
    folder: str
    traces: int
    left_out: dict[str, int]
    flagged: dict[str, int]


def prepare(config: RunConfig, out: str, *, fetch: bool = False) -> list[Prepared]:
    """Returns what was written below `out`: one folder of shards for each data set, with index and manifest.

    A folder that is complete and made from the same files is left alone; one that a killed run left behind is
    completed, without writing its finished shards again.

    Args:
        config: names the data sets (`data`), their flaws that are left out and the form of the shards.
        out: folder or URL; becomes `data.root` of later runs.
        fetch: first download what is missing of the eight to `data.root`.

    Raises:
        ValueError, FileNotFoundError: bad data sets; OSError: `out` cannot be written. Finished shards stay.
    """
    mask(config.data.drop)
    if fetch:
        download(config.data)
    done = []
    for name, folder in resolve(config.data.datasets, config.data.root).items():
        target = Location(out) / name.lower()
        if target == Location(folder):
            raise ValueError(f"--out {out} holds the source of {name}: name another folder for the shards")
        index = load_index(folder, name, config.data.cache, config.data.split_seed)
        done.append(_prepare_dataset(name, index, target, config.data))
        log.info("%s: %d traces in %s", name, done[-1].traces, done[-1].folder)
    rows = [quality_row(one.dataset, one.traces, one.left_out, one.flagged, True) for one in done]
    log.info("%s\n%s", LEGEND, quality_table(rows))
    return done


def _prepare_dataset(name: str, index: pa.Table, folder: Location, config: DataConfig) -> Prepared:
    with_retries(folder.make_folder, folder)
    made_from = (index.schema.metadata or {}).get(b"fingerprint", b"").decode()
    recipe = [VERSION, SAMPLES_VERSION, made_from, config.shard_dtype, config.shard_mb, sorted(config.drop)]
    source = hashlib.sha1(json.dumps(recipe).encode()).hexdigest()
    manifest = _read_json(folder / "manifest.json")
    if manifest is not None:
        if manifest["source"] == source:
            return _prepared(name, folder, manifest)
        log.info("%s: its source or its form has changed, preparing it again", name)
        for stale in (folder / "manifest.json", folder / "index.parquet"):
            if stale.exists():
                stale.remove()
    parts = _parts(index, config.shard_mb << 20)
    calls = [(index.slice(a, n), folder, k, source, config) for k, (a, n) in enumerate(parts)]
    shards = _write_all(name, folder, calls)
    return _prepared(name, folder, _finish(folder, shards, source, index, config))


def _write_all(name: str, folder: str, calls: list[tuple]) -> list[dict[str, Any]]:
    """The lines of the manifest. A task that fails for good stops the others, whose finished shards stay."""
    waiting = {_write_shard.remote(*call): number for number, call in enumerate(calls)}
    shards: list[Any] = [None] * len(calls)
    while waiting:
        [ready], _ = ray.wait(list(waiting), num_returns=1)
        number = waiting.pop(ready)
        try:
            shards[number] = ray.get(ready)
        except ray.exceptions.RayTaskError as error:
            for other in waiting:
                ray.cancel(other)
            done = sum(shard is not None for shard in shards)
            kept = f"{done} of {len(calls)} shards are finished and kept; the same command goes on from there"
            if isinstance(error.cause, OSError):
                raise OSError(error.cause.errno, f"{name}: {_plain(error.cause)}. {kept}") from None
            raise
        if len(calls) > 1:
            log.info("%s: %d of %d shards", name, len(calls) - len(waiting), len(calls))
    return shards


def _plain(error: OSError) -> str:
    hint = ": free some space, or choose another --out" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return f"{error.strerror or error}{hint}"


def _parts(index: pa.Table, shard_bytes: int) -> list[tuple[int, int]]:
    """First row and number of rows of each shard."""
    traces = Traces.from_table(index)
    size = np.cumsum(traces.output_samples(np.arange(len(traces))) * 12)
    edges = np.searchsorted(size, np.arange(0, size[-1] + shard_bytes, shard_bytes))
    edges = np.unique(np.append(edges, len(index)))
    return [(int(a), int(b - a)) for a, b in pairwise(edges) if b > a]


@ray.remote(max_retries=3)
def _write_shard(index: pa.Table, folder: Location, number: int, source: str, config: DataConfig) -> dict[str, Any]:
    """Writes one shard and its index, or finds them written; returns its line of the manifest."""
    stem = f"shard-{number:05d}"
    line = _read_json(folder / f"{stem}.json")
    if line is not None and line["source"] == source:
        return line
    drop = mask(config.drop)
    flags, scales, rows = np.zeros(len(index), np.int32), np.ones(len(index), np.float32), []
    for i, waveform in whole_traces(Traces.from_table(index)):
        flags[i] = trace_flags(waveform)
        if not flags[i] & drop:
            if config.shard_dtype == "float16":
                waveform, scales[i] = to_half(waveform)
            rows.append(waveform)
    keep = (flags & drop) == 0
    buffer, offsets = _arrow_file(rows)
    replaced = {"flags": flags[keep], "scale": scales[keep], "offset": offsets}
    replaced["stride"] = replaced["num_samples"] = np.array([row.shape[1] for row in rows], np.int32)
    file = f"{stem}.arrow"
    table = _shard_index(index.filter(pa.array(keep)), replaced, file, buffer.size, config.shard_dtype)
    write_whole(folder / file, buffer)
    write_whole(folder / f"{stem}.parquet", parquet_bytes(table))
    line = {
        "file": file,
        "source": source,
        "traces": int(keep.sum()),
        "bytes": buffer.size,
        "sha256": hashlib.sha256(buffer).hexdigest(),
        "left_out": reasons(flags[~keep] & drop),
        "flagged": reasons(flags[keep]),
    }
    write_whole(folder / f"{stem}.json", json.dumps(line))
    return line


def to_half(waveform: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """Returns a trace in float16, each component without its mean, and the scale that gives back its unit.

    Args:
        waveform: (3, samples) float32; samples that are not finite stay so.
    """
    finite = np.isfinite(waveform)
    count = np.maximum(1, finite.sum(axis=-1, keepdims=True))
    mean = np.where(finite, waveform, 0).sum(axis=-1, keepdims=True, dtype=np.float64) / count
    centred = waveform - mean
    peak = np.abs(centred[finite]).max(initial=0.0)
    scale = np.float32(peak / _HALF_PEAK) or np.float32(1)
    return (centred / scale).astype(np.float16), scale


def _arrow_file(waveforms: list[np.ndarray]) -> tuple[pa.Buffer, np.ndarray]:
    """An Arrow IPC file with one row a trace, and the byte at which each trace begins in it."""
    ends = np.cumsum([0, *(waveform.nbytes for waveform in waveforms)], dtype=np.int64)
    joined = np.zeros(ends[-1], np.uint8)
    for waveform, (a, b) in zip(waveforms, pairwise(ends), strict=True):
        joined[a:b] = np.ascontiguousarray(waveform).view(np.uint8).reshape(-1)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(joined)]
    column = pa.Array.from_buffers(pa.large_binary(), len(waveforms), buffers)
    batch = pa.record_batch({"waveform": column})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    buffer = sink.getvalue()
    if not waveforms:
        return buffer, np.zeros(0, np.int64)
    stored = pa.ipc.open_file(buffer).get_batch(0).column(0).buffers()
    return buffer, ends[:-1] + (stored[2].address - buffer.address)


def _shard_index(kept: pa.Table, replaced: dict[str, np.ndarray], file: str, size: int, dtype: str) -> pa.Table:
    n = len(kept)
    constant = {
        "file": file,
        "file_size": size,
        "node": "",
        "node_row": -1,
        "start": 0,
        "step": 1,
        "num_components": 3,
        "dtype": np.dtype(dtype).newbyteorder("<").str,
        "rate_hz": RATE_HZ,
        "components": "ZNE",
    }
    columns = {name: pa.array(values, SCHEMA.field(name).type) for name, values in replaced.items()}
    columns |= {name: pa.repeat(pa.scalar(value, SCHEMA.field(name).type), n) for name, value in constant.items()}
    return pa.table({name: columns.get(name, kept[name]) for name in SCHEMA.names}, schema=SCHEMA)


def _finish(
    folder: Location, shards: list[dict[str, Any]], source: str, index: pa.Table, config: DataConfig
) -> dict[str, Any]:
    """Writes index.parquet and, last of all, manifest.json; removes what only an interrupted run needs or left."""
    indices = [folder / shard["file"].replace(".arrow", ".parquet") for shard in shards]
    tables = [with_retries(lambda file=file: read_parquet(file), file) for file in indices]
    left_out = dropped_rows(index)
    for shard in shards:
        for reason, count in shard["left_out"].items():
            left_out[reason] = left_out.get(reason, 0) + count
    metadata = {b"dropped": json.dumps(left_out), b"fingerprint": source, b"scanned": b"1"}
    metadata = (index.schema.metadata or {}) | metadata | {b"samples": str(SAMPLES_VERSION)}
    write_whole(folder / "index.parquet", parquet_bytes(pa.concat_tables(tables).replace_schema_metadata(metadata)))
    manifest = {
        "source": source,
        "format": VERSION,
        "samples": SAMPLES_VERSION,
        "rate_hz": RATE_HZ,
        "components": "ZNE",
        "dtype": config.shard_dtype,
        "dropped_for": sorted(config.drop),
        "left_out": left_out,
        "shards": shards,
    }
    write_whole(folder / "manifest.json", json.dumps(manifest, indent=1))
    finished = {shard["file"] for shard in shards}
    for left in with_retries(lambda: folder.glob("shard-*") + folder.glob(".shard-*"), folder):
        if left.name not in finished:
            with_retries(left.remove, left)
    return manifest


def _prepared(name: str, folder: Location, manifest: dict[str, Any]) -> Prepared:
    flagged: dict[str, int] = {}
    for shard in manifest["shards"]:
        for reason, count in shard["flagged"].items():
            flagged[reason] = flagged.get(reason, 0) + count
    return Prepared(name, str(folder), sum(s["traces"] for s in manifest["shards"]), manifest["left_out"], flagged)


def _read_json(file: Location) -> dict[str, Any] | None:
    return with_retries(lambda: file.read_json() if file.exists() else None, file)


def verify(folder: str) -> list[str]:
    """Returns the shards below a prepared folder whose bytes are not those of its manifest; reads all of them.

    Raises:
        FileNotFoundError: there is no manifest.
    """
    place = Location(folder)
    manifest = _read_json(place / "manifest.json")
    if manifest is None:
        raise FileNotFoundError(f"{place}/manifest.json: not there, so nothing was prepared or it was not finished")
    bad = []
    for shard in manifest["shards"]:
        file, digest = place / shard["file"], hashlib.sha256()
        if file.exists():
            with file.open() as stream:
                while block := stream.read(16 << 20):
                    digest.update(block)
        if digest.hexdigest() != shard["sha256"]:
            bad.append(shard["file"])
    return bad
