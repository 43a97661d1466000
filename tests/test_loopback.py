"""A Ray that a job starts on one machine can be reached from this machine alone."""

import contextlib
import importlib
import ipaddress
import os
import re
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from raysys import ray_internals

OWN = """
import sys
import raysys
import ray
from raysys.cluster import connect
connect(num_cpus=2)
ray.get(ray.remote(lambda: None).remote())
print("started", flush=True)
sys.stdin.readline()


def meet(arguments):
    import time
    from pathlib import Path

    import torch
    import torch.distributed as dist

    dist.all_reduce(torch.ones(1))
    dist.barrier()
    Path(arguments["folder"], str(dist.get_rank())).touch()
    while not Path(arguments["folder"], "seen").exists():
        time.sleep(0.1)
    return {}


from raysys.presets import PRESETS
from raysys.train.driver import trainer
values = {"storage": sys.argv[1], "train.num_workers": 2, "train.cpus_per_worker": 0.5}
trainer(meet, PRESETS["smoke"]().override(values), {"folder": sys.argv[1]}).fit()
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
    for link in (link for pid in pids for link in Path("/proc").glob(f"{pid}/fd/*")):
        with contextlib.suppress(OSError):  # it is closed, or its process has ended
            if (inode := str(link.readlink()).removeprefix("socket:[")[:-1]) in sockets:
                found.append(((link.parents[1] / "comm").read_text().strip(), *sockets[inode]))
    return sorted(set(found))


def seen_once(pid: int, needed: set[str], ready=lambda: True) -> list[tuple[str, str, int]]:
    """What a process and those below it listen on, once all that are needed do."""
    until = time.monotonic() + 120
    while not (ready() and needed <= {name for name, *_ in listening(children(pid))}):
        assert time.monotonic() < until, listening(children(pid))
        time.sleep(1)
    time.sleep(3)  # some open several ports
    return listening(children(pid))


def test_addresses_are_read_as_the_kernel_writes_them():
    words = {"0100007F": "127.0.0.1", "00000000": "0.0.0.0", "00000000" * 4: "::", "00000000" * 3 + "01000000": "::1"}
    words["0000000000000000FFFF00000100007F"] = "127.0.0.1"
    assert {text: str(address(text)) for text in words} == words
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("", 0)) as other:
        mine = {(host, port) for _, host, port in listening({os.getpid()})}
        assert {one.getsockname(), other.getsockname()} <= mine


@pytest.mark.parametrize("cluster", [False, True])
def test_the_store_where_workers_meet_is_local_unless_they_are_of_a_cluster(monkeypatch, cluster):
    rendezvous, done = importlib.import_module("torch.distributed.rendezvous"), []
    monkeypatch.setattr(rendezvous, "TCPStore", rendezvous.TCPStore)
    monkeypatch.setattr(ray_internals.ray_constants, "ENABLE_RAY_CLUSTER", cluster)
    backend = ray_internals.WorkersMeet().backend_cls
    monkeypatch.setattr(backend.__base__, "on_start", lambda self, group, config: done.append(config))
    backend().on_start(SimpleNamespace(execute_single=lambda rank, call: call()), "config")
    assert done == ["config"]
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    store = rendezvous._create_c10d_store("127.0.0.1", port, 0, 1, timedelta(seconds=5))
    store.set("key", "value")
    [host] = [host for _, host, at in listening({os.getpid()}) if at == port]
    assert host == ("::" if cluster else "127.0.0.1")


@pytest.mark.slow
def test_a_run_on_one_machine_listens_on_loopback_alone(own_ray, tmp_path):
    """Ray with its dashboard and agents first, then the workers of a run, which also listen for each other."""
    needed = {"gcs_server", "raylet", "ray::DashboardA", "ray::RuntimeEnv", "ray::IDLE"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", OWN, str(tmp_path)]
    with (tmp_path / "log").open("w") as log, subprocess.Popen(command, env=own_ray, stderr=log, **pipes) as process:
        assert process.stdout.readline().strip() == "started", (tmp_path / "log").read_text()
        found = seen_once(process.pid, needed)
        process.stdin.write("\n")
        process.stdin.flush()
        needed = {"ray::RayTrainWo", "ray::TrainContr"}
        found += seen_once(process.pid, needed, lambda: all((tmp_path / rank).exists() for rank in "01"))
        (tmp_path / "seen").touch()
        process.communicate("", timeout=60)
    assert process.returncode == 0, (tmp_path / "log").read_text()
    assert [one for one in found if not ipaddress.ip_address(one[1]).is_loopback] == []
