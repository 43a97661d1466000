"""Pretraining through Ray Train and Ray Data with two workers."""

import json

import pytest

from raysys.train.driver import train_run

pytestmark = pytest.mark.slow


def test_two_workers_train_report_and_go_on_under_the_same_name(ray_cluster, smoke, tmp_path):
    """The storage, a URL, refuses the first of the two checkpoints; training goes on to the second one."""
    config = smoke.override(
        {"train.num_workers": 2, "data.reader": "ray", "storage": f"file://{tmp_path}", "train.cpus_per_worker": 0.25}
    )
    run = tmp_path / config.name
    run.mkdir()
    (run / "step000000004.unfinished").write_text("a file where the checkpoint's folder should be")
    metrics = train_run(config)
    assert metrics["step"] == config.train.max_steps
    assert metrics["windows"] == config.train.max_steps * 2 * config.train.batch_size
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {line["step"] for line in lines} == {0, 2, 4, 6, 8}
    checkpoints = sorted(path.name for path in run.glob("step*") if path.is_dir())
    assert checkpoints == ["step000000008"]
    assert {path.name for path in (run / checkpoints[-1]).iterdir()} == {
        "model.safetensors", "optim.safetensors", "state.json", "config.json", "record.json", "README.md",
    }  # fmt: skip
    assert any((run / "tensorboard").iterdir())

    again = train_run(config)
    assert again["step"] == metrics["step"], "a finished run is not trained again"
    assert again["val/loss"] == metrics["val/loss"]
    longer = train_run(config.override({"train.max_steps": 12}))
    assert (longer["step"], longer["windows"]) == (12, 96), "but it is extended"
    record = json.loads((run / "record.json").read_text())
    assert [(stage["from"], stage["to"]) for stage in record["stages"]] == [(0, 64), (64, 96)]
    assert record["continuations"][-1]["devices"] == ["CPU", "CPU"]
    assert record["continuations"][-1]["changes"] == {"train.max_steps": [8, 12]}
    rates = [
        line["optim/lr"]
        for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        if "optim/lr" in line
    ]
    assert rates[-1] == pytest.approx(0.0, abs=1e-12)
    assert rates[-2] > rates[-3] == rates[-1], "the learning rate rises again"
