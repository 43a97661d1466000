"""A run on a cluster of two nodes of which one is first taken away with notice and its successor then lost without.

The notice is that of AWS, from a service on this machine, and the node's spot watcher sees it.

Usage: python -m tests.train.lost_nodes CONFIG.json. Prints one JSON line: the step of the checkpoint that the notice
caused. A process of its own, because it has a Ray of its own.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import raysys  # noqa: F401  (sets what Ray reads when it is imported)

# isort: split
import ray
from ray.cluster_utils import Cluster

from raysys.config import RunConfig
from raysys.train import driver
from tests.train.metadata import Metadata

WATCHER = Path(__file__).parents[2] / "deploy" / "spot_watch.py"
STEP_S = 0.2
"""Slows the run down, so that there is time to disturb it; the numbers stay what they are."""
NOTICE_STEP = 3
"""Far from a checkpoint in turn."""


def slow_worker(args: dict) -> dict:
    """The worker of a run, with a pause before every step, and a long one after `NOTICE_STEP` until the node is drained."""
    from raysys.train.driver import train_worker
    from raysys.train.loop import Trainer

    step = Trainer._train_step

    noticed = Path(args["config"].storage) / args["config"].name / "noticed"

    def slow_step(self, batches) -> None:
        time.sleep(STEP_S)
        if self.step == NOTICE_STEP:
            wait("the notice", noticed.exists)
            time.sleep(1)  # Ray Train asks five times as often
        step(self, batches)

    Trainer._train_step = slow_step
    return train_worker(args)


def wait(what: str, seen: Callable[[], bool], limit_s: float = 120) -> None:
    """Returns when `seen` does."""
    end = time.monotonic() + limit_s
    while not seen():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.05)


def checkpoints(run: Path) -> list[int]:
    """Returns the steps of the registered checkpoints."""
    try:
        state = json.loads((run / "checkpoint_manager_snapshot.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):  # not there yet, or being written
        return []
    return [int(result["checkpoint_dir_name"].removeprefix("step")) for result in state["checkpoint_results"]]


def disturb(cluster: Cluster, node, run: Path, every: int) -> int:
    """Returns the step of the checkpoint out of turn, after a notice for `node` and the loss of its successor."""
    wait(
        "the first steps",
        lambda: (run / "metrics.jsonl").exists() and '"step": 2' in (run / "metrics.jsonl").read_text(),
    )
    with Metadata() as metadata:
        # Both nodes are on this machine, so the watcher is told which of them is its own.
        words = ["aws", "--address", cluster.address, "--node-id", node.node_id]
        watcher = subprocess.Popen([sys.executable, WATCHER, *words], env=os.environ | {"METADATA_URL": metadata.url})
        wait("two looks without a notice", lambda: len(metadata.asked) > 1)
        assert watcher.poll() is None
        metadata.end = time.time() + 120
        assert watcher.wait(120) == 0
    (run / "noticed").touch()
    wait("a checkpoint because of the notice", lambda: any(step % every for step in checkpoints(run)))
    [step] = [step for step in checkpoints(run) if step % every]
    successor = cluster.add_node(num_cpus=1)
    later = step // every * every + every
    wait("a checkpoint in turn after it", lambda: later in checkpoints(run))
    cluster.remove_node(node, allow_graceful=False)
    cluster.remove_node(successor, allow_graceful=False)
    cluster.add_node(num_cpus=1)
    return step


def main() -> None:
    config = RunConfig.from_dict(json.loads(Path(sys.argv[1]).read_text()))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 200_000_000})
    node = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address)
    driver.train_worker = slow_worker
    fit = threading.Thread(target=driver.pretrain, args=(config,))
    fit.start()
    step = disturb(cluster, node, Path(config.storage) / config.name, config.train.validate_every)
    fit.join()
    print(json.dumps({"step": step}))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
