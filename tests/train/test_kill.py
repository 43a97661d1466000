"""Runs that lose a worker, their driver or a node: they end with the weights of the run that lost nothing, bit for bit."""

import itertools
import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from raysys.config import RunConfig
from raysys.train.driver import pretrain

pytestmark = pytest.mark.slow
STEPS = 40
SNAPSHOT = "checkpoint_manager_snapshot.json"


@pytest.fixture(scope="module")
def config(smoke, tmp_path_factory) -> RunConfig:
    """Two workers, a checkpoint every tenth step."""
    return smoke.override(
        {
            "storage": str(tmp_path_factory.mktemp("runs")),
            "train.num_workers": 2,
            "train.cpus_per_worker": 0.25,
            "train.max_steps": STEPS,
            "train.validate_every": 10,
            "data.reader": "ray",
        }
    )


@pytest.fixture(scope="module")
def undisturbed(ray_cluster, config) -> Path:
    """The folder of a run that nothing happened to."""
    pretrain(config.override({"name": "undisturbed"}))
    return Path(config.storage) / "undisturbed"


def lives(run: Path) -> list[int]:
    """Returns the steps at which a run went on after it had lost some, that is, where its log goes back."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "train/loss" in line]
    return [after for before, after in itertools.pairwise(steps) if after <= before]


def assert_same_end(run: Path, other: Path) -> None:
    """Asserts that two runs ended at the same step with the same weights and the same optimiser."""
    last = f"step{STEPS:09d}"
    assert sorted(path.name for path in run.glob("step*"))[-1] == last
    for file in ("model.safetensors", "optim.safetensors"):
        ours, theirs = load_file(run / last / file), load_file(other / last / file)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), file
    state = json.loads((run / last / "state.json").read_text())
    assert state == json.loads((other / last / "state.json").read_text())


def wait_for_checkpoint(run: Path, limit_s: float = 120) -> None:
    """Returns when Ray Train has registered a checkpoint of the run."""
    end = time.monotonic() + limit_s
    while not (run / SNAPSHOT).exists():
        assert time.monotonic() < end, f"no checkpoint in {run}"
        time.sleep(0.05)


def test_kill_of_a_worker_changes_nothing(undisturbed, config):
    import psutil  # comes with Ray, and is there when Ray is imported

    run = Path(config.storage) / "worker"
    killed = []

    def kill() -> None:
        wait_for_checkpoint(run)
        for process in psutil.Process().children(recursive=True):
            if not killed and process.name().startswith("ray::RayTrainWo"):
                process.kill()
                killed.append(process.pid)

    thread = threading.Thread(target=kill)
    thread.start()
    # The checkpoint in between makes it the first failure again.
    metrics = pretrain(config.override({"name": "worker", "train.max_failures": 0}))
    thread.join()
    assert killed
    assert lives(run), "the worker was killed too late to disturb anything"
    assert metrics["step"] == STEPS
    assert_same_end(run, undisturbed)


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
    }
    return [sys.executable, "-m", "jobs.pretrain", "smoke", *(f"--{key}={value}" for key, value in values.items())]


def test_kill_of_the_driver_and_the_same_command_again_change_nothing(undisturbed, config, own_ray):
    run = Path(config.storage) / "driver"
    words = command(config.override({"name": "driver"}))
    first = subprocess.Popen(words, env=own_ray, stderr=subprocess.DEVNULL)
    wait_for_checkpoint(run)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    assert not (run / f"step{STEPS:09d}").exists(), "the driver was killed too late to disturb anything"
    again = subprocess.run(words, env=own_ray, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr[-2000:]
    assert "going on after step" in again.stderr
    assert_same_end(run, undisturbed)


def test_nodes_taken_with_notice_and_lost_without_change_nothing(undisturbed, config, own_ray, tmp_path):
    nodes = config.override({"name": "nodes", "train.cpus_per_worker": 1.0, "data.reader": "process"})
    (tmp_path / "config.json").write_text(json.dumps(nodes.to_dict()))
    own_ray["RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S"] = "0.2"
    words = [sys.executable, "-m", "tests.train.lost_nodes", str(tmp_path / "config.json")]
    done = subprocess.run(words, env=own_ray, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    run = Path(config.storage) / "nodes"
    notice = json.loads(done.stdout.splitlines()[-1])["step"]
    assert notice % config.train.validate_every, "a checkpoint out of turn"
    lost = lives(run)
    assert len(lost) == 1, "a notice costs no step, a loss without one those since the last checkpoint"
    assert lost[0] > notice
    assert_same_end(run, undisturbed)
