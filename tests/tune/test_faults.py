"""Trials that die, drivers that are killed: nothing stalls, nothing broken wins, nothing finished is repeated."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
import zipfile
from types import SimpleNamespace

import pandas as pd
import pyarrow.fs
import pytest

from raysys.tune.schedulers import ResumableASHA
from raysys.tune.state import STATE
from raysys.tune.sweep import sweep

SETTING = {
    "search.min_used_fraction": 0.0,
    "search.scheduler": "none",
    "search.max_concurrent": 1,
    "search.rungs_per_budget": 4,
    "train.max_steps": 8,
}
DRIVER = """
import json, sys
from raysys.cluster import connect
from raysys.config import RunConfig
from raysys.tune.sweep import sweep
connect(num_cpus=1)
sweep(RunConfig.from_dict(json.loads(sys.argv[1])))
"""


def wait_for(condition, seconds: float = 180):
    """Returns what `condition` gives as soon as that is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)
    return found


def kill_first_trial_after_its_first_checkpoint(folder):
    wait_for(lambda: list(folder.glob("trial_*_00000/checkpoint_*")))
    reports = wait_for(lambda: [f for f in folder.glob("trial_*_00000/result.json") if f.read_text().endswith("\n")])
    os.kill(json.loads(reports[0].read_text().splitlines()[0])["pid"], signal.SIGKILL)


@pytest.mark.slow
def test_trials_that_die_are_retried_or_told_and_never_win(ray_cluster, smoke, tmp_path):
    config = smoke.override(
        SETTING
        | {
            "name": "faults",
            "storage": str(tmp_path),
            "search.num_trials": 1,
            "search.space": ["optim.lr=grid(1e-3, 1e30)"],  # the second is NaN after a step
        }
    )
    killer = threading.Thread(target=kill_first_trial_after_its_first_checkpoint, args=(tmp_path / "faults",))
    killer.start()
    best = sweep(config)
    killer.join()
    killed, diverged = (row for _, row in pd.read_csv(tmp_path / "faults" / "trials.csv").iterrows())
    assert (killed["status"], killed["failures"], bool(killed["healthy"])) == ("TERMINATED", 1, True)
    assert (diverged["status"], diverged["failures"], bool(diverged["healthy"])) == ("STOPPED_EARLY", 0, False)
    assert "not finite" in diverged["reason"]
    assert best["trial"] == killed["trial"]
    history = pd.read_csv(tmp_path / "faults" / "history.csv")
    assert list(history.loc[history["trial"] == killed["trial"], "windows"]) == [8, 16, 24, 32]


@pytest.mark.slow
def test_a_killed_driver_goes_on_without_repeating_finished_trials(ray_cluster, smoke, own_ray, caplog, tmp_path):
    config = smoke.override(SETTING | {"name": "killed", "storage": str(tmp_path), "search.num_trials": 2})
    folder = tmp_path / "killed"
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, json.dumps(config.to_dict())], env=own_ray)
    try:
        wait_for(lambda: len(checkpoints_in_state(folder)) == 2 or driver.poll())
    finally:
        driver.kill()
        driver.wait()
    (first,) = folder.glob("trial_*_00000/result.json")
    before = first.read_text()
    assert not (folder / "best.json").exists()
    leave_as_the_worst_moment_would(folder)
    sweep(config)
    assert first.read_text() == before, "the finished trial was not touched"
    assert "is gone, it goes on from checkpoint_0000" in caplog.text
    trials = pd.read_csv(folder / "trials.csv")
    assert list(trials["status"]) == ["TERMINATED"] * 2
    history = pd.read_csv(folder / "history.csv")
    for trial in trials["trial"]:
        assert list(history.loc[history["trial"] == trial, "windows"]) == [8, 16, 24, 32], "no rung twice"


def checkpoints_in_state(folder):
    """The checkpoints that a sweep would go on from."""
    if not (folder / STATE).exists():
        return []
    with zipfile.ZipFile(folder / STATE) as archive:
        return json.loads(archive.read("checkpoints.json"))


