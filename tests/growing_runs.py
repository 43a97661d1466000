"""A run, a sweep and a sweep of nested trials, each begun on a cluster without any GPU that may start nodes with one.

Usage: python -m tests.growing_runs FOLDER KEY=VALUE ... (of the preset smoke). The GPUs are declared and do not exist, so each
ends when its workers find none. Prints a JSON line for each: what it was, the most GPUs that the cluster had meanwhile, what it
said; then how many the cluster has when all is idle.
"""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.growing_cluster import growing_cluster
from tests.local_cluster import wait

# isort: split
import ray

JOBS = {
    "run": ("pretrain",),
    "sweep": ("sweep", "--search.num-trials", "1", "--search.max-failures", "0"),
    "nested": ("sweep", "--search.num-trials", "1", "--search.max-failures", "0", "--search.workers-per-trial", "2"),
}


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


def outcome(name: str, values: list[str], events: Events) -> None:
    """Prints what became of a job that begins when the cluster has no GPU."""
    wait(f"no GPU before {name}", lambda: gpus() == 0)
    events.most = 0
    job, *options = JOBS[name]
    words = [sys.executable, "-m", f"jobs.{job}", "smoke", "--name", name, *values, *options]
    done = subprocess.run(words, capture_output=True, text=True, timeout=200)
    line = {"what": name, "gpus": events.most, "code": done.returncode, "said": done.stdout + done.stderr}
    print(json.dumps(line), flush=True)


def main(folder: Path, values: list[str]) -> None:
    """Runs all three on one cluster."""
    with growing_cluster(folder, {"gpu": {"CPU": 2, "GPU": 1}}) as address:
        ray.init(address=address, logging_level="ERROR", log_to_driver=False)
        events = Events()
        for name in JOBS:
            outcome(name, values, events)
        wait("no GPU in the end", lambda: gpus() == 0)
        print(json.dumps({"what": "idle", "gpus": gpus()}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
