"""The chapter on picks: what is counted, what belongs together, what is drawn, and what is damaged."""

import dataclasses
import datetime
import math

import numpy as np
import obspy
import pandas as pd
import pytest
import torch

from model.picker import PhasePicker
from raysys.location import Location
from raysys.picking.example import FOLDER, make_examples, read_example, write_example
from raysys.picking.picks import Calibration, in_order, no_picks
from raysys.picking.run import _as_parquet
from raysys.picking.trained import TrainedPicker
from raysys.presets import smoke
from raysys.report.collect import read_folder
from raysys.report.figures_picking import (
    example_figure,
    probability_figure,
    s_minus_p_figure,
    times_figure,
)
from raysys.report.picked import PICKED_FILE, counts_by_station, s_after_p
from raysys.report.sections_picking import KM_A_SECOND, picking_verdict
from raysys.report.write import write_report
from tests.report.test_write import check_page

DAY = pd.Timestamp("2024-05-01", tz="UTC")


def picks_of(*rows, model="small"):
    """A table of picks out of (station, phase, seconds of the day, probability)."""
    rows = [
        {
            **{"network": "XX", "station": station, "location": "", "instrument": "HH", "phase": phase},
            **dict.fromkeys(("peak_time", "start_time", "end_time"), DAY + pd.Timedelta(seconds=s)),
            **{"probability": probability, "time_uncertainty_s": math.nan, "amplitude": 12.5, "snr_db": math.nan},
            **{"amplitude_unit": "counts", "model": model},
        }
        for station, phase, s, probability in rows
    ]
    return in_order(pd.DataFrame(rows)) if rows else no_picks()


def write_picks(folder, picks, told):
    """Writes picks as `jobs.pick` does; `told` names every station-day, also those without picks."""
    place = Location(folder)
    (place / PICKED_FILE).write(b"")
    for station, about in told.items():
        mine = picks[picks["network"] + "." + picks["station"] == station].reset_index(drop=True)
        (place / "picks" / station / f"{DAY.date()}.parquet").write(_as_parquet(mine, about))
    return folder


PICKS = picks_of(
    ("A", "P", 10.0, 0.9),
    ("A", "S", 14.0, 0.8),
    ("A", "S", 15.0, 0.5),
    ("B", "P", 12.0, 0.7),
    ("B", "P", 13.0, 0.7),
    ("B", "S", 7213.5, 0.6),
    ("B", "P", 7300.0, 0.4),
    ("B", "S", 7360.0, 0.4),
)
TOLD = {
    "XX.B": {"hours": 24.0, "why": []},
    "XX.A": {"hours": 12.0, "why": ["XX.A..HN?: every sample is the same"]},
    "XX.C": {"hours": 0.0, "why": ["C.mseed: no seismogram"]},
}


@pytest.fixture(scope="module")
def example():
    """The example stream of ObsPy as two untrained pickers read it; of one the threshold is so low that it picks."""
    torch.manual_seed(0)
    config = smoke()
    network = PhasePicker(config.model, config.head).eval()
    low = Calibration(p_threshold=1e-6, s_threshold=1e-6)
    pickers = (
        TrainedPicker("low", network, low),
        TrainedPicker("high", network, Calibration(p_threshold=1, s_threshold=1)),
    )
    (one,) = make_examples(obspy.read(), pickers)
    return one


def test_an_example_is_what_the_pickers_said_and_survives_its_file(example, tmp_path):
    assert example.instrument == "BW.RJOB..EH"
    assert pd.Timestamp(example.begin_ns) == pd.Timestamp("2009-08-24T00:20:03")
    assert example.waveform.shape == (3, 3000)
    assert {name: curve.shape for name, curve in example.probability.items()} == {"low": (3, 3000), "high": (3, 3000)}
    assert set(example.picks["model"]) == {"low"}
    file = Location(tmp_path / "one.npz")
    write_example(example, file)
    again = read_example(file)
    assert (again.instrument, again.begin_ns) == (example.instrument, example.begin_ns)
    np.testing.assert_array_equal(again.waveform, example.waveform)
    for name, curve in example.probability.items():
        np.testing.assert_allclose(again.probability[name], curve, atol=1e-3)
    pd.testing.assert_frame_equal(again.picks, example.picks)


