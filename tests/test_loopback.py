"""A Ray that a job starts on one machine can be reached from this machine alone."""

import ipaddress
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

OWN = """
import sys
import raysys
import ray
from raysys.cluster import connect
connect(num_cpus=2)
ray.get(ray.remote(lambda: None).remote())
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""
LISTENS = "0A"


def children(pid: int) -> set[int]:
    """A process and all below it."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
    found = {pid}
    while more := {one for one, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address that the kernel writes as words of the machine's byte order; one of IPv4 within IPv6 as what it is."""
    words = b"".join(bytes.fromhex(word)[::-1] for word in re.findall("." * 8, text))
    found = ipaddress.ip_address(words)
    return getattr(found, "ipv4_mapped", None) or found


def listening(pids: set[int]) -> list[tuple[str, str, int]]:
    """Process, address and port of every socket on which one of the processes waits for others."""
    sockets = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == LISTENS:
                host, port = local.split(":")
                sockets[rest[5]] = (str(address(host)), int(port, 16))
    found = []
    for pid in pids:
        try:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            targets = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
        except OSError:
            continue
        found += [(name, *sockets[inode]) for target in targets if (inode := target[8:-1]) in sockets]
    return sorted(set(found))


@pytest.fixture
def started(own_ray):
    """What the processes of a Ray that a job starts here listen on."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen([sys.executable, "-c", OWN], env=own_ray, **pipes) as process:
        assert process.stdout.readline().strip()
        found, until = [], time.monotonic() + 60
        while "ray::DashboardA" not in {name for name, *_ in found}:
            assert time.monotonic() < until, found
            time.sleep(1)
            found = listening(children(process.pid))
        time.sleep(3)  # it opens several ports
        yield listening(children(process.pid))
        process.communicate("", timeout=60)


@pytest.mark.slow
def test_a_ray_of_one_machine_listens_on_loopback_alone(started):
    assert {"gcs_server", "raylet", "ray::DashboardA", "ray::RuntimeEnv", "ray::IDLE"} <= {name for name, *_ in started}
    assert [one for one in started if not ipaddress.ip_address(one[1]).is_loopback] == []
