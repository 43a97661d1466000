"""The connection to Ray."""

import logging
import os
import subprocess
import sys

import pytest
import ray

from raysys import cluster
from raysys.cluster import connect

OTHER = """
import sys
import raysys
import ray
from raysys.cluster import connect
connect(num_cpus=1)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""
AS_RAY_START = """
import sys
import raysys
import ray
ray.init(address="local", num_cpus=1)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""
JOB = """
import sys
import raysys
import ray
from raysys.cluster import connect
connect(temp_dir=sys.argv[1])
print(ray.get_runtime_context().gcs_address)
"""


def no_address() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}


@pytest.fixture
def other_ray(request):
    """The address of a second Ray of the same user on this machine, as a second job in another shell starts one."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    process = subprocess.Popen([sys.executable, "-c", getattr(request, "param", OTHER)], env=no_address(), **pipes)
    yield process.stdout.readline().strip()
    process.communicate("", timeout=60)


class Watcher:
    """Asks after itself as Ray Train asks after the controllers of its runs."""

    def sees_itself(self) -> str:
        from ray.util.state import get_actor

        return get_actor(ray.get_runtime_context().get_actor_id()).state


@pytest.mark.slow
def test_two_rays_on_a_machine_keep_apart(ray_cluster, other_ray):
    watcher = ray.remote(num_cpus=0)(Watcher).remote()
    assert ray.get(watcher.sees_itself.remote(), timeout=60) == "ALIVE"
    assert "RAY_ADDRESS" not in os.environ, "this process may start another one later"


@pytest.mark.slow
@pytest.mark.parametrize("other_ray", [OTHER, AS_RAY_START], indirect=True, ids=["loopback", "network"])
def test_a_job_joins_the_cluster_that_ray_start_began_on_this_machine(other_ray, tmp_path):
    (tmp_path / "ray_current_cluster").write_text(other_ray)  # as `ray start` does
    words = [sys.executable, "-c", JOB, str(tmp_path)]
    done = subprocess.run(words, env=no_address(), capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1:] == [other_ray], done.stderr[-2000:]


@pytest.fixture
def started(monkeypatch):
    """What `connect` asks of Ray, each with the address that children of this process would take; nothing is started."""
    asked = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **words: asked.append((words, os.environ.get("RAY_ADDRESS"))))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_GCS_SERVER_PORT", "1")
    return asked


@pytest.mark.parametrize(("cores", "store"), [(4, 1 << 30), (5, None)])
def test_a_ray_of_this_machine_tells_its_children_its_address_and_nobody_else(
    started, monkeypatch, tmp_path, cores, store
):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    connect(temp_dir=str(tmp_path))
    [(words, address)] = started
    assert words.pop("logging_level") == logging.WARNING
    assert words == {
        "address": "local",
        "_node_ip_address": "127.0.0.1",
        "num_cpus": None,
        "object_store_memory": store,
        "_temp_dir": str(tmp_path),
    }
    assert address.startswith("127.0.0.1:")
    assert "RAY_ADDRESS" not in os.environ
    assert os.environ["RAY_GCS_SERVER_PORT"] == "1"


def test_the_cluster_of_the_environment_comes_before_that_of_the_machine(started, monkeypatch, tmp_path):
    (tmp_path / "ray_current_cluster").write_text("10.0.0.2:6379")
    connect(temp_dir=str(tmp_path))
    connect(num_cpus=3, temp_dir=str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    connect(num_cpus=3, temp_dir=str(tmp_path))
    assert [words["address"] for words, _ in started] == ["10.0.0.2:6379", "local", "10.0.0.1:6379"]
    assert started[1][0]["num_cpus"] == 3
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    connect()
    assert len(started) == 3, "one Ray a process"


def fail_where_children_start():
    with cluster._environment_of_children():
        assert os.environ["RAY_ADDRESS"] == f"127.0.0.1:{os.environ['RAY_GCS_SERVER_PORT']}"
        assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
        assert (os.environ["GLOO_SOCKET_IFNAME"], os.environ["NCCL_SOCKET_IFNAME"]) == ("lo", "eth7")
        raise OSError("no Ray")


def test_children_hear_the_port_that_the_ray_listens_to_and_only_while_it_starts(monkeypatch):
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth7")  # who says so means it
    before = dict(os.environ)
    with pytest.raises(OSError, match="no Ray"):
        fail_where_children_start()
    assert dict(os.environ) == before


def test_what_never_comes_is_refused_and_what_may_come_is_waited_for(monkeypatch, caplog):
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0})
    monkeypatch.setattr(cluster, "_own", True)
    cluster.require({"CPU": 4.0}, "2 workers")
    message = r"2 workers: 5 CPUs and 2 GPUs wanted, 4 CPUs and 0 GPUs there, on this machine: .*train\.device=cpu"
    with pytest.raises(ValueError, match=message):
        cluster.require({"CPU": 5.0, "GPU": 2.0}, "2 workers")
    monkeypatch.setattr(cluster, "_own", False)
    cluster.require({"CPU": 4.0, "GPU": 1.0}, "1 worker")
    assert "waiting for nodes: 1 worker: 4 CPUs and 1 GPU wanted, 0 GPUs there now" in caplog.text
