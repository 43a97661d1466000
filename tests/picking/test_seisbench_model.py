"""Our picker behind SeisBench's interface: loaded, saved, installed, asked in every way, and failing at once."""

import asyncio
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import obspy
import pytest
import torch

from raysys.picking.picks import COLUMNS, Calibration
from raysys.picking.seisbench_model import Picker, pick_list
from raysys.picking.stream import pick_records, read_stream
from tests.picking.conftest import BEGIN, MODEL

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def picker(tiny, often) -> Picker:
    return Picker.of(tiny, often)


@pytest.fixture(scope="module")
def stored(picker, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("stored") / "picker"
    picker.save(path, weights_docstring="made for a test")
    return path


def told(picks) -> list[tuple]:
    return [(p.trace_id, p.phase, p.start_time, p.peak_time, p.end_time, round(float(p.peak_value), 5)) for p in picks]


def same(a: obspy.Stream, b: obspy.Stream) -> bool:
    return [x.id for x in a] == [y.id for y in b] and all(
        np.array_equal(x.data, y.data) for x, y in zip(a, b, strict=True)
    )


def test_a_loaded_picker_reads_as_the_one_that_was_saved(picker, stored, noise):
    """SeisBench's `load` returns a network in training mode, which drops out."""
    loaded, stream = Picker.load(stored), noise(20)
    assert loaded.weights_docstring == "made for a test"
    assert loaded.calibration == picker.calibration
    assert same(loaded.annotate(stream), picker.annotate(stream))
    assert told(loaded.classify(stream).picks) == told(picker.classify(stream).picks) != []


def test_the_mode_stays_as_it_was(stored, noise):
    loaded = Picker.load(stored)
    for training in (True, False):
        loaded.train(training)
        loaded.annotate(noise(5))
        loaded.classify(noise(5))
        assert loaded.training == loaded.picker.training == training


def test_what_is_saved_again_is_the_same(stored, tmp_path):
    Picker.load(stored).save(tmp_path / "again", weights_docstring="made for a test")
    first, again = (
        json.loads(path.with_name(path.name + ".json").read_text()) for path in (stored, tmp_path / "again")
    )
    assert first == again
    states = [torch.load(path.with_name(path.name + ".pt")) for path in (stored, tmp_path / "again")]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_curves_have_names_times_and_the_sum_of_one(picker, noise):
    stream = noise(20, begin=BEGIN + 0.003)
    before = stream.copy()
    found = picker.annotate(stream)
    assert stream == before
    assert [one.stats.channel for one in found] == ["Picker_P", "Picker_S", "Picker_N"]
    assert all(abs(one.stats.starttime - stream[0].stats.starttime) < 1e-6 and len(one) == 2000 for one in found)
    np.testing.assert_allclose(sum(one.data for one in found), 1, atol=1e-5)


def test_our_picks_are_those_that_seisbench_makes_of_our_curves(picker, noise):
    stream = noise(30, begin=BEGIN + 0.0042) + noise(30, begin=BEGIN + 31.0042, seed=1)
    ours, curves = picker.classify(stream).picks, picker.annotate(stream)
    thresholds = {"P": picker.calibration.p_threshold, "S": picker.calibration.s_threshold}
    theirs = [
        pick
        for wave, threshold in thresholds.items()
        for pick in picker.picks_from_annotations(curves.select(channel=f"Picker_{wave}"), threshold, wave)
    ]
    assert len(ours) > 10
    assert {p.phase for p in ours} == {"P", "S"}
    assert sorted(told(ours), key=str) == sorted(told(theirs), key=str)
    assert told(picker.classify_aggregate(curves, {}).picks) == told(sorted(ours, key=lambda pick: pick.peak_time))
    assert told(picker.classify(stream, parallelism=1).picks) == told(ours), "the old way in SeisBench"


def test_picks_of_several_stations_are_sorted_by_time(picker, noise):
    picks = picker.classify(noise(20) + noise(20, station="BBB", seed=1) + noise(20, station="CCC", seed=2)).picks
    times = [pick.peak_time for pick in picks]
    assert times == sorted(times)
    assert {pick.trace_id for pick in picks} == {"XX.AAA.", "XX.BBB.", "XX.CCC."}


def test_calls_that_are_gathered_give_what_each_gives(picker, noise):
    streams = [noise(5, seed=seed) for seed in range(3)]

    async def together():
        curves = asyncio.gather(*(picker.annotate_async(stream) for stream in streams))
        picks = asyncio.gather(*(picker.classify_async(stream) for stream in streams))
        return await curves, await picks

    curves, picks = asyncio.run(together())
    for stream, curve, pick in zip(streams, curves, picks, strict=True):
        assert same(curve, picker.annotate(stream))
        assert told(pick.picks) == told(picker.classify(stream).picks)


def test_batches_change_nothing_and_thresholds_do(picker, noise, monkeypatch):
    stream, seen = noise(20), []
    forward = picker.picker.forward
    monkeypatch.setattr(picker.picker, "forward", lambda x, valid=None: seen.append(len(x)) or forward(x, valid))
    one = picker.annotate(stream, batch_size=2)
    assert set(seen) <= {1, 2}
    for a, b in zip(one, picker.annotate(stream), strict=True):
        np.testing.assert_allclose(a.data, b.data, atol=1e-5)
    usual = picker.classify(stream).picks
    high = picker.classify(stream, P_threshold=2.0, batch_size=4).picks
    assert {pick.phase for pick in high} == {"S"}
    assert len(high) == sum(pick.phase == "S" for pick in usual)
    assert {pick.phase for pick in picker.classify(stream, S_threshold=2.0).picks} == {"P"}


def test_default_arguments_of_the_file_count(stored, tmp_path, noise):
    for suffix in (".json", ".pt"):
        (tmp_path / f"mine{suffix}").write_bytes(stored.with_name(f"picker{suffix}").read_bytes())
    file = tmp_path / "mine.json"
    content = json.loads(file.read_text())
    content["default_args"]["P_threshold"] = 2.0
    file.write_text(json.dumps(content))
    assert {pick.phase for pick in Picker.load(tmp_path / "mine").classify(noise(20)).picks} == {"S"}


def test_unknown_arguments_only_warn(picker, noise, caplog):
    stream = noise(5)
    with caplog.at_level(logging.WARNING, logger="seisbench"):
        curves = picker.annotate(stream, nonsense=3, copy=False)
        picks = picker.classify(stream, more_nonsense=3, copy=False)
    assert "Unknown argument 'nonsense'" in caplog.text
    assert "Unknown argument 'more_nonsense'" in caplog.text
    assert "copy" not in caplog.text
    assert same(curves, picker.annotate(stream))
    assert told(picks.picks) == told(picker.classify(stream).picks)


def test_what_cannot_be_read_is_warned_about_and_empty(picker, noise, caplog):
    with caplog.at_level(logging.WARNING, logger="seisbench"):
        assert len(picker.annotate(noise(5, channels=("BDF",)))) == 0
        assert len(picker.classify(noise(60, rate=10)).picks) == 0
    assert "not read: XX.AAA..BD?: not a seismometer" in caplog.text
    assert "at least 20 Hz" in caplog.text
    assert len(picker.annotate(obspy.Stream())) == 0


def test_a_stream_that_is_shorter_than_a_window_and_one_component_have_curves(picker, noise):
    assert [len(one) for one in picker.annotate(noise(1))] == [100] * 3
    assert [len(one) for one in picker.annotate(noise(5, channels=("HHZ",)))] == [500] * 3


def test_the_table_is_what_jobs_pick_writes(picker, tiny, often, noise):
    stream = noise(20)
    table = picker.table(stream)
    assert list(table) == list(COLUMNS)
    assert (table["model"] == "Picker").all()
    records, _ = read_stream(stream, MODEL.window_samples)
    assert table.drop(columns="model").equals(pick_records(tiny, records, often, "m").drop(columns="model"))
    assert table["time_uncertainty_s"].notna().all()
    listed = told(pick_list(table))
    assert [row[3].ns for row in listed] == table["peak_time"].astype("int64").tolist()


def test_probabilities_of_picks_are_calibrated_and_curves_are_those_of_the_network(tiny, often, noise):
    humble = Picker.of(tiny, Calibration(p_threshold=often.p_threshold, s_threshold=2.0, p_odds=(1.0, -3.0)))
    stream = noise(20)
    highest = max(pick.peak_value for pick in humble.classify(stream).picks)
    assert highest < often.p_threshold < humble.annotate(stream).select(channel="Picker_P")[0].data.max()


BROKEN = """
import obspy, sys, torch
from raysys.picking.seisbench_model import Picker
picker = Picker.load(sys.argv[1])
def forward(*arguments, **named):
    raise RuntimeError("the memory is full")
picker.picker.forward = forward
for call in (picker.annotate, picker.classify):
    try:
        call(obspy.read())
    except RuntimeError as error:
        print("raised", error)
"""
OFFLINE = """
import socket, sys
def refuse(*arguments, **named):
    raise OSError("no network here")
socket.socket.connect = socket.getaddrinfo = refuse
import obspy
from raysys.picking.seisbench_model import Picker
picker = Picker.from_pretrained(sys.argv[1])
print(len(picker.annotate(obspy.read())), picker.weights_version, Picker.list_pretrained(remote=False))
"""


def run(script: str, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_error_inside_is_raised_and_does_not_hang(stored):
    assert run(BROKEN, str(stored)).split("\n")[:2] == ["raised the memory is full"] * 2


def test_an_installed_picker_is_found_by_name_without_a_network(checkpoint, tmp_path):
    script = (
        "import sys; from raysys.picking.export import export; export(sys.argv[1], sys.argv[2], install='my-picker.2')"
    )
    cache = str(tmp_path / "cache")
    run(script, str(checkpoint), str(tmp_path / "out"), SEISBENCH_CACHE_ROOT=cache)
    assert run(OFFLINE, "my-picker.2", SEISBENCH_CACHE_ROOT=cache).split("\n")[-2] == "3 1 ['my-picker.2']"
