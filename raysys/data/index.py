"""The index of a data set: one Arrow row a trace that says where its bytes lie and what is known of them.

A SeisBench folder (metadata*.csv + waveforms*.hdf5) is indexed once and cached; a folder of shards brings its
index with it. Readers need nothing else: no HDF5 library, no CSV, no SeisBench.
"""

import hashlib
import json
import logging
import os
import tempfile
from collections import Counter
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raysys.data.seisbench_format import read_chunk

log = logging.getLogger(__name__)

VERSION = 2
"""Of the schema; a cached index of another version is built again."""

SCHEMA = pa.schema(
    [
        ("dataset", pa.string()),
        ("chunk", pa.string()),
        ("trace_name", pa.string()),
        ("file", pa.string()),
        ("node", pa.string()),  # path of the HDF5 dataset, or "" in a shard
        ("node_row", pa.int32()),  # row in a block of traces, -1 where the node is one trace
        ("offset", pa.int64()),  # first byte of the trace in the file, -1 where the node is chunked or compressed
        ("stride", pa.int32()),  # stored samples per component
        ("num_samples", pa.int32()),  # of them, those that are not padding
        ("num_components", pa.int8()),
        ("dtype", pa.string()),
        ("rate_hz", pa.float64()),
        ("components", pa.string()),
        ("p_s", pa.float64()),  # first P onset, seconds after the first sample; NaN where there is none
        ("s_s", pa.float64()),
        ("p_phase", pa.string()),
        ("s_phase", pa.string()),
        ("split", pa.string()),
        ("event", pa.string()),
        ("station", pa.string()),
        ("start_time", pa.string()),
        ("category", pa.string()),
        ("origin_time", pa.string()),
        ("latitude", pa.float64()),
        ("longitude", pa.float64()),
        ("flags", pa.int32()),  # of raysys.data.quality; 0 where nobody has looked at the samples
    ]
)
"""Components are in stored order; identity of a trace is (dataset, chunk, trace_name)."""


def load_index(folder: str, name: str, cache: str, split_seed: int = 0) -> pa.Table:
    """Returns the index of a data set, from the cache where the files have not changed since.

    Args:
        folder: SeisBench folder or folder of shards, local or any fsspec URL.
        name: label that goes into the `dataset` column.
        cache: local folder for indices.
        split_seed: decides the split where the metadata has none.

    Raises:
        FileNotFoundError: no metadata or no waveforms.
        ValueError: a file that cannot be read, or nothing usable in it (naming the file and the fix).
    """
    fs, path = fsspec.core.url_to_fs(folder)
    if fs.exists(f"{path}/index.parquet"):
        return _read_shard_index(fs, path, folder, name)
    chunks = _chunks(fs, path, folder)
    stamp = _fingerprint(fs, path, chunks, split_seed)
    cached = Path(cache).expanduser() / f"{name}-{hashlib.sha1(folder.encode()).hexdigest()[:12]}.parquet"
    if cached.exists():
        table = pq.read_table(cached)
        if (table.schema.metadata or {}).get(b"fingerprint") == stamp:
            return table
        log.info("%s: files changed since they were indexed, indexing again", name)
    table, dropped = _build(folder, name, chunks, split_seed)
    table = table.replace_schema_metadata({"fingerprint": stamp, "dropped": json.dumps(dropped)})
    write_atomically(cached, lambda partial: pq.write_table(table, partial))
    return table


def dropped_rows(table: pa.Table) -> dict[str, int]:
    """Returns how many traces were left out of an index, by reason."""
    return json.loads((table.schema.metadata or {}).get(b"dropped", b"{}"))


