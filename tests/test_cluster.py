"""The connection to Ray."""

import os
import subprocess
import sys

import pytest
import ray

OTHER = """
import sys
import raysys
import ray
from raysys.cluster import connect
connect(num_cpus=1)
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
def other_ray():
    """The address of a second Ray of the same user on this machine, as a second job in another shell starts one."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    process = subprocess.Popen([sys.executable, "-c", OTHER], env=no_address(), **pipes)
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
def test_a_job_joins_the_cluster_that_ray_start_began_on_this_machine(other_ray, tmp_path):
    (tmp_path / "ray_current_cluster").write_text(other_ray)  # as `ray start` does
    words = [sys.executable, "-c", JOB, str(tmp_path)]
    done = subprocess.run(words, env=no_address(), capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1:] == [other_ray], done.stderr[-2000:]
