"""A sweep to which everything happens once: a node is lost, a trial's process is killed, the driver is killed, Ctrl-C.

Its first life is on a cluster of two nodes of this machine, the others on a Ray of their own, as a person's are.

Usage: python -m tests.tune.disturbances FOLDER COMMAND..., with the folder of the sweep and the arguments of `jobs.sweep`.
Prints one JSON line: what happened. `python -m tests.tune.disturbances held COMMAND...` is the sweep with trials that wait.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

from jobs.command import run
from jobs.sweep import main as sweep_job
from raysys.config import RunConfig
from raysys.tune import sweep as module
from raysys.tune.callbacks import STATE
from tests.local_cluster import local_cluster, wait

STEP_S = 0.3
"""Slows trials down, so that there is time to disturb them; the numbers stay what they are."""
NODE = {"num_cpus": 1, "object_store_memory": 200_000_000}
FIRST = "00000"


def held_trial(tuned: dict[str, Any], *, config: RunConfig, data, record, folder) -> None:
    """A trial that writes down its process and does not begin its last quarter, but for the first, and the one in `released`."""
    from ray import tune

    from raysys.train.loop import Trainer
    from raysys.tune.trial import single_worker_trial

    step, sweep = Trainer._train_step, Path(config.storage) / config.name
    name = tune.get_context().get_trial_id()

    def held_step(self, batches) -> None:
        time.sleep(STEP_S)
        if self.windows >= 0.75 * self.budget.windows and not name.endswith(FIRST):
            (sweep / f"waits {name} {os.getpid()}").touch()
            while (sweep / "released").read_text() != name:
                time.sleep(0.1)
        step(self, batches)

    Trainer._train_step = held_step
    single_worker_trial(tuned, config=config, data=data, record=record, folder=folder)


def waiting(folder: Path) -> dict[int, str]:
    """Returns the processes that are or were held, each with its trial."""
    words = [path.name.split() for path in folder.glob("waits *")]
    return {int(pid): name for _, name, pid in words}


def finished(folder: Path) -> dict[str, str]:
    """Returns what the trials that are through have reported, as it is written."""
    files = {file.parent.name: file.read_text() for file in folder.glob("trial_*/result.json")}
    return {name: text for name, text in files.items() if text.count("\n") == 4}


def checkpoints(folder: Path) -> list[str]:
    """Returns the checkpoints that a sweep would go on from."""
    if not (folder / STATE).exists():
        return []
    with zipfile.ZipFile(folder / STATE) as archive:
        return json.loads(archive.read("checkpoints.json"))


def lose_a_node_and_a_process(cluster, node, folder: Path, log: Path) -> str:
    """Returns the trial that lost its node and then, on the successor, its process, after it has come as far again."""
    import psutil  # comes with Ray, and is there when Ray is imported

    raylet = node.all_processes["raylet"][0].process.pid

    def on_the_node() -> str | None:
        here = (
            n for pid, n in waiting(folder).items() if psutil.pid_exists(pid) and psutil.Process(pid).ppid() == raylet
        )
        return next(here, None)

    victim = wait("a trial that is held on the second node", on_the_node)
    wait("the first trial's end", lambda: finished(folder))

    def others(seen: set[int]) -> int | None:
        return next((pid for pid, name in waiting(folder).items() if name == victim and pid not in seen), None)

    before = set(waiting(folder))
    os.kill(raylet, signal.SIGKILL)
    cluster.add_node(**NODE | {"num_cpus": 2})  # trials that have not begun come first
    pid = wait("the trial on another node", lambda: others(before))
    wait("the sweep to know of the loss", lambda: "lost its node" in log.read_text())
    os.kill(pid, signal.SIGKILL)
    wait("the trial in another process", lambda: others(before | {pid}))
    return victim


def leave_as_the_worst_moment_would(folder: Path, victim: str) -> None:
    """Half a state, and under a newer name the checkpoint that the unfinished trial goes on from."""
    state = max(folder.glob("experiment_state-*.json"))
    state.write_text(state.read_text()[: state.stat().st_size // 2])
    (checkpoint,) = (name for name in checkpoints(folder) if f"{victim}/" in name)
    os.rename(folder / checkpoint, (folder / checkpoint).parent / "checkpoint_000007")


def start(words: list[str], log: Path) -> subprocess.Popen:
    """Starts the sweep with trials that wait, in a process group of its own; its standard error goes to `log`."""
    command = [sys.executable, "-m", "tests.tune.disturbances", "held", *words]
    return subprocess.Popen(command, stderr=log.open("w"), process_group=0)


def main(folder: Path, words: list[str]) -> dict[str, Any]:
    folder.mkdir(parents=True)
    logs = [folder.parent / f"life {number}" for number in range(3)]
    (folder / "released").touch()
    with local_cluster(**NODE) as cluster:
        node = cluster.add_node(**NODE)
        driver = start(words, logs[0])
        victim = lose_a_node_and_a_process(cluster, node, folder, logs[0])
        wait("a state with its checkpoint", lambda: any(f"{victim}/" in name for name in checkpoints(folder)))
        driver.kill()
        driver.wait()
    assert not (folder / "best.json").exists()
    first = finished(folder)
    leave_as_the_worst_moment_would(folder, victim)

    del os.environ["RAY_ADDRESS"]
    before = set(waiting(folder))
    driver = start(words, logs[1])
    pid = wait("a trial that is held again", lambda: set(waiting(folder)) - before).pop()
    (folder / "released").write_text(waiting(folder)[pid])
    wait("its end", lambda: len(finished(folder)) > len(first))
    wait(
        "the last trial, in its place",
        lambda: len(set(waiting(folder).values())) == 3 and len(set(waiting(folder)) - before) == 3,
    )
    began = time.monotonic()
    os.killpg(driver.pid, signal.SIGINT)  # as a terminal does: to all processes of the foreground, Ray's too
    code = driver.wait(120)
    stopped_s = time.monotonic() - began
    assert not (folder / "best.json").exists()
    second = finished(folder)

    # A worker's last words may come later.
    said = logs[1].read_text()
    commands = [line for line in said.splitlines() if line.startswith("python -m")]
    assert len(commands) == 1, said[-3000:]
    [command] = commands
    with logs[2].open("w") as log:
        again = subprocess.run([sys.executable, *shlex.split(command)[1:]], stderr=log)
    return {
        "victim": victim,
        "finished": [first, second, finished(folder)],
        "interrupted": {"code": code, "seconds": stopped_s, "command": command},
        "again": again.returncode,
        "logs": [log.read_text() for log in logs],
    }


if __name__ == "__main__":
    if sys.argv[1] == "held":
        held_trial.__name__ = module.single_worker_trial.__name__  # Tune goes on with no other
        module.single_worker_trial = held_trial
        sys.argv[1:] = sys.argv[2:]
        run(sweep_job, goes_on=True)
    else:
        print(json.dumps(main(Path(sys.argv[1]), sys.argv[2:])))
