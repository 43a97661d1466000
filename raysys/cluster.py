"""The connection to Ray: the cluster of the job or the shell if there is one, else one on this machine."""

import logging
import os
import socket
import sys
from contextlib import contextmanager, nullcontext

import ray
import ray.data

from raysys.ray_internals import GCS_PORT, ON_LOOPBACK, on_loopback, quieten_loggers, running_cluster

log = logging.getLogger(__name__)
_STORE_BYTES = 1 << 30
_LOOPBACK = "127.0.0.1"
_own = False
"""Whether this process has started the Ray that it uses: such a one never grows."""


def connect(num_cpus: int | None = None, temp_dir: str | None = None) -> None:
    """Makes sure that Ray runs: joins the cluster of RAY_ADDRESS, of the job or of this machine's `ray start`, else starts one here.

    One that is started here listens on 127.0.0.1 alone: nobody outside this machine reaches it.

    Args:
        num_cpus: of a cluster started here, also beside one of `ray start`; None takes the machine's.
        temp_dir: session folder of a cluster started here.
    """
    quieten()
    if ray.is_initialized():
        return
    if address := os.environ.get("RAY_ADDRESS") or (num_cpus is None and running_cluster(temp_dir)):
        with on_loopback() if address.startswith(f"{_LOOPBACK}:") else nullcontext():
            ray.init(address=address, logging_level=logging.WARNING)
        return
    global _own
    _own = True
    with _environment_of_children(), on_loopback():
        ray.init(
            address="local",
            _node_ip_address=_LOOPBACK,
            num_cpus=num_cpus,
            object_store_memory=_STORE_BYTES if (os.cpu_count() or 1) <= 4 else None,
            _temp_dir=temp_dir,
            logging_level=logging.WARNING,
        )


def lacking(wanted: dict[str, float]) -> str:
    """Returns what the cluster has now of resources ("CPU", "GPU") of which it has less than wanted; empty if it has enough."""
    total = ray.cluster_resources()
    return " and ".join(_amount(total.get(name, 0), name) for name, many in wanted.items() if total.get(name, 0) < many)


def require(wanted: dict[str, float], who: str) -> None:
    """Says what is waited for, if the cluster has less than wanted.

    Args:
        wanted: amounts of "CPU" and "GPU".
        who: wants them, e.g. "8 workers of a run".

    Raises:
        ValueError: this process has started Ray by itself, so that nothing else will come.
    """
    if not (has := lacking(wanted)):
        return
    text = f"{who}: {' and '.join(_amount(many, name) for name, many in wanted.items())} wanted, {has} there"
    fix = "fewer workers (train.num_workers, train.cpus_per_worker)" + (
        ", or train.device=cpu" if "GPU" in wanted else ""
    )
    if _own:
        raise ValueError(f"{text}, on this machine: {fix}, or run it on a cluster")
    log.warning("waiting for nodes: %s now (`ray status` says what comes). If no more will come: %s", text, fix)


def _amount(many: float, name: str) -> str:
    return f"{many:g} {name}" + ("" if many == 1 else "s")


@contextmanager
def _environment_of_children():
    """Tells the processes of a Ray that starts now its address, and to stay on this machine.

    Ray Train asks whether a run still lives without naming the cluster. With two of them on a machine it asks neither or the
    wrong one, and what a stopped run held is never given back (Ray 2.60).
    """
    with socket.socket() as free:
        free.bind((_LOOPBACK, 0))
        port = free.getsockname()[1]
    ours = {GCS_PORT: str(port), "RAY_ADDRESS": f"{_LOOPBACK}:{port}"} | ON_LOOPBACK
    if sys.platform == "linux":  # the connections among a run's workers
        ours |= {name: os.environ.get(name, "lo") for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")}
    before = {key: os.environ.get(key) for key in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


def quieten() -> None:
    """Takes the chatter of Ray Data and Ray Train out of this process's log."""
    quieten_loggers()
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
