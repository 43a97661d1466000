"""On a cluster that has no GPU yet, a run on GPUs asks for them, and so do a sweep's trials, nested or not."""

import json
import re
import subprocess
import sys
import tempfile

import pytest


@pytest.mark.slow
def test_nodes_with_gpus_start_for_a_run_a_sweep_and_a_nested_sweep_and_go(smoke, own_ray, tmp_path):
    values = {
        "train.device": "cuda",
        "train.num_workers": 2,
        "train.max_failures": 0,
        "storage": str(tmp_path / "runs"),
    }
    (tmp_path / "config.json").write_text(json.dumps(smoke.override(values).to_dict()))
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="grow") as folder:
        words = [sys.executable, "-m", "tests.growing_runs", str(tmp_path / "config.json"), folder]
        done = subprocess.run(words, env=own_ray, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stderr[-6000:]
    lines = {line["what"]: line for line in map(json.loads, filter(lambda x: x[:1] == "{", done.stdout.splitlines()))}
    assert {name: line["gpus"] for name, line in lines.items()} == {"run": 2, "sweep": 1, "nested": 2, "idle": 0}
    for name in ("run", "nested"):  # Ray Train prepares the exchange of gradients before it calls the worker
        assert re.search("NCCL|no CUDA device", lines[name]["error"]), lines[name]
    assert "finds no CUDA device on node" in lines["sweep"]["error"], lines["sweep"]
    assert "waiting for nodes: 2 workers of a run want" in done.stderr
