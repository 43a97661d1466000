"""What lies outside this machine: the data, the storage of runs, and Ray."""

import logging
import os
import platform
import shutil
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import ray
import torch

from model.pretrain import PretrainModel
from raysys.cluster import connect, lacking
from raysys.config import RunConfig
from raysys.data.catalog import EIGHT, folders, resolve
from raysys.data.corpus import summary
from raysys.data.index import dropped_rows, ignored_values, load_index, unlabelled
from raysys.data.picks import ACCEPTED
from raysys.data.windows import Traces, read_windows
from raysys.doctor import Check, fail, guarded, ok, warn
from raysys.location import Location
from raysys.train.driver import least_workers, wanted

_DRIVERS = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}
"""URL scheme -> the package that fsspec reaches it with."""
_TIMEOUT_S = 60
_GIB = 1 << 30
_SAME = "install the same versions on every node: pip install -c constraints.txt -e ., or one image for all"


def check_data(config: RunConfig) -> Iterator[Check]:
    """Yields what lies below `data.root`, and one line for every data set of the run: indexed, and a window of it read."""
    data = config.data
    names = [one for name in data.datasets for one in (EIGHT if name == "all8" else [name])]
    if Location(data.root).is_dir():
        found = folders(data.root)
        eight = [name for name in EIGHT if name.lower() in found]
        absent = f"; `{_fetch('all8', data.root)}` fetches the others" if len(eight) < len(EIGHT) else ""
        absent += "; `--data.datasets all` takes what is there" if found and "all" not in data.datasets else ""
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
        remedy = f"--data.datasets all, for what is there, or {_fetch(name, data.root)}"
        yield fail(title, f"no folder {data.root}/{name.lower()}{size}", remedy)
        return
    except ValueError as error:
        yield fail(title, str(error), "--data.datasets takes names of the eight, of folders below data.root, or paths")
        return
    begin = time.perf_counter()
    index = load_index(folder, label, data.cache, data.split_seed)
    seconds = time.perf_counter() - begin
    read_windows(Traces.from_table(index[:1]), np.array([0]), np.array([0]), config.model.window_samples)
    [row], dropped, ignored, wanting = summary(index), dropped_rows(index), ignored_values(index), unlabelled(index)
    found = (
        f"{folder}: {row['traces']} traces (train {row['train']}, dev {row['dev']}, test {row['test']}; P {row['p_labels']}, "
        f"S {row['s_labels']}), {_bytes(Location(folder)) / 1e9:.2f} GB, index in {seconds:.1f} s, first window read"
    )
    found += f"; no trace has an onset of {wanting}" if wanting else ""
    if not row["train"]:
        yield warn(
            title, f"{found}; nothing in the training split", "give `split` in metadata.csv the values train, dev, test"
        )
    elif sum(dropped.values()) > 0.1 * row["traces"]:
        yield warn(
            title,
            f"{found}; left out: {dropped}",
            "repair those rows of metadata.csv; the log names the first of each kind",
        )
    elif ignored:
        yield warn(title, f"{found}; not used: {', '.join(ignored)}", f"columns of picks are {ACCEPTED}")
    else:
        yield ok(title, found + (f"; left out: {dropped}" if dropped else ""))


def check_storage(config: RunConfig) -> Iterator[Check]:
    """Yields whether runs can be written to `storage`; leaves nothing behind."""
    try:
        storage = Location(config.storage)
    except (ImportError, ValueError) as error:  # no driver; unknown scheme
        scheme = config.storage.split("://")[0]
        remedy = f"pip install {_DRIVERS[scheme]}" if scheme in _DRIVERS else "a path or s3://bucket/folder"
        yield fail("storage", str(error), remedy)
        return
    if not storage.is_local:
        yield _url(storage)
        return
    path = Path(storage.path)
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


def check_cluster(config: RunConfig) -> Iterator[Check]:
    """Yields what Ray offers, joined or started as a job would; a Ray that is started here is stopped again."""
    joined = ray.is_initialized()
    connect()
    try:
        context = ray.init(ignore_reinit_error=True, logging_level=logging.WARNING)
        yield _resources(joined)
        yield from guarded("ray worker", _worker(), _SAME)
        yield _lock(context.dashboard_url)
        yield from guarded("ray workers", _room(config), "--train.device cpu, or add nodes with GPUs")
        yield from _shared_storage(config)
    finally:
        if not joined:
            ray.shutdown()


