"""Ray: can it be reached, what does it offer, is it locked."""

import logging
import os
import platform
import urllib.error
import urllib.request
from collections.abc import Iterator

import ray

from raysys.cluster import connect
from raysys.config import RunConfig
from raysys.doctor.check import Check, fail, guarded, ok, warn
from raysys.train.driver import uses_gpu

_TIMEOUT_S = 60
_GIB = 1 << 30
_SAME = "install the same versions on every node: pip install -c constraints.txt -e ., or one image for all"


def check_cluster(config: RunConfig) -> Iterator[Check]:
    """Yields what Ray offers, joined or started as a job would; a Ray that is started here is stopped again."""
    joined = ray.is_initialized()
    connect()
    try:
        context = ray.init(ignore_reinit_error=True, logging_level=logging.WARNING)
        yield _resources(joined)
        yield from guarded("ray worker", _worker(), _SAME)
        yield _lock(context.dashboard_url)
        yield from guarded("ray workers", _room(config), "--train.device auto, or add nodes with GPUs")
        yield from _shared_storage(config)
    finally:
        if not joined:
            ray.shutdown()


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
    total, train = ray.cluster_resources(), config.train
    wanted = {"CPU": train.num_workers * train.cpus_per_worker, "GPU": float(train.num_workers * uses_gpu(config))}
    found = f"{train.num_workers} workers want {wanted['CPU']:g} CPUs and {wanted['GPU']:g} GPUs"
    if all(total.get(kind, 0.0) >= amount for kind, amount in wanted.items()):
        yield ok("ray workers", f"{found}: they fit")
    else:
        remedy = "lower --train.num-workers, or add nodes; a cluster with an autoscaler adds them by itself"
        yield warn("ray workers", f"{found}, which the cluster does not have now: the run would wait", remedy)


def _shared_storage(config: RunConfig) -> Iterator[Check]:
    if len(_nodes()) > 1 and "://" not in config.storage:
        found = f"{config.storage} is a local path on a cluster of {len(_nodes())} nodes"
        yield warn("storage", found, "right on a file system that all nodes share, else --storage s3://bucket/folder")


def _nodes() -> list[dict]:
    return [node for node in ray.nodes() if node["Alive"]]