def write_atomically(target: Path, write) -> None:
    """Calls `write(partial_path)` and renames the result to `target`, so that no half-written file is ever seen."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    try:
        write(partial)
        os.replace(partial, target)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def _chunks(fs, path: str, folder: str) -> list[str]:
    if not fs.exists(path):
        raise FileNotFoundError(f"{folder}: no such folder")
    names = sorted(entry.rsplit("/", 1)[-1] for entry in fs.glob(f"{path}/metadata*.csv"))
    chunks = [name.removeprefix("metadata").removesuffix(".csv") for name in names]
    if not chunks:
        raise FileNotFoundError(f"{folder}: no metadata*.csv, so this is no SeisBench data set")
    for chunk in chunks:
        if not fs.exists(f"{path}/waveforms{chunk}.hdf5"):
            raise FileNotFoundError(f"{folder}/waveforms{chunk}.hdf5 is missing beside metadata{chunk}.csv")
    return chunks


def _fingerprint(fs, path: str, chunks: list[str], split_seed: int) -> bytes:
    stats = []
    for chunk in chunks:
        for file in (f"metadata{chunk}.csv", f"waveforms{chunk}.hdf5"):
            info = fs.info(f"{path}/{file}")
            stats.append((file, info["size"], str(info.get("mtime") or info.get("LastModified") or info.get("ETag"))))
    return hashlib.sha1(json.dumps([VERSION, split_seed, stats]).encode()).hexdigest().encode()


def _build(folder: str, name: str, chunks: list[str], split_seed: int) -> tuple[pa.Table, dict[str, int]]:
    dropped: Counter[str] = Counter()
    tables = []
    for chunk in chunks:
        table, bad, example = read_chunk(folder, name, chunk)
        for reason, count in bad.items():
            log.warning("%s%s: %d traces left out: %s (first: %s)", name, chunk, count, reason, example[reason])
        dropped.update(bad)
        tables.append(table.select(SCHEMA.names).cast(SCHEMA))
    table = pa.concat_tables(tables)
    table, duplicates = _drop_duplicates(table)
    if duplicates:
        dropped["duplicate identity"] += duplicates
        log.warning("%s: %d traces left out: duplicate identity (chunk, trace_name)", name, duplicates)
    if not len(table):
        raise ValueError(f"{folder}: no usable trace ({dict(dropped) or 'the metadata is empty'})")
    table = assign_missing_split(table, name, split_seed)
    order = pc.sort_indices(
        table,
        sort_keys=[("file", "ascending"), ("offset", "ascending"), ("node", "ascending"), ("node_row", "ascending")],
    )
    log.info("%s: indexed %d traces", name, len(table))
    return table.take(order), dict(dropped)


def _drop_duplicates(table: pa.Table) -> tuple[pa.Table, int]:
    identity = pc.binary_join_element_wise(table["chunk"], table["trace_name"], "\x1f")
    _, first = np.unique(identity.to_numpy(zero_copy_only=False).astype(str), return_index=True)
    return (table, 0) if len(first) == len(table) else (table.take(np.sort(first)), len(table) - len(first))


def assign_missing_split(table: pa.Table, name: str, seed: int) -> pa.Table:
    """Returns the table with every row in train, dev or test.

    Rows without a split are assigned 60/10/30 by a hash of their event, or else their day and station, or else
    their name: never by row order, so that no event and no noise block straddles two splits.
    """
    given = table["split"].to_pylist()
    if all(value in ("train", "dev", "test") for value in given):
        return table
    events, stations, times, names = (table[c].to_pylist() for c in ("event", "station", "start_time", "trace_name"))
    filled = 0
    for i, value in enumerate(given):
        if value in ("train", "dev", "test"):
            continue
        key = events[i] or (f"{stations[i]}/{times[i][:10]}" if times[i] else stations[i] or names[i])
        draw = int.from_bytes(hashlib.blake2b(f"{seed}/{name}/{key}".encode(), digest_size=4).digest(), "big") / 2**32
        given[i] = "train" if draw < 0.6 else "dev" if draw < 0.7 else "test"
        filled += 1
    log.info("%s: %d traces without a split were assigned one by event, station and day", name, filled)
    return table.set_column(table.schema.get_field_index("split"), "split", pa.array(given, pa.string()))


def _read_shard_index(fs, path: str, folder: str, name: str) -> pa.Table:
    with fs.open(f"{path}/index.parquet") as stream:
        table = pq.read_table(stream)
    table = table.replace_schema_metadata(table.schema.metadata)
    files = pc.binary_join_element_wise(pa.scalar(folder.rstrip("/")), table["file"], "/")
    table = table.set_column(table.schema.get_field_index("file"), "file", files)
    return table.set_column(0, "dataset", pa.array([name] * len(table), pa.string()))