def _url(storage: Location) -> Check:
    probe = storage / f".doctor-{uuid.uuid4().hex}"
    probe.write(b"probe")
    assert probe.read() == b"probe"
    probe.remove()
    return ok("storage", f"{storage} can be written and read, by fsspec's {type(storage.fs).__name__}")


def _bytes(folder: Location) -> int:
    return folder.fs.du(folder.path)


def _checkpoint_bytes(config: RunConfig) -> int:
    """Weights and the two moments of AdamW, in fp32."""
    with torch.device("meta"):
        model = PretrainModel(config.model, config.mask, config.loss)
    return 12 * sum(p.numel() for p in model.parameters())


def _fetch(name: str, root: str) -> str:
    return f"python -m jobs.prepare base --data.datasets {name} --data.root {root} --download"


def _resources(joined: bool) -> Check:
    total = ray.cluster_resources()
    address = os.environ.get("RAY_ADDRESS")
    where = "already running" if joined else f"joined at {address}" if address else "starts on this machine"
    return ok(
        "ray",
        f"{ray.__version__} {where}: {len(_nodes())} nodes, {total.get('CPU', 0):g} CPUs, {total.get('GPU', 0):g} GPUs, "
        f"{total.get('memory', 0) / _GIB:.0f} GiB memory, {total.get('object_store_memory', 0) / _GIB:.1f} GiB object store",
    )


def _worker() -> Iterator[Check]:
    # The task asks for no resource, so that no autoscaler starts a node for it.
    theirs = ray.get(ray.remote(num_cpus=0)(versions).remote(), timeout=_TIMEOUT_S)
    ours = versions()
    if theirs == ours:
        yield ok(
            "ray worker", "imports the project; " + ", ".join(f"{name} {version}" for name, version in ours.items())
        )
    else:
        yield fail("ray worker", f"has {theirs}, this process {ours}", _SAME)


def versions() -> dict[str, str]:
    """Returns the versions that must agree between processes: they exchange pickled objects."""
    import numpy
    import pyarrow
    import torch

    modules = {"ray": ray, "torch": torch, "numpy": numpy, "pyarrow": pyarrow}
    return {"python": platform.python_version()} | {name: module.__version__ for name, module in modules.items()}


def _lock(dashboard: str | None) -> Check:
    """Asks the dashboard without a token: it runs whatever command it is sent by those it answers."""
    remedy = "set RAY_AUTH_MODE=token on every node before `ray start` (docs/cluster.md, Security)"
    if not dashboard:
        return warn("ray dashboard", "off: trials with several workers need it", "start the head with its dashboard")
    try:
        with urllib.request.urlopen(f"http://{dashboard}/api/version", timeout=10):
            return fail("ray dashboard", f"http://{dashboard} runs jobs for anybody who reaches it", remedy)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return ok("ray dashboard", f"http://{dashboard} answers only with the token")
        return warn(
            "ray dashboard",
            f"http://{dashboard} answers {error.code} {error.reason}",
            "look at dashboard.log of the session",
        )
    except OSError as error:
        remedy = "run this on the head (`ray job submit`), or look at dashboard.log of the session"
        return warn("ray dashboard", f"http://{dashboard} does not answer: {error}", remedy)


def _room(config: RunConfig) -> Iterator[Check]:
    """Whether the workers of a run fit into what the cluster has now."""
    needs = wanted(config)
    found = f"{least_workers(config)} workers want {needs['CPU']:g} CPUs and {needs.get('GPU', 0):g} GPUs"
    if not (has := lacking(needs)):
        yield ok("ray workers", f"{found}: they fit")
    else:
        remedy = "lower --train.num-workers, --train.device cpu, or add nodes; an autoscaler adds them by itself"
        yield warn("ray workers", f"{found}, and there are {has} now: the run would wait", remedy)


def _shared_storage(config: RunConfig) -> Iterator[Check]:
    if len(_nodes()) > 1 and "://" not in config.storage.removeprefix("file://"):
        found = f"{config.storage} is a local path on a cluster of {len(_nodes())} nodes"
        yield warn("storage", found, "right on a file system that all nodes share, else --storage s3://bucket/folder")


def _nodes() -> list[dict]:
    return [node for node in ray.nodes() if node["Alive"]]
