"""A sweep that loses a node, a trial and its driver: nothing stalls, nothing finished is repeated, no rung is lost."""

import json
import shlex
import subprocess
import sys

import pandas as pd
import pytest

pytestmark = pytest.mark.slow


def test_a_lost_node_a_dead_trial_a_killed_driver_and_ctrl_c_repeat_nothing(smoke, own_ray, tmp_path):
    values = {
        "name": "disturbed",
        "storage": str(tmp_path),
        "data.root": smoke.data.root,
        "data.cache": smoke.data.cache,
        "data.reader": "process",
        "train.max-steps": 8,
        "search.num-trials": 4,
        "search.scheduler": "none",
        "search.rungs-per-budget": 4,
        "search.min-perplexity-fraction": 0.0,
        "search.cpus-per-trial": 1.0,
        "search.max-failures": 1,
    }
    command = ["smoke", *(f"--{key}={value}" for key, value in values.items())]
    folder = tmp_path / "disturbed"
    words = [sys.executable, "-m", "tests.tune.disturbances", str(folder), *command]
    done = subprocess.run(words, env=own_ray, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    lost, resumed, stopped = seen["logs"]
    first, second, last = seen["finished"]

    assert (seen["interrupted"]["code"], seen["again"]) == (130, 0), resumed[-4000:] + stopped[-4000:]
    trials = pd.read_csv(folder / "trials.csv", dtype={"trial": str}).set_index("trial")
    assert "lost its node, which does not count" in lost
    assert trials["failures"][seen["victim"]] == 2, (
        "its node and later its process died, of which one failure is allowed"
    )
    assert "is gone, it goes on from checkpoint_0000" in resumed, "the state was broken, its checkpoint renamed"
    assert seen["interrupted"]["seconds"] < 30
    assert shlex.split(seen["interrupted"]["command"]) == ["python", "-m", "jobs.sweep", *command]

    assert len(first) < len(second) < len(last) == 4
    assert all(last[name] == text for name, text in (first | second).items()), "finished trials were not touched"
    assert list(trials["status"]) == ["TERMINATED"] * 4
    history = pd.read_csv(folder / "history.csv", dtype={"trial": str})
    for trial in trials.index:
        assert list(history.loc[history["trial"] == trial, "windows"]) == [8, 16, 24, 32], "no rung is lost or repeated"
