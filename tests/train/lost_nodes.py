"""A run on a cluster of two nodes of which one is first taken away with notice and its successor then lost without.

Usage: python -m tests.train.lost_nodes CONFIG.json. Prints one JSON line: the step of the checkpoint that the notice
caused. A process of its own, because it has a Ray of its own.
"""

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import raysys  # noqa: F401  (sets what Ray reads when it is imported)

# isort: split
import ray
from ray._private.worker import global_worker
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason

from raysys.config import RunConfig
from raysys.train import driver

STEP_S = 0.2
"""Slows the run down, so that there is time to disturb it; the numbers stay what they are."""


def slow_worker(args: dict) -> dict:
    """The worker of a run, with a pause before every step."""
    from raysys.train.driver import train_worker
    from raysys.train.loop import Trainer

    step = Trainer._train_step

    def slow_step(self, batches) -> None:
        time.sleep(STEP_S)
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
    deadline_ms = int((time.time() + 300) * 1000)
    reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    accepted, why = global_worker.gcs_client.drain_node(node.node_id, reason, "spot", deadline_ms)
    assert accepted, why
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
