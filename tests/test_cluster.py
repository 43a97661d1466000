"""The connection to Ray."""

import os
import subprocess
import sys

import pytest
import ray

OTHER = """
import sys
from raysys.cluster import connect
connect(num_cpus=1)
print("up", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other_ray():
    """A second Ray of the same user on this machine, as a second job in another shell starts one."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_ADDRESS")}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    process = subprocess.Popen([sys.executable, "-c", OTHER], env=environment, **pipes)
    assert process.stdout.readline() == "up\n"
    yield
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
