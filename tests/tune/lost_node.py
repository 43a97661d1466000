"""A sweep on a cluster of two nodes, of which one dies with kill -9 while a trial runs on it; its trial then dies once more.

Usage: python -m tests.tune.lost_node CONFIG.json. Prints one JSON line: the trial that lost its node, and the ends of the
trials that had finished before. A process of its own, because it has a Ray of its own.
"""

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import raysys  # noqa: F401  (sets what Ray reads when it is imported)

# isort: split
import ray
from ray.cluster_utils import Cluster

from raysys.config import RunConfig
from raysys.console import configure_logging
from raysys.tune import sweep as module

STEP_S = 1.0
"""Slows trials down, so that there is time to disturb them; the numbers stay what they are."""


def slow_trial(tuned: dict[str, Any], *, config, data, record) -> None:
    """A trial with a pause before every step; the one that the file `held` names does not begin its last quarter."""
    from ray import tune

    from raysys.train.loop import Trainer
    from raysys.tune.trial import single_worker_trial

    step, held = Trainer._train_step, Path(config.storage) / config.name / "held"
    name = tune.get_context().get_trial_id()

    def slow_step(self, batches) -> None:
        time.sleep(STEP_S)
        while self.windows >= 0.75 * self.budget.windows and held.exists() and held.read_text() == name:
            time.sleep(0.1)
        step(self, batches)

    Trainer._train_step = slow_step
    single_worker_trial(tuned, config=config, data=data, record=record)


def wait(what: str, seen: Callable[[], Any], limit_s: float = 180) -> Any:
    """Returns what `seen` gives as soon as that is true."""
    end = time.monotonic() + limit_s
    while not (found := seen()):
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.05)
    return found


def reports(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Returns what every trial has reported."""
    found = {}
    for file in folder.glob("trial_*/result.json"):
        found[file.parent.name.removeprefix("trial_")] = [
            json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")
        ]
    return found


def disturb(folder: Path, raylet: int, budget: int) -> dict[str, Any]:
    """Kills the node of a raylet in the first half of a trial when another has finished, then the process of that trial."""

    import psutil  # comes with Ray, and is there when Ray is imported

    def victim() -> str | None:
        trials = {name: rows for name, rows in reports(folder).items() if rows}
        if not any(rows[-1]["windows"] >= budget for rows in trials.values()):
            return None
        for name, rows in trials.items():
            pid, early = rows[-1]["pid"], rows[-1]["windows"] <= budget / 2
            if early and psutil.pid_exists(pid) and psutil.Process(pid).ppid() == raylet:
                return name
        return None

    said: list[str] = []
    listener = logging.Handler()
    listener.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("raysys.tune.callbacks").addHandler(listener)
    name = wait("a trial on the second node in its first half", victim)
    (folder / "held").write_text(name)
    before = reports(folder)
    os.kill(raylet, signal.SIGKILL)
    seen = len(before[name])
    again = wait("the trial somewhere else", lambda: reports(folder)[name][seen:])
    wait("the sweep to know of the loss", lambda: any("lost its node" in line for line in said))
    os.kill(again[-1]["pid"], signal.SIGKILL)
    (folder / "held").unlink()
    done = {other: rows[-1]["timestamp"] for other, rows in before.items() if rows and rows[-1]["windows"] >= budget}
    return {"lost": name, "finished_before": done}


def main() -> None:
    configure_logging()
    config = RunConfig.from_dict(json.loads(Path(sys.argv[1]).read_text()))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 200_000_000})
    node = cluster.add_node(num_cpus=1, object_store_memory=200_000_000)
    ray.init(address=cluster.address)
    module.single_worker_trial = slow_trial
    raylet = node.all_processes["raylet"][0].process.pid
    folder, budget = Path(config.storage) / config.name, config.train.max_steps * config.train.batch_size
    search = threading.Thread(target=module.sweep, args=(config,))
    search.start()
    outcome = disturb(folder, raylet, budget)
    search.join()
    print(json.dumps(outcome))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
