"""Shards: traces at 100 Hz in ZNE order, in Arrow IPC files that readers map into memory.

A shard is an Arrow IPC file with one row a trace, its samples float32 in a binary column. Its index says at which byte
of the file each trace begins, so that shards are read by the very code that reads contiguous HDF5. Parquet would
have to be decoded whole; these files are read one window at a time.
"""

import hashlib
import json
import logging
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from raysys.config import RunConfig
from raysys.data.catalog import resolve
from raysys.data.index import SCHEMA, VERSION, dropped_rows, load_index
from raysys.data.quality import FLAGS, reasons, trace_flags
from raysys.data.windows import RATE_HZ, Traces, read_windows

log = logging.getLogger(__name__)

_SHARD_BYTES = 256 << 20
_DROPPED = FLAGS["dead"] | FLAGS["short"]
"""Traces with one of these flags are of no use to anybody and are left out."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was written for one data set."""

    dataset: str
    folder: str
    traces: int
    left_out: dict[str, int]
    flagged: dict[str, int]


def prepare(config: RunConfig, out: str) -> list[Prepared]:
    """Returns what was written below `out`: one folder of shards for each data set, with index and manifest.

    A folder that is complete and made from the same files is left alone; one that a killed run left behind is
    completed, without writing its finished shards again.

    Args:
        config: names the data sets (`data`).
        out: folder or URL; becomes `data.root` of later runs.

    Raises:
        ValueError, FileNotFoundError: bad data sets; OSError: `out` cannot be written. Finished shards stay.
    """
    done = []
    for name, folder in resolve(config.data.datasets, config.data.root).items():
        index = load_index(folder, name, config.data.cache, config.data.split_seed)
        done.append(_prepare_dataset(name, index, f"{out.rstrip('/')}/{name.lower()}"))
        log.info("%s: %d traces in %s, left out %s, flagged %s", *_said(done[-1]))
    return done


def _said(one: Prepared) -> tuple:
    return one.dataset, one.traces, one.folder, one.left_out or "none", one.flagged or "none"


def _prepare_dataset(name: str, index: pa.Table, folder: str) -> Prepared:
    fs, path = fsspec.core.url_to_fs(folder)
    fs.makedirs(path, exist_ok=True)
    source = hashlib.sha1(
        json.dumps([VERSION, (index.schema.metadata or {}).get(b"fingerprint", b"").decode()]).encode()
    ).hexdigest()
    if fs.exists(f"{path}/manifest.json"):
        with fs.open(f"{path}/manifest.json") as stream:
            manifest = json.load(stream)
        if manifest["source"] == source:
            return _prepared(name, folder, manifest)
        log.info("%s: its source has changed, preparing it again", name)
    parts = _parts(index)
    waiting = {
        _write_shard.remote(index.slice(first, count), folder, number, source): number
        for number, (first, count) in enumerate(parts)
    }
    shards: list[Any] = [None] * len(parts)
    while waiting:
        ready, _ = ray.wait(list(waiting), num_returns=1)
        shards[waiting.pop(ready[0])] = ray.get(ready[0])
        if len(parts) > 1:
            log.info("%s: %d of %d shards", name, len(parts) - len(waiting), len(parts))
    return _prepared(name, folder, _finish(fs, path, shards, source, dropped_rows(index)))


def _parts(index: pa.Table) -> list[tuple[int, int]]:
    """First row and number of rows of each shard."""
    traces = Traces.from_table(index)
    size = np.cumsum(traces.output_samples(np.arange(len(traces))) * 12)
    edges = np.searchsorted(size, np.arange(0, size[-1] + _SHARD_BYTES, _SHARD_BYTES))
    edges = np.unique(np.append(edges, len(index)))
    return [(int(a), int(b - a)) for a, b in pairwise(edges) if b > a]


@ray.remote(max_retries=3, retry_exceptions=[OSError])
def _write_shard(index: pa.Table, folder: str, number: int, source: str) -> dict[str, Any]:
    """Writes one shard and its index, or finds them written; returns its line of the manifest."""
    fs, path = fsspec.core.url_to_fs(folder)
    stem = f"{path}/shard-{number:05d}"
    if fs.exists(f"{stem}.json"):
        with fs.open(f"{stem}.json") as stream:
            line = json.load(stream)
        if line["source"] == source:
            return line
    traces = Traces.from_table(index)
    samples, flags = [], np.zeros(len(traces), np.int32)
    lengths = traces.output_samples(np.arange(len(traces)))
    for i in range(len(traces)):
        waveform, _ = read_windows(traces, np.array([i]), np.array([0]), int(lengths[i]))
        flags[i] = trace_flags(waveform[0])
        samples.append(waveform[0])
    keep = (flags & _DROPPED) == 0
    buffer, offsets = _arrow_file([s for s, k in zip(samples, keep, strict=True) if k])
    _write(fs, f"{stem}.arrow", buffer)
    table = _shard_index(index, flags, lengths, keep, offsets, f"shard-{number:05d}.arrow")
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    _write(fs, f"{stem}.parquet", sink.getvalue())
    line = {
        "file": f"shard-{number:05d}.arrow",
        "source": source,
        "traces": int(keep.sum()),
        "bytes": buffer.size,
        "sha256": hashlib.sha256(buffer).hexdigest(),
        "left_out": reasons(flags[~keep] & _DROPPED),
        "flagged": reasons(flags[keep]),
    }
    _write(fs, f"{stem}.json", json.dumps(line).encode())
    return line


