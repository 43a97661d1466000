"""A run that loses a worker, its nodes and its driver ends with the weights of the run that lost nothing, bit for bit."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.train.disturbances import HOLDS

pytestmark = pytest.mark.slow
STEPS = 40


@pytest.fixture(scope="module")
def config(smoke, tmp_path_factory):
    """Two workers, a checkpoint every tenth step."""
    return smoke.override(
        {
            "name": "disturbed",
            "storage": str(tmp_path_factory.mktemp("runs")),
            "train.num_workers": 2,
            "train.cpus_per_worker": 1.5,
            "train.max_steps": STEPS,
            "train.validate_every": 10,
            "train.max_failures": 0,  # the checkpoint in between makes each failure the first again
            "data.reader": "ray",
        }
    )


def lives(run: Path) -> list[int]:
    """Returns the steps at which a run went on after it had lost some, that is, where its log goes back."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "train/loss" in line]
    return [after for before, after in itertools.pairwise(steps) if after <= before]


def test_a_lost_worker_a_notice_a_lost_node_and_a_lost_driver_change_nothing(config, own_ray, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    own_ray["RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S"] = "0.2"
    words = [sys.executable, "-m", "tests.train.disturbances", str(tmp_path / "config.json")]
    done = subprocess.run(words, env=own_ray, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    notice = json.loads(done.stdout.splitlines()[-1])["step"]
    assert notice % config.train.validate_every, "a checkpoint out of turn"
    run, peaceful = (Path(config.storage) / name for name in ("disturbed", "undisturbed"))
    assert all((run / what).exists() for what in HOLDS.values())
    assert not lives(peaceful)
    assert [step // 10 for step in lives(run)] == [1, 2, 3], "a notice costs no step, a loss those since the checkpoint"
    assert "going on after step 30" in done.stderr, "the same command goes on where the killed driver was"
    last = f"step{STEPS:09d}"
    for folder in (run, peaceful):
        assert sorted(path.name for path in folder.glob("step*"))[-1] == last
    for file in ("model.safetensors", "optim.safetensors"):
        ours, theirs = load_file(run / last / file), load_file(peaceful / last / file)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), file
    state = json.loads((run / last / "state.json").read_text())
    assert state == json.loads((peaceful / last / "state.json").read_text())
