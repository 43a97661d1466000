"""Pretraining through Ray Train and Ray Data with two workers."""

import json

import pytest

from raysys.train.driver import pretrain

pytestmark = pytest.mark.slow


def test_two_workers_train_report_and_go_on_under_the_same_name(ray_cluster, smoke, tmp_path):
    config = smoke.override(
        {"train.num_workers": 2, "data.reader": "ray", "storage": str(tmp_path), "train.cpus_per_worker": 0.25}
    )
    metrics = pretrain(config)
    assert metrics["step"] == config.train.max_steps
    assert metrics["windows"] == config.train.max_steps * 2 * config.train.batch_size
    run = tmp_path / config.name
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {line["step"] for line in lines} == {0, 2, 4, 6, 8}
    checkpoints = sorted(path.name for path in run.glob("step*"))
    assert checkpoints[-1] == "step000000008"
    assert {path.name for path in (run / checkpoints[-1]).iterdir()} == {
        "model.safetensors", "optim.safetensors", "state.json", "config.json", "record.json",
    }  # fmt: skip
    assert any((run / "tensorboard").iterdir())

    again = pretrain(config)
    assert again["step"] == metrics["step"], "a finished run is not trained again"
    assert again["val/loss"] == metrics["val/loss"]
    with pytest.raises(ValueError, match=r"train\.max_steps: 8 -> 12"):
        pretrain(config.override({"train.max_steps": 12}))
