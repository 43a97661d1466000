"""The target tables: windows hold what they promise, wherever they lie, and do not depend on the order of traces."""

import numpy as np
import pyarrow as pa
import pytest

from raysys.config import DataConfig
from raysys.data.corpus import load_corpus
from raysys.data.onsets import Onsets
from raysys.evaluate.tasks import make_targets
from tests.evaluate.made import made_table


def test_an_earthquake_gives_one_window_around_its_first_onset_and_noise_before_it_where_there_is_room():
    table = made_table(
        {"p_s": 40.0, "s_s": 45.0}, {"p_s": 20.0, "s_s": 25.0}, {"s_s": 50.0}, {"p_s": 50.0, "other_s": [10.0]}
    )
    task1 = make_targets(table).task1
    assert task1["row"].tolist() == [0, 0, 1, 2, 3]
    quake, noise = (task1[task1["trace_type"] == kind] for kind in ("earthquake", "noise"))
    assert noise["row"].tolist() == [0], "a record before a lone S, or behind another phase, may hold a P"
    assert (noise["end_sample"] <= 3900).all()
    assert (noise["start_sample"] >= 0).all()
    first = np.array([4000, 2000, 5000, 5000])
    assert (quake["start_sample"] + 100 <= first).all()
    assert (first + 100 <= quake["end_sample"]).all()
    assert set(task1["end_sample"] - task1["start_sample"]) == {3000}


def test_a_trace_without_onsets_is_noise_only_where_its_category_says_so():
    task1 = make_targets(made_table({"category": "noise"}, {"category": "earthquake"}, {})).task1
    assert task1["row"].tolist() == [0]
    assert task1["trace_type"].tolist() == ["noise"]


def test_a_short_trace_is_its_own_window():
    targets = make_targets(made_table({"p_s": 0.2, "num_samples": 900}, {"category": "noise", "num_samples": 900}))
    assert targets.task1[["start_sample", "end_sample"]].to_numpy().tolist() == [[0, 900], [0, 900]]
    assert targets.task23[["start_sample", "end_sample"]].to_numpy().tolist() == [[0, 900]]


@pytest.mark.parametrize(
    ("p", "s", "other", "labels"),
    [
        (20.0, 35.0, [], ["P", "S"]),
        (20.0, 21.1, [], ["P", "S"]),  # each fits between the other and an end
        (20.0, 20.9, [], []),  # no end of a window fits between them
        (20.0, 26.0, [30.0], ["P"]),  # 9 s between P and the other one
        (20.0, np.nan, [20.2], []),
    ],
)
def test_a_window_of_ten_seconds_holds_one_onset_half_a_second_from_all_others(p, s, other, labels):
    table = made_table({"p_s": p, "s_s": s, "other_s": other, "p_phase": "Pn"})
    rows = make_targets(table).task23
    assert rows["phase_label"].tolist() == labels
    every = [100 * x for x in (p, s, *other) if np.isfinite(x)]
    for _, one in rows.iterrows():
        inside = [x for x in every if one["start_sample"] - 50 < x < one["end_sample"] + 50]
        assert inside == [one["phase_onset"]]
        assert one["start_sample"] + 50 <= one["phase_onset"] <= one["end_sample"] - 50
        assert one["full_phase_label"] == ("Pn" if one["phase_label"] == "P" else "S")


def test_targets_do_not_depend_on_the_order_of_traces_and_training_traces_have_none(miniatures, tmp_path):
    table = load_corpus(DataConfig(root=str(miniatures), datasets=("ETHZ",), cache=str(tmp_path)))
    mixed = table.take(pa.array(np.random.default_rng(0).permutation(len(table)))).combine_chunks()
    for task in ("task1", "task23"):
        one, other = (getattr(make_targets(t), task) for t in (table, mixed))
        keys = ["trace_name", "start_sample"]
        columns = [c for c in one if c not in ("row", "trace_idx")]
        one, other = (t.sort_values(keys, ignore_index=True)[columns] for t in (one, other))
        assert len(one) > 3
        assert one.equals(other)
        assert set(one["trace_split"]) <= {"dev", "test"}


def test_places_are_spread_over_the_room():
    table = made_table(*({"p_s": 30.0, "trace_name": f"x{k}"} for k in range(300)))
    task1 = make_targets(table).task1
    start = task1["start_sample"][task1["trace_type"] == "earthquake"]
    assert np.abs(start.mean() - (100 + 2900) / 2) < 150
    assert start.min() < 200
    assert start.max() > 2800


@pytest.mark.realdata
def test_real_targets_are_sane(real_data, tmp_path):
    corpus = load_corpus(DataConfig(root=str(real_data), datasets=("mesetas", "telica"), cache=str(tmp_path)))
    targets, onsets = make_targets(corpus), Onsets.from_table(corpus)
    task1, task23 = targets.task1, targets.task23
    counts = task1.groupby(["trace_split", "trace_type"]).size()
    assert counts["test", "earthquake"] > 100
    assert counts["test", "noise"] > 30
    assert (task1["end_sample"] - task1["start_sample"] <= 3000).all()
    for _, one in task23.iterrows():
        found = getattr(onsets, one["phase_label"].lower())[one["row"]]
        assert np.nanmin(np.abs(found - one["phase_onset"])) == 0
    assert (np.array(corpus["split"].to_pylist())[task23["row"]] == task23["trace_split"]).all()
