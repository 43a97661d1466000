"""On a cluster that has no GPU yet, a run on GPUs asks for them, and so do a sweep's trials, nested or not."""

import json
import re
import subprocess
import sys
import tempfile

import pytest


@pytest.mark.slow
def test_nodes_with_gpus_start_for_a_run_a_sweep_and_a_nested_sweep_and_go(smoke, own_ray, tmp_path):
    values = {"train.device": "cuda", "train.num-workers": 2, "train.max-failures": 0, "storage": tmp_path / "runs"}
    values |= {"data.root": smoke.data.root, "data.cache": smoke.data.cache}
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="grow") as folder:
        words = [word for key, value in values.items() for word in (f"--{key}", str(value))]
        words = [sys.executable, "-m", "tests.growing_runs", folder, *words]
        done = subprocess.run(words, env=own_ray, capture_output=True, text=True, timeout=590)
    assert done.returncode == 0, done.stderr[-6000:]
    lines = {line["what"]: line for line in map(json.loads, filter(lambda x: x[:1] == "{", done.stdout.splitlines()))}
    assert {name: line["gpus"] for name, line in lines.items()} == {"run": 2, "sweep": 1, "nested": 2, "idle": 0}
    for name in ("run", "sweep", "nested"):
        assert lines[name]["code"] == 1
        # Ray Train prepares the exchange of gradients before it calls the worker.
        assert re.search("NCCL built in|finds no CUDA device on node", lines[name]["said"]), lines[name]["said"][-3000:]
        assert "waiting for nodes: " in lines[name]["said"]
    assert "a run of 2 workers: 1.25 CPUs and 2 GPUs wanted" in lines["run"]["said"]
    assert "finds no CUDA device on node" in lines["sweep"]["said"]
