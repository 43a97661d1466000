"""A run, a sweep and a sweep of nested trials, each begun on a cluster without any GPU that may start nodes with one.

Usage: python -m tests.growing_runs CONFIG.json FOLDER. The GPUs are declared and do not exist, so each ends when its worker
finds none. Prints one JSON line each: what it was, the most GPUs that the cluster had meanwhile, and the error; then how many it has
once all is idle.
"""

import gc
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from raysys.config import RunConfig
from raysys.console import configure_logging
from tests.growing_cluster import growing_cluster
from tests.local_cluster import wait

# isort: split
import ray

from raysys.cluster import connect
from raysys.train.driver import pretrain
from raysys.tune.sweep import sweep

SWEEP = {"search.num_trials": 1, "search.gpus_per_trial": 1.0, "search.max_failures": 0}


class Events:
    """The most GPUs that a cluster had since the last look."""

    def __init__(self):
        self.most = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while ray.is_initialized():
            self.most = max(self.most, gpus())
            time.sleep(0.2)


def gpus() -> int:
    """Returns the GPUs of the nodes that live."""
    return int(sum(node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"]))


def outcome(name: str, run: Callable[[RunConfig], object], config: RunConfig, events: Events) -> None:
    """Prints what became of a run that begins when the cluster has no GPU."""
    gc.collect()  # what the run before holds goes with its last reference, of which a caught error has some
    wait(f"no GPU before {name}", lambda: gpus() == 0)
    events.most = 0
    try:
        run(config.override({"name": name}))
        error = ""
    except (RuntimeError, ray.train.TrainingFailedError) as caught:
        error = str(caught)
    failures = [file.read_text() for file in (Path(config.storage) / name).rglob("error.txt")]
    print(json.dumps({"what": name, "gpus": events.most, "error": "\n".join([error, *failures])}), flush=True)


def main(config: RunConfig, folder: Path) -> None:
    """Runs all three on one cluster."""
    configure_logging()
    with growing_cluster(folder, {"gpu": {"CPU": 2, "GPU": 1}}):
        connect()
        events = Events()
        outcome("run", pretrain, config, events)
        outcome("sweep", sweep, config.override(SWEEP), events)
        nested = {"search.workers_per_trial": 2, "search.max_concurrent": 1}
        outcome("nested", sweep, config.override(SWEEP | nested), events)
        gc.collect()
        wait("no GPU in the end", lambda: gpus() == 0)
        print(json.dumps({"what": "idle", "gpus": gpus()}), flush=True)


if __name__ == "__main__":
    main(RunConfig.from_dict(json.loads(Path(sys.argv[1]).read_text())), Path(sys.argv[2]))