def _arrow_file(waveforms: list[np.ndarray]) -> tuple[pa.Buffer, np.ndarray]:
    """An Arrow IPC file with one row a trace, and the byte at which each trace begins in it."""
    column = pa.array([np.ascontiguousarray(w).tobytes() for w in waveforms], pa.large_binary())
    batch = pa.record_batch({"waveform": column})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    buffer = sink.getvalue()
    if not waveforms:
        return buffer, np.zeros(0, np.int64)
    stored = pa.ipc.open_file(buffer).get_batch(0).column(0).buffers()
    starts = np.frombuffer(stored[1], np.int64)[: len(waveforms)]
    return buffer, starts + (stored[2].address - buffer.address)


def _shard_index(index: pa.Table, flags, lengths, keep, offsets, file: str) -> pa.Table:
    n = int(keep.sum())
    replaced = {
        "file": pa.array([file] * n, pa.string()),
        "node": pa.array([""] * n, pa.string()),
        "node_row": pa.array(np.full(n, -1), pa.int32()),
        "offset": pa.array(offsets, pa.int64()),
        "stride": pa.array(lengths[keep], pa.int32()),
        "num_samples": pa.array(lengths[keep], pa.int32()),
        "num_components": pa.array(np.full(n, 3), pa.int8()),
        "dtype": pa.array(["<f4"] * n, pa.string()),
        "rate_hz": pa.array(np.full(n, RATE_HZ)),
        "components": pa.array(["ZNE"] * n, pa.string()),
        "flags": pa.array(flags[keep], pa.int32()),
    }
    kept = index.filter(pa.array(keep))
    return pa.table({name: replaced.get(name, kept[name]) for name in SCHEMA.names}, schema=SCHEMA)


def _finish(fs, path: str, shards: list[dict[str, Any]], source: str, dropped: dict[str, int]) -> dict[str, Any]:
    """Writes index.parquet and, last of all, manifest.json; removes what only an interrupted run needs."""
    stems = [f"{path}/{shard['file'].removesuffix('.arrow')}" for shard in shards]
    tables = []
    for stem in stems:
        with fs.open(f"{stem}.parquet") as stream:
            tables.append(pq.read_table(stream))
    sink = pa.BufferOutputStream()
    left_out = dict(dropped)
    for shard in shards:
        for reason, count in shard["left_out"].items():
            left_out[reason] = left_out.get(reason, 0) + count
    metadata = {"dropped": json.dumps(left_out), "fingerprint": source}
    pq.write_table(pa.concat_tables(tables).replace_schema_metadata(metadata), sink)
    _write(fs, f"{path}/index.parquet", sink.getvalue())
    manifest = {
        "source": source,
        "format": VERSION,
        "rate_hz": RATE_HZ,
        "components": "ZNE",
        "left_out": left_out,
        "shards": shards,
    }
    _write(fs, f"{path}/manifest.json", json.dumps(manifest, indent=1).encode())
    for stem in stems:
        fs.rm(f"{stem}.parquet")
        fs.rm(f"{stem}.json")
    return manifest


def _prepared(name: str, folder: str, manifest: dict[str, Any]) -> Prepared:
    flagged: dict[str, int] = {}
    for shard in manifest["shards"]:
        for reason, count in shard["flagged"].items():
            flagged[reason] = flagged.get(reason, 0) + count
    return Prepared(name, folder, sum(s["traces"] for s in manifest["shards"]), manifest["left_out"], flagged)


def _write(fs, path: str, content: bytes | pa.Buffer) -> None:
    """Writes a whole file under another name and renames it, so that a reader never sees half of it."""
    partial = f"{path}.part"
    try:
        with fs.open(partial, "wb") as stream:
            stream.write(content)
        fs.mv(partial, path)
    except BaseException:
        if fs.exists(partial):
            fs.rm(partial)
        raise
