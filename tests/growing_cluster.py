"""A cluster that starts nodes when work waits for them: Ray's autoscaler with a provider whose nodes are processes of this machine.

`ray.cluster_utils.AutoscalingCluster` needs a file that Ray's wheel lacks, and stops every Ray of the machine.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import raysys  # noqa: F401  (sets what Ray reads when it is imported)

# isort: split
import ray

from tests.local_cluster import free_port


@contextmanager
def growing_cluster(folder: Path, node_types: dict[str, dict[str, float]], most: int = 2) -> Iterator[str]:
    """Gives the address of a head that runs drivers alone, and grows by up to `most` nodes of each type; sets RAY_ADDRESS.

    Args:
        folder: for the session; short, since sockets lie below it.
        node_types: name -> resources of a node; "GPU" is declared and need not exist.
        most: nodes of each type.
    """
    port = free_port()
    address = f"{ray.util.get_node_ip_address()}:{port}"
    config = folder / "cluster.json"
    config.write_text(json.dumps(_config(address, node_types, most)))
    words = ["start", "--head", f"--autoscaling-config={config}", f"--port={port}", f"--temp-dir={folder}/ray"]
    words += [f"--dashboard-port={free_port()}", f"--dashboard-agent-listen-port={free_port()}"]
    words += [f"--ray-client-server-port={free_port()}", "--num-cpus=0", "--object-store-memory=150000000"]
    ours = {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1", "RAY_memory_monitor_refresh_ms": "0"}
    # Also for its own processes: with several Rays on a machine those that ask after others must know which one is theirs.
    os.environ["RAY_ADDRESS"] = address
    environment = os.environ | ours
    subprocess.run([Path(sys.executable).with_name("ray"), *words], env=environment, check=True, stdout=sys.stderr)
    try:
        yield address
    finally:
        ray.shutdown()
        _stop(f"{folder}/ray")


def _config(address: str, node_types: dict[str, dict[str, float]], most: int) -> dict[str, Any]:
    head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    workers = {
        name: {
            "resources": {"object_store_memory": 150_000_000, **resources},
            "node_config": {},
            "min_workers": 0,
            "max_workers": most,
        }
        for name, resources in node_types.items()
    }
    nothing = ["initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands"]
    nothing += [
        "head_start_ray_commands",
        "worker_start_ray_commands",
        "cluster_synced_files",
        "rsync_exclude",
        "rsync_filter",
    ]
    return {
        "cluster_name": "growing",
        "max_workers": most * len(node_types),
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 0.2,
        "provider": {
            "type": "fake_multinode",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "gcs_address": address,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {"ray.head.default": head, **workers},
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        **{key: [] for key in nothing},
    }


def _stop(mark: str) -> None:
    """Ends the processes whose command line has a mark: first kindly, then for certain."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        for process in Path("/proc").iterdir():
            if process.name.isdigit() and int(process.name) != os.getpid():
                try:
                    if mark in (process / "cmdline").read_text():
                        os.kill(int(process.name), kind)
                except OSError:
                    continue
        time.sleep(3)
