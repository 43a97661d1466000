"""A cluster of two nodes on this machine, and a run of two workers on it to which everything happens once.

A worker is killed, a node is taken away with notice (AWS's, from a service on this machine, seen by the node's spot
watcher), its successor is lost without, and the driver is killed. Beside it runs one that is left in peace.

Usage: python -m tests.train.disturbances CONFIG.json. Prints one JSON line: the step of the checkpoint that the notice
caused. `python -m tests.train.disturbances CONFIG.json held` is the driver of the run that is disturbed.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from raysys.config import RunConfig
from raysys.console import configure_logging
from raysys.ray_internals import CHECKPOINT_LIST
from raysys.train import driver
from tests.local_cluster import local_cluster, wait
from tests.train.metadata import Metadata

WATCHER = Path(__file__).parents[2] / "deploy" / "spot_watch.py"
HOLDS = {15: "worker killed", 17: "notice given", 25: "node lost", 35: "driver killed"}
"""Steps that the run does not begin before something has happened to it; each is odd, far from a checkpoint in turn."""
STEP_S = 0.2
"""Pause before a step, so that checkpoints are registered before the next hold; the numbers stay what they are."""
NODE = {"num_cpus": 2, "object_store_memory": 200_000_000}
"""Room for one worker of 1.5 CPUs, and for tasks that read."""


def held_worker(args: dict) -> dict:
    """The worker of a run that waits at every step of `HOLDS` until that has happened."""
    from raysys.train.driver import train_worker
    from raysys.train.loop import Trainer

    step, run = Trainer._train_step, Path(args["config"].storage) / args["config"].name

    def held_step(self, batches) -> None:
        time.sleep(STEP_S)
        if self.step in HOLDS:
            (run / f"at {self.step}").touch()
            wait(HOLDS[self.step], (run / HOLDS[self.step]).exists)
            time.sleep(1.0 if HOLDS[self.step] == "notice given" else 0.0)  # Ray Train asks five times as often
        step(self, batches)

    Trainer._train_step = held_step
    return train_worker(args)


def checkpoints(run: Path) -> list[int]:
    """Returns the steps of the registered checkpoints."""
    try:
        state = json.loads((run / CHECKPOINT_LIST).read_text())
    except (FileNotFoundError, json.JSONDecodeError):  # not there yet, or being written
        return []
    return [int(result["checkpoint_dir_name"].removeprefix("step")) for result in state["checkpoint_results"]]


def command(config: RunConfig) -> list[str]:
    """Returns the command line of a run."""
    values = {
        "name": config.name,
        "storage": config.storage,
        "data.root": config.data.root,
        "data.cache": config.data.cache,
        "train.num-workers": config.train.num_workers,
        "train.cpus-per-worker": config.train.cpus_per_worker,
        "train.max-steps": config.train.max_steps,
        "train.validate-every": config.train.validate_every,
        "train.max-failures": config.train.max_failures,
    }
    return [sys.executable, "-m", "jobs.pretrain", "smoke", *(f"--{key}={value}" for key, value in values.items())]


def give_notice(cluster, node) -> None:
    """Returns when the node's watcher has seen the notice that the node is taken away, and has drained it."""
    with Metadata() as metadata:
        # All nodes are on this machine, so the watcher is told which of them is its own.
        words = ["aws", "--address", cluster.address, "--node-id", node.node_id]
        watcher = subprocess.Popen([sys.executable, WATCHER, *words], env=os.environ | {"METADATA_URL": metadata.url})
        wait("two looks without a notice", lambda: len(metadata.asked) > 1)
        assert watcher.poll() is None
        metadata.end = time.time() + 120
        assert watcher.wait(120) == 0


def disturb(cluster, node, run: Path, every: int, drive: Callable[[], subprocess.Popen]) -> int:
    """Disturbs the run until its driver is dead, and returns the step of the checkpoint out of turn."""
    import psutil  # comes with Ray, and is there when Ray is imported

    def reached(step: int) -> None:
        wait(f"step {step}", (run / f"at {step}").exists)
        wait("its checkpoint", lambda: step // every * every in checkpoints(run))

    kill, notice, loss, end = HOLDS
    process = drive()
    reached(kill)
    workers = [p for p in psutil.Process().children(recursive=True) if p.name().startswith("ray::RayTrainWo")]
    workers[0].kill()
    (run / HOLDS[kill]).touch()

    wait("the run to go on", (run / f"at {notice}").exists)
    give_notice(cluster, node)
    (run / HOLDS[notice]).touch()
    wait("a checkpoint because of the notice", lambda: any(step % every for step in checkpoints(run)))
    [step] = [step for step in checkpoints(run) if step % every]
    successor = cluster.add_node(**NODE)

    reached(loss)
    for gone in (node, successor):
        cluster.remove_node(gone, allow_graceful=False)
    (run / HOLDS[loss]).touch()
    cluster.add_node(**NODE)

    reached(end)
    process.kill()
    process.wait()
    (run / HOLDS[end]).touch()
    return step


def main() -> None:
    config = RunConfig.from_dict(json.loads(Path(sys.argv[1]).read_text()))
    words = [sys.executable, "-m", "tests.train.disturbances", sys.argv[1], "held"]
    with local_cluster(**NODE) as cluster:
        node = cluster.add_node(**NODE)
        subprocess.run(command(config.override({"name": "undisturbed"})), check=True)
        run = Path(config.storage) / config.name
        step = disturb(cluster, node, run, config.train.validate_every, lambda: subprocess.Popen(words))
        subprocess.run(command(config), check=True)
    print(json.dumps({"step": step}))


def drive() -> None:
    """Runs the run that is disturbed."""
    configure_logging()
    driver.train_worker = held_worker
    driver.train_run(RunConfig.from_dict(json.loads(Path(sys.argv[1]).read_text())))


if __name__ == "__main__":
    drive() if sys.argv[2:] == ["held"] else main()
