"""A study of label efficiency: one sweep over parts of the labels, starts and seeds, whose traces lie in memory once."""

import pandas as pd
import pytest

from raysys.networks import load_network
from raysys.presets import finetuning
from raysys.train.driver import train_run
from raysys.tune.sweep import sweep


@pytest.mark.slow
def test_a_sweep_over_parts_of_the_labels_and_a_run_begin_with_a_pretrained_backbone(
    ray_cluster, smoke, tmp_path, monkeypatch
):
    """Through Ray Tune and Ray Train: what the loop alone does is tested in tests/train/test_finetuning.py."""
    smoke = smoke.override({"storage": str(tmp_path), "train.max_steps": 4, "train.validate_every": 2})
    train_run(smoke.override({"name": "pretrained"}))
    monkeypatch.chdir(tmp_path)
    run = "pretrained"  # workers have another working directory
    space = ["finetune.label_fraction=grid(0.1, 1.0)", f"finetune.init=grid('scratch', '{run}')"]
    config = finetuning(smoke, "pick", "scratch").override(
        {"search.space": space, "search.num_trials": 1, "search.scheduler": "none", "search.rungs_per_budget": 2}
    )
    best = sweep(config)
    trials = pd.read_csv(tmp_path / config.name / "trials.csv")
    assert len(trials) == 4
    assert (trials["status"] == "TERMINATED").all()
    assert best["value"] == trials["objective"].max()
    assert trials["dev/score"].notna().all()
    again = train_run(finetuning(smoke, "pick", run).override({"name": "tuned", "finetune.label_fraction": 0.1}))
    loaded = load_network(f"{tmp_path}/tuned")
    assert loaded.config.finetune.init == f"{tmp_path}/{run}"
    assert 0 <= again["dev/score"] <= 1
