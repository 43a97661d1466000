"""The index of a data set: one Arrow row a trace that says where its bytes lie and what is known of them.

A SeisBench folder (metadata*.csv + waveforms*.hdf5) is indexed once and cached; a folder of shards brings its
index with it. Readers need nothing else: no HDF5 library, no CSV, no SeisBench.
"""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from raysys.data.files import with_retries
from raysys.data.hdf5_layout import LINK
from raysys.data.merge import merge_rows
from raysys.data.picks import ACCEPTED
from raysys.data.quality import flag_traces
from raysys.data.resample import SAMPLES_VERSION, read_rates
from raysys.data.seisbench_format import read_chunk
from raysys.data.splits import assign_missing_split
from raysys.data.windows import component_rows
from raysys.location import Location

log = logging.getLogger(__name__)

VERSION = 5
"""Of the schema; a cached index of another version is built again."""
_SCAN_ROWS = 2048
"""Traces that one task looks at."""

SCHEMA = pa.schema(
    [
        ("dataset", pa.string()),
        ("chunk", pa.string()),
        ("trace_name", pa.string()),
        ("file", pa.string()),
        ("file_size", pa.int64()),
        ("node", pa.string()),  # path of the HDF5 dataset, or "" in a shard
        ("node_row", pa.int32()),  # row in a block of traces, -1 where the node is one trace
        ("start", pa.int64()),  # first stored sample of the trace in its node or row
        ("offset", pa.int64()),  # first byte of the trace in the file, -1 where the node is chunked or compressed
        ("stride", pa.int32()),  # stored samples from one component to the next
        ("step", pa.int32()),  # stored samples from one sample of a component to the next
        ("num_samples", pa.int32()),  # of them, those that are not padding
        ("num_components", pa.int16()),
        ("dtype", pa.string()),
        ("scale", pa.float32()),  # of a stored unit
        ("rate_hz", pa.float64()),
        ("components", pa.string()),
        ("p_s", pa.float64()),  # first P onset, seconds after the first sample; NaN where there is none
        ("s_s", pa.float64()),
        ("p_phase", pa.string()),
        ("s_phase", pa.string()),
        ("p_more_s", pa.list_(pa.float64())),  # later P onsets
        ("s_more_s", pa.list_(pa.float64())),
        ("other_s", pa.list_(pa.float64())),  # onsets of phases that are neither P nor S
        ("split", pa.string()),
        ("event", pa.string()),
        ("more_events", pa.list_(pa.string())),  # other events in the same trace
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


def load_index(folder: str, name: str, cache: str, split_seed: int = 0, *, scan: bool = False) -> pa.Table:
    """Returns the index of a data set, from the cache where the files have not changed since.

    Args:
        folder: SeisBench folder or folder of shards, local or any fsspec URL.
        name: label that goes into the `dataset` column.
        cache: local folder for indices.
        split_seed: decides the split where the metadata has none.
        scan: read every trace once, to fill in its quality flags. (Shards have them.)

    Raises:
        FileNotFoundError: no metadata or no waveforms.
        ValueError: a file that cannot be read, or nothing usable in it (naming the file and the fix); shards whose
            splits were drawn with another seed, or whose samples were made in another way.
        PermissionError: a file that this user may not read.
    """
    place = Location(folder)
    with_shards = place / "index.parquet"
    if with_retries(with_shards.exists, place):
        table = with_retries(lambda: _read_shard_index(with_shards, place, name, split_seed), with_shards)
        _tell(table, name)
        return table
    chunks, unused = with_retries(lambda: _chunks(place), place)
    stamp = with_retries(lambda: _fingerprint(place, chunks, split_seed), place)
    cached = Location(cache) / f"{name}-{hashlib.sha1(str(place).encode()).hexdigest()[:12]}.parquet"
    table = _cached(cached, stamp, name)
    if table is None:
        table = _build(place, name, chunks, split_seed)
        table = table.replace_schema_metadata({"fingerprint": stamp, **table.schema.metadata})
        _write_cache(cached, table, name)
    if scan and b"scanned" not in table.schema.metadata:
        flags = pa.array(_scan(table, name), pa.int32())
        metadata = table.schema.metadata | {b"scanned": b"1"}
        table = table.set_column(table.schema.get_field_index("flags"), "flags", flags)
        table = table.replace_schema_metadata(metadata)
        _write_cache(cached, table, name)
    table = _with_unused(table, unused)
    _tell(table, name)
    return table


def dropped_rows(table: pa.Table) -> dict[str, int]:
    """Returns how many traces were left out of an index, by reason."""
    return json.loads((table.schema.metadata or {}).get(b"dropped", b"{}"))


def ignored_values(table: pa.Table) -> dict[str, int]:
    """Returns how many cells, columns and files of a data set were read and not used, by reason."""
    return json.loads((table.schema.metadata or {}).get(b"ignored", b"{}"))


def unlabelled(table: pa.Table) -> str:
    """Returns which waves have no onset in any trace, "P", "S" or "P or S", and "" where both have."""
    return " or ".join(wave for wave in "PS" if not _num_onsets(table, wave))


def parquet_bytes(table: pa.Table) -> pa.Buffer:
    """Returns the bytes of a Parquet file with this table."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue()


def read_parquet(file: Location) -> pa.Table:
    """Returns the table in a Parquet file."""
    with file.open() as stream:
        return pq.read_table(stream)


def in_parallel(function: Callable, calls: list[tuple]) -> list[Any]:
    """Returns the results of calls in order: Ray tasks where Ray runs, threads of this process elsewhere."""
    if len(calls) > 1 and ray.is_initialized():
        task = ray.remote(max_retries=3)(function)
        references = [task.remote(*call) for call in calls]
        try:
            return ray.get(references)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return list(pool.map(lambda call: function(*call), calls))


def _cached(cached: Location, stamp: bytes, name: str) -> pa.Table | None:
    if not cached.exists():
        return None
    try:
        table = read_parquet(cached)
    except (OSError, pa.ArrowInvalid) as error:
        log.warning("%s: the cached index %s cannot be read (%s), indexing again", name, cached, error)
        return None
    metadata = table.schema.metadata or {}
    if metadata.get(b"fingerprint") == stamp:
        linked = json.loads(metadata.get(b"linked", b"[]"))
        if _stats([file for file, *_ in linked]) == linked:
            return table
    log.info("%s: files changed since they were indexed, indexing again", name)
    return None


def _write_cache(cached: Location, table: pa.Table, name: str) -> None:
    if LINK in dropped_rows(table):  # what is not there may come
        return
    try:
        cached.write(parquet_bytes(table))
    except OSError as error:
        text = "%s: its index cannot be kept (%s), so that every start makes it anew: name another folder with --data.cache"
        log.warning(text, name, error)


def _tell(table: pa.Table, name: str) -> None:
    """Logs, whenever a data set is used, what of it is not."""
    ignored, wanting = ignored_values(table), unlabelled(table)
    for reason, count in ignored.items():
        log.warning("%s: not used: %s (%d)", name, reason, count)
    if any("looks like a pick" in reason for reason in ignored):
        log.warning("%s: columns of picks are %s", name, ACCEPTED)
    if wanting:
        log.warning("%s: no trace has an onset of %s", name, wanting)


def _num_onsets(table: pa.Table, wave: str) -> int:
    return int((~np.isnan(table[f"{wave.lower()}_s"].to_numpy())).sum())


def _with_unused(table: pa.Table, unused: list[str]) -> pa.Table:
    ignored = ignored_values(table) | dict.fromkeys(unused, 1)
    return table.replace_schema_metadata(table.schema.metadata | {b"ignored": json.dumps(ignored).encode()})


def _chunks(folder: Location) -> tuple[list[str], list[str]]:
    """The chunks of a folder as SeisBench finds them, and which files it so leaves aside.

    The file `chunks` names them; without it waveforms.hdf5 is the only one; else all pairs of metadata and waveforms.
    """
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: no such folder")
    names = {one.name for one in folder.children()}
    metadata, waveforms = _parts(names, "metadata", ".csv"), _parts(names, "waveforms", ".hdf5")
    if not metadata:
        raise FileNotFoundError(f"{folder}: no metadata*.csv, so this is no SeisBench data set")
    listed = (folder / "chunks").read().decode().splitlines() if "chunks" in names else []
    chunks = sorted({line.strip() for line in listed} - {""})
    why = "which the file `chunks` does not name"
    if not chunks:
        chunks = [""] if "" in waveforms else sorted(metadata & waveforms) or sorted(metadata)
        why = "since waveforms.hdf5 is there" if "" in waveforms else "which has no metadata or no waveforms beside it"
    for chunk in chunks:
        if chunk not in metadata:
            raise FileNotFoundError(f"{folder}/metadata{chunk}.csv is missing, a chunk of this data set")
        if chunk not in waveforms:
            raise FileNotFoundError(f"{folder}/waveforms{chunk}.hdf5 is missing beside metadata{chunk}.csv")
    return chunks, [f"chunk {chunk!r}, {why}" for chunk in sorted((metadata | waveforms) - set(chunks))]


def _parts(names: set[str], prefix: str, suffix: str) -> set[str]:
    """What stands between a prefix and a suffix."""
    both = (name for name in names if name.startswith(prefix) and name.endswith(suffix))
    return {name.removeprefix(prefix).removesuffix(suffix) for name in both}


def _fingerprint(folder: Location, chunks: list[str], split_seed: int) -> bytes:
    files = [file for chunk in chunks for file in (f"metadata{chunk}.csv", f"waveforms{chunk}.hdf5")]
    stats = [(file, *known) for file, (_, *known) in zip(files, _stats([folder / file for file in files]), strict=True)]
    return hashlib.sha1(json.dumps([VERSION, split_seed, stats]).encode()).hexdigest().encode()


def _stats(files: list[str | Location]) -> list[list]:
    """Name, size and time of files; size -1 where there is none."""
    stats = []
    for file in map(Location, files):
        try:
            info = file.info()
        except FileNotFoundError:
            info = {"size": -1}
        stats.append([str(file), info["size"], str(info.get("mtime") or info.get("LastModified") or info.get("ETag"))])
    return stats


def _build(folder: Location, name: str, chunks: list[str], split_seed: int) -> pa.Table:
    dropped: Counter[str] = Counter()
    ignored: Counter[str] = Counter()
    tables = []
    for chunk, read in zip(chunks, in_parallel(_read_chunk, [(folder, name, c) for c in chunks]), strict=True):
        table, bad, example = read
        for reason, count in bad.items():
            log.warning("%s%s: %d traces left out: %s (first: %s)", name, chunk, count, reason, example[reason])
        dropped.update(bad)
        ignored.update(ignored_values(table))
        tables.append(table.replace_schema_metadata(None))
    table, merged, contradicting = merge_rows(pa.concat_tables(tables))
    twice = {"duplicate identity": merged, "rows of one trace that contradict each other": contradicting}
    for reason, count in twice.items():
        if count:
            dropped[reason] += count
            log.warning("%s: %d rows left out: %s (chunk, trace_name); onsets are kept", name, count, reason)
    if not len(table):
        raise ValueError(f"{folder}: no usable trace ({dict(dropped) or 'the metadata is empty'})")
    table, drawn = assign_missing_split(table, name, split_seed)
    _tell_unread_channels(table, name)
    _tell_rates(table, name)
    log.info("%s: indexed %d traces, P onsets in %d, S in %d", name, len(table), *(_num_onsets(table, w) for w in "PS"))
    elsewhere = sorted(set(pc.unique(table["file"]).to_pylist()) - {str(folder / f"waveforms{c}.hdf5") for c in chunks})
    told = {"dropped": dropped, "ignored": ignored, "drawn": [split_seed, drawn], "linked": _stats(elsewhere)}
    keys = [("file", "ascending"), ("offset", "ascending"), ("node", "ascending"), ("node_row", "ascending")]
    table = table.take(pc.sort_indices(table, sort_keys=keys))
    return table.replace_schema_metadata({key: json.dumps(value) for key, value in told.items()})


def _tell_unread_channels(table: pa.Table, name: str) -> None:
    for order, count in sorted(
        (row["values"], row["counts"]) for row in pc.value_counts(table["components"]).to_pylist()
    ):
        unread = [letter for channel, letter in enumerate(order) if channel not in component_rows(order)]
        if unread:
            log.warning("%s: %d traces of order %s: channels %s are not read", name, count, order, ", ".join(unread))


def _tell_rates(table: pa.Table, name: str) -> None:
    stated = table["rate_hz"].to_numpy()
    taken = read_rates(stated)
    off = np.abs(taken / stated - 1)
    if (off > 1e-6).any():
        worst = int(np.argmax(off))
        text = (
            "%s: %d traces have a rate a little off a round one (at most: %.6g Hz, taken for %.6g), and so their picks"
        )
        log.info(text, name, int((off > 1e-6).sum()), stated[worst], taken[worst])


def _read_chunk(folder: Location, name: str, chunk: str) -> tuple[pa.Table, Counter, dict[str, str]]:
    file = folder / f"metadata{chunk}.csv"
    try:
        table, bad, example = with_retries(lambda: read_chunk(folder, name, chunk), file)
    except PermissionError as error:
        refused = error.filename or folder / f"waveforms{chunk}.hdf5"
        raise PermissionError(
            f"{refused}: this user may not read it: ask its owner for the right, or copy it"
        ) from error
    return table.select(SCHEMA.names).cast(SCHEMA.with_metadata(table.schema.metadata)), bad, example


def _scan(table: pa.Table, name: str) -> np.ndarray:
    """Quality flags of every trace."""
    log.info("%s: looking at %d traces, once", name, len(table))
    parts = [(table.slice(first, _SCAN_ROWS),) for first in range(0, len(table), _SCAN_ROWS)]
    return np.concatenate(in_parallel(flag_traces, parts))


def _read_shard_index(file: Location, folder: Location, name: str, split_seed: int) -> pa.Table:
    table = read_parquet(file)
    if table.schema.names != SCHEMA.names:
        raise ValueError(f"{file} has another layout: prepare the shards again with `python -m jobs.prepare`")
    metadata = table.schema.metadata or {}
    version = int(metadata.get(b"samples", 0))
    if version != SAMPLES_VERSION:
        raise ValueError(
            f"{file}: its samples were cut and resampled in another way (version {version}, now {SAMPLES_VERSION}): "
            f"prepare the shards again, `python -m jobs.prepare ... --out FOLDER`"
        )
    seed, drawn = json.loads(metadata.get(b"drawn", b"[0, 0]"))
    if drawn and seed != split_seed:
        raise ValueError(
            f"data.split_seed={split_seed}, but {drawn} traces of {file} have splits drawn with {seed}, which shards keep: "
            f"set --data.split-seed {seed}, or prepare the shards again"
        )
    files = pc.binary_join_element_wise(pa.scalar(str(folder)), table["file"], "/")
    table = table.set_column(table.schema.get_field_index("file"), "file", files)
    return table.set_column(0, "dataset", pa.array([name] * len(table), pa.string()))
