"""Predictions: of the samples of a target alone, wherever the window around it lies."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from raysys.config import DataConfig
from raysys.data.corpus import load_corpus
from raysys.data.onsets import Onsets
from raysys.data.windows import Traces
from raysys.evaluate import predictions
from raysys.evaluate.predictions import Reader, around, predict_targets, read_ahead, read_dataset, read_labelled
from raysys.evaluate.tasks import make_targets
from tests.evaluate.made import Jumpy, Oracle, made_table

CPU = torch.device("cpu")


@pytest.fixture
def answers(monkeypatch):
    """Waveforms of traces as arrays, which are read in place of files."""
    waves = np.zeros((3, 3, 6000), np.float32)

    def read(traces, ids, starts, window):
        length = traces.output_samples(np.asarray(ids))
        out = np.zeros((len(ids), 3, window), np.float32)
        valid = np.clip(length - starts, 0, window).astype(np.int32)
        for k, (i, start) in enumerate(zip(ids, starts, strict=True)):
            out[k, :, : valid[k]] = waves[i, :, start : start + valid[k]]
        return out, valid

    monkeypatch.setattr(predictions, "read_windows", read)
    return waves


def one_target(start, end, row=0, rate=100):
    return pd.DataFrame({"row": [row], "start_sample": [start], "end_sample": [end], "sampling_rate": [rate]})


@pytest.mark.parametrize("start", [0, 2500, 5000])
@pytest.mark.parametrize("window", [500, 1000, 3000, 6000, 9000])
def test_only_samples_of_the_target_count(answers, start, window):
    table = made_table({}, {}, {})
    answers[0, 0, [start, start + 400, start + 999]] = 0.3, 0.6, 0.5
    answers[0, 1, start + 700] = 0.2
    answers[0, :, start - 1 if start else 1000] = 0.95  # just outside
    if start + 1000 < 6000:
        answers[0, :, start + 1000] = 0.95
    found = predict_targets(
        Reader(Oracle(window), "pick", CPU), Traces.from_table(table), one_target(start, start + 1000)
    )
    assert found["score_detection"][0] == pytest.approx(0.6)
    assert found["score_p_or_s"][0] == pytest.approx(3.0)
    assert found["p_sample_pred"][0] == start + 400
    assert found["s_sample_pred"][0] == start + 700


def test_windows_are_centred_on_their_targets_and_inside_of_the_trace(answers):
    traces, seen = Traces.from_table(made_table({}, {}, {})), []
    answers[:, 2] = np.arange(6000)

    class Spy(Oracle):
        def forward(self, waveform, num_valid=None):
            seen.extend(waveform[:, 2, 0].tolist())
            return super().forward(waveform * 0)

    rows, start = np.array([0, 1, 2]), np.array([0, 2500, 5000])
    for _, first, last in around(Reader(Spy(3000), "pick", CPU), traces, rows, start, start + 1000):
        assert first.tolist() == [0, 1000, 2000]
        assert (last - first).tolist() == [1000, 1000, 1000]
    assert seen == [0, 1500, 3000]


def test_a_detector_gives_the_highest_probability_alone(answers):
    class Detector(Oracle):
        def forward(self, waveform, num_valid=None):
            return waveform[:, :1]

    answers[0, 0, 1200] = 0.7
    found = predict_targets(
        Reader(Detector(), "detect", CPU), Traces.from_table(made_table({}, {}, {})), one_target(1000, 2000)
    )
    assert found["score_detection"][0] == pytest.approx(0.7)
    assert found[["score_p_or_s", "p_sample_pred", "s_sample_pred"]].isna().all().all()


def test_a_thread_reads_ahead_in_order_and_errors_arrive():
    assert list(read_ahead(lambda x: x**2, [1, 2, 3])) == [1, 4, 9]
    assert list(read_ahead(lambda x: x, [])) == []
    with pytest.raises(ZeroDivisionError):
        list(read_ahead(lambda x: 1 / x, [1, 0]))


def test_picks_of_whole_windows_know_their_onsets(miniatures, tmp_path):
    table = load_corpus(DataConfig(root=str(miniatures), datasets=("STEAD",), cache=str(tmp_path)))
    table = table.filter(np.array(table["split"].to_pylist()) == "test").combine_chunks()
    tables = read_labelled(Reader(Jumpy(), "pick", CPU), table, with_losses=True)
    windows, picks = tables["windows"], tables["picks"]
    assert len(windows) == Onsets.from_table(table).labelled.sum()
    assert windows["p_onsets"].sum() > 0
    assert (windows["p_hit_0.5s"].notna() == (windows["p_onsets"] > 0)).all()
    assert windows["p_hit_0.5s"].mean() > 0.3
    assert picks["late_0.5s"].abs().max() <= 0.5
    assert (picks["late_0.1s"].notna() <= picks["late_0.5s"].notna()).all()
    matched = picks[picks["late_0.5s"].notna()].groupby(["window", "wave"]).size()
    for (window, wave), count in matched.items():
        assert count <= windows[f"{wave.lower()}_onsets"][window]
    assert np.allclose(picks[list("psn")].sum(axis=1), 1, atol=1e-5)
    assert {"loss_0", "loss_48"} <= set(windows)


def test_predictions_are_the_same_again_and_do_not_depend_on_the_batch(miniatures, tmp_path, monkeypatch):
    table = load_corpus(DataConfig(root=str(miniatures), datasets=("GEOFON",), cache=str(tmp_path)))
    targets, reader = make_targets(table), Reader(Jumpy(), "pick", CPU)
    first = read_dataset(reader, table, targets)
    assert set(first) == {f"{s}_{t}" for s in ("dev", "test") for t in ("task1", "task23", "windows", "picks")}
    monkeypatch.setattr(Reader, "batch", property(lambda self: 7))
    again = read_dataset(dataclasses.replace(reader), table, targets)
    for name, rows in first.items():
        pd.testing.assert_frame_equal(rows, again[name], rtol=1e-6)
