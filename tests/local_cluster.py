"""A cluster whose nodes are processes of this machine, for processes that have no other Ray."""

import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import raysys  # noqa: F401  (sets what Ray reads when it is imported)

# isort: split
import ray
from ray.cluster_utils import Cluster


def free_port() -> int:
    """Returns a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def local_cluster(**node: Any):
    """Gives a cluster of one head with the resources of `node`; its address is in RAY_ADDRESS, also for its own processes.

    It has the dashboard, which Ray Train asks whether a run still lives; without, it waits half a minute for the answer.
    """
    port = free_port()
    os.environ |= {"RAY_GCS_SERVER_PORT": str(port), "RAY_ADDRESS": f"{ray.util.get_node_ip_address()}:{port}"}
    head = node | {"include_dashboard": True, "dashboard_port": free_port()}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    assert cluster.address == os.environ["RAY_ADDRESS"]
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def wait(what: str, seen: Callable[[], Any], limit_s: float = 180) -> Any:
    """Returns what `seen` gives as soon as that is true, and says how long it took."""
    start = time.monotonic()
    while not (found := seen()):
        if time.monotonic() > start + limit_s:
            raise TimeoutError(what)
        time.sleep(0.05)
    print(f"waited {time.monotonic() - start:.1f} s for {what}", file=sys.stderr)
    return found