def test_an_example_without_picks_survives_its_file_and_a_part_of_one_is_refused(example, tmp_path):
    file = Location(tmp_path / "one.npz")
    write_example(dataclasses.replace(example, picks=no_picks()), file)
    assert read_example(file).picks.empty
    for content in (file.read()[:-200], b"", b"nothing"):
        file.write(content)
        with pytest.raises(ValueError):
            read_example(file)


def test_stations_are_counted_those_without_picks_too(tmp_path):
    counts = counts_by_station(read_folder(write_picks(tmp_path, PICKS, TOLD)))
    assert counts.to_dict("list") == {
        "station": ["XX.B", "XX.A", "XX.C"],
        "P": [3, 1, 0],
        "S": [2, 2, 0],
        "days": [1, 1, 1],
        "hours": [24.0, 12.0, 0.0],
    }


def test_an_s_belongs_to_the_p_right_before_it_at_its_instrument():
    pairs = s_after_p(PICKS)
    assert pairs["station"].tolist() == ["A", "B"]
    assert pairs["s_minus_p_s"].tolist() == [4.0, 60.0]
    assert pairs["p_time"].tolist() == [DAY + pd.Timedelta(seconds=s) for s in (10, 7300)]
    assert s_after_p(no_picks()).empty
    assert s_after_p(picks_of(("A", "P", 10.0, 0.9), ("B", "S", 12.0, 0.9))).empty
    other = PICKS.assign(instrument=["HH", "HN", *["HH"] * 6])
    assert s_after_p(other)["s_minus_p_s"].tolist() == [5.0, 60.0]


def test_a_second_is_eight_kilometres():
    vp, ratio = 6.0, 1.73
    assert pytest.approx(1 / (ratio / vp - 1 / vp), rel=0.03) == KM_A_SECOND


@pytest.mark.parametrize(
    ("picks", "told", "state", "words"),
    [
        (PICKS, TOLD, "good", "2 S follow a P"),
        (PICKS[1:], TOLD, "warn", "Most S have no P right before them"),
        (
            picks_of(("A", "P", 1.0, 0.9), ("A", "S", 2.0, 0.9)),
            TOLD,
            "good",
            "There are 1 P and 1 S by small in 36.0 h",
        ),
        (picks_of(("A", "P", 1.0, 0.9)), TOLD, "warn", "one phase only: 1 P and 0 S"),
        (no_picks(), TOLD, "warn", "no picks in"),
        (no_picks(), {"XX.C": TOLD["XX.C"]}, "bad", "Nothing was read"),
    ],
)
def test_picks_are_judged_by_their_numbers(tmp_path, picks, told, state, words):
    picked = read_folder(write_picks(tmp_path, picks, told))
    got, sentence = picking_verdict(picked, s_after_p(picked.picks))
    assert got == state
    assert words in sentence


def test_picks_make_a_whole_page(example, tmp_path):
    folder = write_picks(tmp_path / "out", PICKS, TOLD)
    write_example(example, Location(folder) / FOLDER / "one.npz")
    page, checker = check_page(write_report([folder]))
    assert checker.titles == [
        "Picks of a stream",
        "Probabilities",
        "S minus P",
        "What could not be picked",
        "What the numbers mean",
    ]
    assert page.count("<figure>") == 4
    assert '<td>XX.<wbr>B</td><td class="number">3</td><td class="number">2</td>' in page
    assert "every sample is the same" in page
    first = example.picks["peak_time"].iloc[0]
    assert f"{first:%Y-%m-%d %H:%M:%S.%f}"[:-4] in page
    tables = folder / "report_tables"
    assert pd.read_csv(tables / "out_stations.csv")["P"].tolist() == [3, 1, 0]
    assert pd.read_csv(tables / "out_s_minus_p.csv")["s_minus_p_s"].tolist() == [4.0, 60.0]