def leave_as_the_worst_moment_would(folder):
    """Half a state, and under a newer name the checkpoint that the unfinished trial goes on from."""
    state = max(folder.glob("experiment_state-*.json"))
    state.write_text(state.read_text()[: state.stat().st_size // 2])
    (checkpoint,) = (name for name in checkpoints_in_state(folder) if "_00001/" in name)
    os.rename(folder / checkpoint, (folder / checkpoint).parent / "checkpoint_000007")


def test_a_resumed_asha_knows_what_its_trials_reported(tmp_path):
    scheduler = ResumableASHA(time_attr="windows", max_t=100, grace_period=10, reduction_factor=2)
    scheduler.set_search_properties("objective", "max")
    for i in range(4):
        folder = tmp_path / f"trial_{i}"
        folder.mkdir()
        lines = [json.dumps({"windows": w, "objective": 0.1 * i}) + "\n" for w in (10, 20)]
        (folder / "result.json").write_text("".join(lines) + '{"windows": 30, "obj')  # killed while it wrote
        storage = SimpleNamespace(
            trial_dir_name=folder.name, trial_fs_path=str(folder), storage_filesystem=pyarrow.fs.LocalFileSystem()
        )
        scheduler.on_trial_add(None, SimpleNamespace(trial_id=str(i), storage=storage))
    new = SimpleNamespace(trial_id="new", storage=None)
    scheduler.on_trial_add(None, new)
    assert scheduler.on_trial_result(None, new, {"windows": 10, "objective": 0.05}) == ResumableASHA.STOP


@pytest.mark.slow
def test_a_lost_node_costs_its_trials_what_followed_their_last_checkpoint(smoke, own_ray, tmp_path):
    changes = {"name": "nodes", "storage": str(tmp_path), "search.num_trials": 4, "search.max_concurrent": None}
    config = smoke.override(SETTING | changes)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    words = [sys.executable, "-m", "tests.tune.lost_node", str(tmp_path / "config.json")]
    done = subprocess.run(words, env=own_ray, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    outcome = json.loads(done.stdout.splitlines()[-1])
    trials = pd.read_csv(tmp_path / "nodes" / "trials.csv", dtype={"trial": str}).set_index("trial")
    assert list(trials["status"]) == ["TERMINATED"] * 4
    lost = trials.loc[outcome["lost"]]
    assert lost["failures"] == 2, "its node and later its process died"
    assert config.search.max_failures == 1, "the node did not count"
    assert "lost its node, which does not count" in done.stderr
    assert outcome["finished_before"]
    history = pd.read_csv(tmp_path / "nodes" / "history.csv", dtype={"trial": str})
    for trial in trials.index:
        assert list(history.loc[history["trial"] == trial, "windows"]) == [8, 16, 24, 32], "no rung is lost or repeated"
    for trial, end in outcome["finished_before"].items():
        last = (tmp_path / "nodes" / f"trial_{trial}" / "result.json").read_text().splitlines()[-1]
        assert json.loads(last)["timestamp"] == end, "the finished trial was not touched"


@pytest.mark.slow
def test_ctrl_c_saves_the_sweep_and_the_printed_command_goes_on(smoke, own_ray, tmp_path):
    values = {
        "name": "stopped",
        "storage": str(tmp_path),
        "data.root": smoke.data.root,
        "data.cache": smoke.data.cache,
        "train.max-steps": 40,
        "search.num-trials": 2,
        "search.max-concurrent": 1,
        "search.scheduler": "none",
        "search.min-used-fraction": 0.0,
    }
    words = ["-m", "jobs.sweep", "smoke", *(f"--{key}={value}" for key, value in values.items())]
    folder = tmp_path / "stopped"
    # A terminal sends the signal to all processes of the foreground, Ray's too.
    driver = subprocess.Popen([sys.executable, *words], env=own_ray, stderr=subprocess.PIPE, text=True, process_group=0)
    wait_for(lambda: list(folder.glob("trial_*_00001/checkpoint_*")) or driver.poll() is not None)
    (first,) = folder.glob("trial_*_00000/result.json")
    before, start = first.read_text(), time.monotonic()
    os.killpg(driver.pid, signal.SIGINT)
    _, told = driver.communicate(timeout=120)
    assert driver.returncode == 130, told[-4000:]
    assert time.monotonic() - start < 30
    assert not (folder / "best.json").exists()
    command = told.splitlines()[-1]
    assert shlex.split(command) == ["python", *words]
    again = subprocess.run([sys.executable, *shlex.split(command)[1:]], env=own_ray, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr[-4000:]
    assert first.read_text() == before, "the finished trial was not touched"
    history = pd.read_csv(folder / "history.csv", dtype={"trial": str})
    assert [list(rows) for _, rows in history.groupby("trial")["windows"]] == [[40, 80, 120, 160]] * 2
