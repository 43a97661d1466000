"""Where the data comes from and where runs go."""

import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import torch

from model.pretrain import PretrainModel
from raysys.config import RunConfig
from raysys.data.catalog import EIGHT, folders, resolve
from raysys.data.corpus import summary
from raysys.data.index import dropped_rows, load_index
from raysys.data.windows import Traces, read_windows
from raysys.doctor.check import Check, fail, guarded, ok, warn

_DRIVERS = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}
"""URL scheme -> the package that fsspec reaches it with."""


def check_data(config: RunConfig) -> Iterator[Check]:
    """Yields what lies below `data.root`, and one line for every data set of the run: indexed, and a window of it read."""
    data = config.data
    names = [one for name in data.datasets for one in (EIGHT if name == "all8" else [name])]
    fs, path = fsspec.core.url_to_fs(data.root)
    if fs.isdir(path):
        found = folders(data.root)
        eight = [name for name in EIGHT if name.lower() in found]
        absent = f"; `{_fetch('all8', data.root)}` fetches the others" if len(eight) < len(EIGHT) else ""
        listed = ", ".join(found) or "no data set"
        yield ok("data.root", f"{data.root} holds {listed}: {len(eight)} of the eight{absent}")
        names = [one for name in names for one in ((found or ["all"]) if name == "all" else [name])]
    elif any("/" not in name for name in names):
        remedy = f"--data.root FOLDER, where the data sets are, or fetch them: {_fetch('all8', data.root)}"
        yield fail("data.root", f"{data.root} is no folder", remedy)
        names = [name for name in names if "/" in name]
    for name in dict.fromkeys(names):
        remedy = f"do what the message says, or fetch the data set again: {_fetch(name, data.root)}"
        yield from guarded(f"data set {name}", _data_set(name, config), remedy)


def _data_set(name: str, config: RunConfig) -> Iterator[Check]:
    data, title = config.data, f"data set {name}"
    try:
        [(label, folder)] = resolve((name,), data.root).items()
    except FileNotFoundError:
        size = f" (about {EIGHT[name].gigabytes:g} GB)" if name in EIGHT else ""
        yield fail(title, f"no folder {data.root}/{name.lower()}{size}", _fetch(name, data.root))
        return
    except ValueError as error:
        yield fail(title, str(error), "--data.datasets takes names of the eight, of folders below data.root, or paths")
        return
    begin = time.perf_counter()
    index = load_index(folder, label, data.cache, data.split_seed)
    seconds = time.perf_counter() - begin
    read_windows(Traces.from_table(index[:1]), np.array([0]), np.array([0]), config.model.window_samples)
    fs, path = fsspec.core.url_to_fs(folder)
    [row], dropped = summary(index), dropped_rows(index)
    found = (
        f"{folder}: {row['traces']} traces (train {row['train']}, dev {row['dev']}, test {row['test']}; P {row['p_labels']}, "
        f"S {row['s_labels']}), {fs.du(path) / 1e9:.2f} GB, index in {seconds:.1f} s, first window read"
    )
    if not row["train"]:
        yield warn(
            title, f"{found}; nothing in the training split", "give `split` in metadata.csv the values train, dev, test"
        )
    elif sum(dropped.values()) > 0.1 * row["traces"]:
        yield warn(
            title,
            f"{found}; left out: {dropped}",
            "mend those rows of metadata.csv; the log names the first of each kind",
        )
    else:
        yield ok(title, found + (f"; left out: {dropped}" if dropped else ""))


def check_storage(config: RunConfig) -> Iterator[Check]:
    """Yields whether runs can be written to `storage`; leaves nothing behind."""
    storage = config.storage.removeprefix("file://")
    if "://" in storage:
        yield from _url(storage)
        return
    path = Path(storage).expanduser().resolve()
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    if not existing.is_dir():
        yield fail("storage", f"{existing} is a file", "--storage FOLDER or --storage s3://bucket/folder")
        return
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        yield fail(
            "storage", f"{existing} cannot be written: {error.strerror}", "chown it to yourself, or --storage FOLDER"
        )
        return
    free, needed = shutil.disk_usage(existing).free, _checkpoint_bytes(config) * (config.train.keep_checkpoints + 1)
    found = f"{path}, a local path, {free / 1e9:.0f} GB free; the checkpoints of a run take {needed / 1e6:.0f} MB"
    if free > needed:
        yield ok("storage", found)
    else:
        yield fail("storage", found, "free some space, lower --train.keep-checkpoints, or choose another --storage")


def _url(url: str) -> Iterator[Check]:
    scheme = url.split("://")[0]
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:  # no driver; unknown scheme
        yield fail(
            "storage",
            str(error),
            f"pip install {_DRIVERS[scheme]}" if scheme in _DRIVERS else "a path or s3://bucket/folder",
        )
        return
    probe = f"{path.rstrip('/')}/.doctor-{uuid.uuid4().hex}"
    fs.pipe_file(probe, b"probe")
    assert fs.cat_file(probe) == b"probe"
    fs.rm_file(probe)
    yield ok("storage", f"{url} can be written and read, by fsspec's {type(fs).__name__}")


def _checkpoint_bytes(config: RunConfig) -> int:
    """Weights and the two moments of AdamW, in fp32."""
    with torch.device("meta"):
        model = PretrainModel(config.model, config.mask, config.loss)
    return 12 * sum(p.numel() for p in model.parameters())


def _fetch(name: str, root: str) -> str:
    return f"python -m jobs.prepare base --data.datasets {name} --data.root {root} --download"
