"""Trials that die, drivers that are killed: nothing stalls, nothing broken wins, nothing finished is repeated."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from types import SimpleNamespace

import pandas as pd
import pyarrow.fs
import pytest

from raysys.tune.schedulers import ResumableASHA
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
    assert (diverged["status"], diverged["failures"]) == ("ERROR", 2), "tried again once"
    assert "NaN" in diverged["reason"]
    assert best["trial"] == killed["trial"]
    history = pd.read_csv(tmp_path / "faults" / "history.csv")
    assert list(history.loc[history["trial"] == killed["trial"], "windows"]) == [8, 16, 24, 32]


@pytest.mark.slow
def test_a_killed_driver_goes_on_without_repeating_finished_trials(ray_cluster, smoke, tmp_path):
    config = smoke.override(SETTING | {"name": "killed", "storage": str(tmp_path), "search.num_trials": 2})
    folder = tmp_path / "killed"
    session = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # the path of a socket is short
    environment = os.environ | {"RAY_TMPDIR": session}
    environment.pop("RAY_ADDRESS", None)
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, json.dumps(config.to_dict())], env=environment)
    try:
        wait_for(lambda: list(folder.glob("trial_*_00001/checkpoint_*")) or driver.poll())
    finally:
        driver.kill()
        driver.wait()
        shutil.rmtree(session, ignore_errors=True)
    (first,) = folder.glob("trial_*_00000/result.json")
    before = first.read_text()
    assert not (folder / "best.json").exists()
    sweep(config)
    assert first.read_text() == before, "the finished trial was not touched"
    trials = pd.read_csv(folder / "trials.csv")
    assert list(trials["status"]) == ["TERMINATED"] * 2
    history = pd.read_csv(folder / "history.csv")
    for trial in trials["trial"]:
        assert list(history.loc[history["trial"] == trial, "windows"]) == [8, 16, 24, 32], "no rung twice"


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
