"""A whole evaluation: its files, what is kept of it, and what is refused."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from raysys.config import DataConfig
from raysys.evaluate import evaluation
from raysys.evaluate.evaluation import evaluate_networks
from raysys.evaluate.examples import choose_examples, example_curves, example_windows
from raysys.evaluate.material import _events, load_material
from raysys.evaluate.predictions import Reader
from raysys.evaluate.results import _without_nan, common_data, matrix, origin_of
from raysys.evaluate.stored import is_stored, load, store, weights_digest
from raysys.evaluate.tasks import make_targets
from raysys.location import Location
from raysys.presets import PRESETS
from raysys.report.write import write_report
from tests.evaluate.made import Jumpy, Oracle, made_table


def loaded(name="jumpy", network=None, **changed):
    one = {"name": name, "network": network or Jumpy(), "config": None, "source": f"{name}:made", "checkpoint": ""}
    return SimpleNamespace(**one | changed)


@pytest.fixture
def data(miniatures, tmp_path):
    return DataConfig(root=str(miniatures), datasets=("ETHZ", "GEOFON"), cache=str(tmp_path / "cache"))


def test_networks_are_compared_and_a_second_evaluation_predicts_nothing_anew(ray_cluster, data, tmp_path, monkeypatch):
    networks = [loaded(), loaded("other", Jumpy(3000)), loaded("jumpy", Jumpy(1024))]
    out = tmp_path / "out"
    told = json.loads(evaluate_networks(networks, data, str(out), device="cpu", resamples=30))
    assert set(told) == {"jumpy", "other", "jumpy-2"}
    assert told["jumpy"]["test_P_hit_0.5s"] > 0.2
    result = json.loads((out / "evaluation.json").read_text())
    assert result["format"] == 1
    assert set(result["models"]["jumpy"]["metrics"]) == {"ETHZ", "GEOFON", "all"}
    assert {(one["a"], one["b"]) for one in result["differences"]} == {
        ("jumpy", "other"),
        ("jumpy", "jumpy-2"),
        ("other", "jumpy-2"),
    }
    examples = np.load(out / "examples.npz")
    assert examples["probability/other"].shape == (len(examples["trace"]), 3, examples["waveform"].shape[-1])
    assert len(pd.read_csv(out / "metrics.csv")) == sum(
        len(m) for one in result["models"].values() for m in one["metrics"].values()
    )
    assert list(matrix(result, "test_event_auc")) == ["trained on", "ETHZ", "GEOFON", "all"]
    page = write_report([str(out)]).read_text()
    assert "dividing its log-probabilities" in page  # the last of the figures that read the result
    assert "Not read" not in page

    def refuse(*_):
        raise AssertionError("predicted again")

    monkeypatch.setattr(evaluation, "_predictions", refuse)
    assert json.loads(evaluate_networks(networks, data, str(out), device="cpu", resamples=30)) == told
    assert json.loads((out / "evaluation.json").read_text()) == result


def test_predictions_come_back_as_they_were_written_and_only_whole(tmp_path, data):
    material = load_material(data)[0]
    reader = Reader(Jumpy(), "pick", torch.device("cpu"))
    tables = evaluation.read_dataset(reader, material.table, material.targets)
    folder = Location(tmp_path / "stored")
    assert not is_stored(folder, "x")
    store(folder, tables, "x")
    assert is_stored(folder, "x")
    assert not is_stored(folder, "y")
    for name, table in load(folder).items():
        pd.testing.assert_frame_equal(table, tables[name], check_dtype=False, check_exact=True)
    (folder / "fingerprint.json").remove()
    assert not is_stored(folder, "x")


def test_the_digest_of_weights_changes_with_them_and_with_what_is_asked():
    network = Jumpy()
    marks = {weights_digest(network, "pick"), weights_digest(Jumpy(), "pick")}
    assert len(marks) == 1
    marks.add(weights_digest(network, "detect"))
    marks.add(weights_digest(Jumpy(3000), "pick"))
    with torch.no_grad():
        network.sharpness += 1e-6
    marks.add(weights_digest(network, "pick"))
    assert len(marks) == 4


def test_examples_are_spread_over_data_sets_and_show_the_same_samples_to_every_network(data):
    materials = load_material(data)
    examples = choose_examples(materials, 8)
    shown = example_windows(materials, examples)
    names, counts = np.unique(shown["dataset"], return_counts=True)
    assert dict(zip(names, counts.tolist(), strict=True)) == {"ETHZ": 4, "GEOFON": 4}
    for window in (500, 2000, 5000):
        curves = example_curves(Reader(Oracle(window), "pick", torch.device("cpu")), materials, examples)
        valid = np.arange(curves.shape[-1]) < shown["num_valid"][:, None]
        assert np.array_equal(curves[:, :2], np.where(valid[:, None], shown["waveform"][:, :2], 0).astype(np.float16))
    for wave in "ps":
        inside = shown[wave][~np.isnan(shown[wave])]
        assert ((inside >= 0) & (inside < 3000)).all()


def test_events_to_draw_from_are_those_of_labelled_traces_of_the_split():
    table = made_table(
        {"p_s": 20.0, "event": "e"}, {"p_s": 20.0, "event": "e"}, {"event": "f"}, {"category": "noise", "split": "dev"}
    )
    assert _events(table, make_targets(table)) == {"dev": ["made/trace /t3"], "test": ["made/e"]}


def test_runs_that_split_the_data_in_different_ways_are_refused_and_one_seed_is_taken():
    def run(seed):
        return loaded(
            config=PRESETS["smoke"]().override(
                {"data.split_seed": seed, "task": "pick", "search.objective": "dev/score"}
            )
        )

    assert common_data(DataConfig(), [run(3), loaded()]).split_seed == 3
    with pytest.raises(ValueError, match="split the data in different ways"):
        common_data(DataConfig(), [run(3), run(4)])


def test_what_a_network_has_learnt_from_is_told_by_its_record(tmp_path):
    config = PRESETS["smoke"]().override(
        {"task": "pick", "search.objective": "dev/score", "finetune.label_fraction": 0.1}
    )
    (tmp_path / "run" / "step1").mkdir(parents=True)
    run = loaded(config=config, checkpoint=str(tmp_path / "run" / "step1"))
    assert origin_of(run, "pick")["trained_on"] == list(config.data.datasets)
    record = {"data": {"labels": {"by_dataset": {"ETHZ": [1, 2], "STEAD": [3, 4]}}}}
    (tmp_path / "run" / "record.json").write_text(json.dumps(record))
    found = origin_of(run, "pick")
    assert found["trained_on"] == ["ETHZ", "STEAD"]
    assert (found["label_fraction"], found["init"]) == (0.1, "scratch")
    assert origin_of(loaded(), "pick")["trained_on"] == ["made"]


def test_nan_is_written_as_null():
    assert _without_nan({"a": [np.float64("nan"), np.int64(3), (1.5, float("inf"))]}) == {"a": [None, 3, [1.5, None]]}
