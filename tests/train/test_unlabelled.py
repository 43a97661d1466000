"""Data without any label: what runs goes by other scores, and what cannot is refused at the start."""

import logging
import math
from pathlib import Path

import pandas as pd
import pytest

from raysys.miniature import write_miniatures
from raysys.train.data import check_objective, prepare_training_data, probe_lacks
from raysys.tune.sweep import sweep
from tests.train.local import local_trainer


@pytest.fixture(scope="module")
def unlabelled(smoke, tmp_path_factory):
    """The smallest configuration, on data sets without a pick."""
    root = tmp_path_factory.mktemp("unlabelled")
    write_miniatures(root, names=("ETHZ", "STEAD"), traces=24)
    for file in Path(root).glob("*/metadata*.csv"):
        table = pd.read_csv(file)
        table = table[[c for c in table.columns if "arrival" not in c and "status" not in c]]
        table.assign(trace_category="unknown").to_csv(file, index=False)
    return smoke.override({"data.root": str(root)})


def test_a_run_does_without_a_probe_and_says_so_once(unlabelled, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        data = prepare_training_data(unlabelled)
        metrics = local_trainer(unlabelled, data, tmp_path, tmp_path).run()
    said = [line for line in caplog.text.splitlines() if "there will be no probe/* scores" in line]
    assert len(said) == 1
    assert "no onsets of P in the 0 labelled windows of train, S in the 0 labelled windows of train" in said[0]
    assert "ETHZ P 0, S 0; STEAD P 0, S 0" in said[0]
    assert math.isnan(metrics["probe/macro_ap"])
    assert 0 <= metrics["val/top1_tie"] <= 1
    assert "probe nan" not in caplog.text


def test_labelled_data_lacks_nothing(smoke, data):
    assert probe_lacks(smoke, data) == ""


def test_early_stopping_by_a_probe_without_labels_is_refused(unlabelled):
    patient = unlabelled.override({"train.patience": 2})
    with pytest.raises(
        ValueError, match=r"train\.patience=2 goes by .*probe/macro_ap.* --search.objective val/top1_tie"
    ):
        check_objective(patient, prepare_training_data(patient))
    other = patient.override({"search.objective": "val/top1_tie"})
    check_objective(other, prepare_training_data(other))
    check_objective(unlabelled, prepare_training_data(unlabelled))


def test_a_sweep_by_a_probe_without_labels_is_refused_before_anything_is_written(ray_cluster, unlabelled, tmp_path):
    with pytest.raises(ValueError, match=r"a sweep goes by .*STEAD P 0, S 0.*--search.objective val/top1_tie"):
        sweep(unlabelled.override({"storage": str(tmp_path), "name": "none"}))
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_a_sweep_by_the_fixed_task_needs_no_label(ray_cluster, unlabelled, tmp_path):
    few = {"search.num_trials": 1, "search.rungs_per_budget": 1, "search.min_perplexity_fraction": 0.0}
    few |= {"storage": str(tmp_path), "name": "tie", "search.objective": "val/top1_tie"}
    best = sweep(unlabelled.override(few))
    assert 0 < best["value"] <= 1