def test_damaged_files_and_no_picks_still_make_a_page(tmp_path):
    folder = write_picks(tmp_path / "out", PICKS, TOLD)
    for file in ("picks/XX.A/2024-05-01.parquet", f"{FOLDER}/one.npz"):
        Location(folder / file).write(b"half")
    page, _ = check_page(write_report([folder]))
    assert "XX.A/2024-05-01.parquet is damaged" in page
    assert f"{FOLDER}/one.npz is damaged" in page
    empty = tmp_path / "empty"
    Location(empty / PICKED_FILE).write(b"")
    page, _ = check_page(write_report([empty]))
    assert "Nothing was read" in page
    assert page.count("<figure>") == 0


def test_many_stations_are_folded(tmp_path):
    told = {f"XX.S{k:02d}": {"hours": 1.0, "why": []} for k in range(15)}
    page, _ = check_page(write_report([write_picks(tmp_path, no_picks(), told)]))
    assert "<summary>3 more</summary>" in page
    assert page.count("<td>XX.<wbr>S") == 15


def test_hours_without_picks_are_drawn_as_such():
    left, right = times_figure(PICKS).axes
    p, s = (patch.get_data() for patch in left.patches)
    assert p.values.tolist() == [3, 0, 1]
    assert s.values.tolist() == [2, 0, 2]
    assert np.diff(p.edges) * 24 == pytest.approx([1, 1, 1])
    assert [patch.get_data().values[:4].tolist() for patch in right.patches] == [[3, 0, 1, 0], [2, 0, 2, 0]]
    assert times_figure(no_picks()) is None


def test_histograms_hold_every_pick_and_every_pair():
    counts = [ax.patches[0].get_data() for ax in probability_figure(PICKS).axes]
    assert [int(of.values.sum()) for of in counts] == [4, 4]
    assert counts[0].values[np.searchsorted(counts[0].edges, 0.91) - 1] == 1
    (pairs,) = (ax.patches[0].get_data() for ax in s_minus_p_figure(s_after_p(PICKS)).axes)
    assert pairs.values.sum() == 2
    assert probability_figure(no_picks()) is None
    assert s_minus_p_figure(s_after_p(no_picks())) is None


def test_picks_stand_where_their_time_is(example):
    moment = datetime.datetime(2009, 8, 24, 0, 20, 7, 680_000, tzinfo=datetime.UTC)
    pick = example.picks.iloc[:1].assign(phase="P", peak_time=pd.Timestamp(moment), probability=0.87, model="high")
    top, low, high = example_figure(dataclasses.replace(example, picks=pick)).axes
    assert [text.get_text() for text in high.texts] == ["P 00:20:07.68 (0.87)"]
    assert high.get_title(loc="right") == "high"
    assert [text.get_text() for text in low.texts] == []
    for ax in (top, high):
        (line,) = (one for one in ax.lines if list(one.get_ydata()) == [0, 1])
        assert line.get_xdata()[0] == pytest.approx(4.68)


def test_a_gap_leaves_the_rest_of_the_waveform_to_be_seen(example):
    waveform = example.waveform.copy()
    waveform[0, 100:300] = np.nan
    waveform[1] = np.nan
    drawn = example_figure(dataclasses.replace(example, waveform=waveform)).axes[0].lines[0].get_ydata()
    assert np.isnan(drawn).sum() == 200
    assert np.nanmax(np.abs(drawn)) == pytest.approx(0.48)


def test_times_that_would_stand_on_each_other_stand_in_rows(example):
    begin = pd.Timestamp(example.begin_ns, tz="UTC")
    moments = [begin + pd.Timedelta(seconds=s) for s in (5, 6, 7, 7.5, 7.7, 20)]
    picks = picks_of(*[("RJOB", "P", 0.0, 0.5)] * 6, model="low").assign(peak_time=moments, phase=list("PPPSPS"))
    texts = example_figure(dataclasses.replace(example, picks=picks)).axes[1].texts
    rows = [(text.get_text()[0], round(text.xy[1], 1)) for text in texts]
    assert rows == [("P", 1), ("P", 0.8), ("P", 0.6), ("S", 1), ("P", 0.8), ("S", 1)]
