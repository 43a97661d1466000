"""`ray start --head` on this machine, as docs/cluster.md says it, with ports and a folder of its own."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.local_cluster import free_port

RAY = Path(sys.executable).with_name("ray")
TOKEN = "0123456789abcdef" * 4


@contextmanager
def ray_head(log: Path) -> Iterator[dict[str, str]]:
    """Gives the environment of a shell beside a head with two CPUs: RAY_API_SERVER_ADDRESS, its GCS port and the agent's.

    Args:
        log: what the head prints.
    """
    ports = {name: str(free_port()) for name in ("port", "dashboard-port", "dashboard-agent-listen-port")}
    temp = Path(f"/tmp/cl_{os.getpid()}")  # short, for sockets
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "PYTHONPATH"))} | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_memory_monitor_refresh_ms": "0",
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{ports['dashboard-port']}",
    }
    words = [f"--{name}={port}" for name, port in ports.items()] + [f"--temp-dir={temp}", "--num-cpus=2"]
    words += [f"--ray-client-server-port={free_port()}", "--object-store-memory=100000000", "--disable-usage-stats"]
    with log.open("w") as file:
        command = [str(RAY), "start", "--head", "--block", *words]
        head = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        until = time.monotonic() + 180
        while subprocess.run([str(RAY), "job", "list"], env=environment, capture_output=True, timeout=60).returncode:
            assert time.monotonic() < until, log.read_text()
            time.sleep(1)
        while not _listens(ports["dashboard-agent-listen-port"]):
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.5)
        yield environment | {"GCS_PORT": ports["port"], "AGENT_PORT": ports["dashboard-agent-listen-port"]}
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        time.sleep(1)
        os.killpg(head.pid, signal.SIGKILL)
        shutil.rmtree(temp, ignore_errors=True)


def _listens(port: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(port))) == 0
