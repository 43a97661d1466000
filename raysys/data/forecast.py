"""What `jobs.prepare` would read and write."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa

from raysys.config import DataConfig
from raysys.data.index import load_index
from raysys.data.overview import find
from raysys.data.windows import Traces


def shards_forecast(config: DataConfig, out: str) -> str:
    """Returns a line for each data set with its traces and bytes, and the room that there is; reads no waveform."""
    folders, wrong = find(config)
    lines, needed = [f"data.root {config.root}:"], 0
    for name, folder in folders.items():
        index = load_index(folder, name, config.cache, config.split_seed)
        read, written = shard_bytes(index, config.shard_dtype)
        needed += written
        lines.append(f"  {name}: {len(index):,} traces, {_size(read)} to read, about {_size(written)} to write")
    lines += [f"  {text}" for text in wrong]
    lines.append(f"--out {out}: {_room(out, needed)}")
    return "\n".join(lines)


def shard_bytes(index: pa.Table, dtype: str) -> tuple[int, int]:
    """Returns the bytes of all samples as they are stored, and as three components at 100 Hz."""
    traces = Traces.from_table(index)
    item = np.array([stored.itemsize for stored in traces.dtypes])[traces.dtype]
    read = traces.num_samples.astype(np.int64) * traces.num_components * item
    written = traces.output_samples(np.arange(len(traces))) * 3 * np.dtype(dtype).itemsize
    return int(read.sum()), int(written.sum())


def _room(out: str, needed: int) -> str:
    if "://" in out.removeprefix("file://"):
        return f"about {_size(needed)} to write; how much room a URL has is unknown"
    path = Path(out.removeprefix("file://")).expanduser().resolve()
    existing = next(folder for folder in (path, *path.parents) if folder.is_dir())
    free = shutil.disk_usage(existing).free
    return f"about {_size(needed)} to write, {_size(free)} free" + ("" if free > needed else ": too little")


def _size(count: int) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e6:.1f} MB"
