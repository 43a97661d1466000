"""An archive is picked day by day: once, again where anything has changed, and as `classify` picks the whole stream."""

import dataclasses
import datetime
import json
import logging
import os
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import obspy
import pandas as pd
import pytest
import torch
from obspy import Stream, Trace, UTCDateTime
from torch import nn

from raysys.picking import run
from raysys.picking.archive import StationDay
from raysys.picking.export import export
from raysys.picking.picks import COLUMNS, Calibration, in_order
from raysys.picking.run import INSTRUMENTS, Picking, pick_archive, read_day, read_picks
from raysys.picking.seisbench_model import Picker
from raysys.picking.trained import TrainedPicker
from tests.picking.conftest import MODEL

MIDNIGHT = UTCDateTime("2021-03-05T00:00:00")
MARGIN_S = 2 * MODEL.window_samples / 100 + 60


class Spikes(nn.Module):
    """A picker of everything that is large: positive values are P, negative ones S."""

    window_samples = 256

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, waveform, num_valid=None):
        """Returns probabilities (B, 3, T)."""
        p, s = (0.9 * (sign * waveform[:, 0] > 1e4) for sign in (1, -1))
        return torch.stack([p, s, 1 - p - s], dim=1).float()


@pytest.fixture(scope="module")
def stream(noise) -> Stream:
    """Two stations around a midnight, one with a gap, another rate and sub-sample times."""
    early = UTCDateTime(ns=(MIDNIGHT - 200).ns + 3_400_000)
    return (
        noise(420, begin=early)
        + noise(60, begin=MIDNIGHT - 40_000, seed=3)
        + noise(40, begin=early + 430, seed=1)
        + noise(200, begin=MIDNIGHT - 90, rate=62.5, station="BBB", channels=("EHZ",), seed=2)
    )


@pytest.fixture(scope="module")
def picker(checkpoint, often, tmp_path_factory) -> str:
    """A folder of jobs.export with thresholds that are often passed."""
    folder = export(str(checkpoint), tmp_path_factory.mktemp("picker"))
    content = json.loads((folder / "config.json").read_text())
    content["run"]["calibration"] = dataclasses.asdict(often)
    (folder / "config.json").write_text(json.dumps(content))
    return str(folder)


@pytest.fixture(scope="module")
def expected(stream, tiny, often) -> pd.DataFrame:
    """What `classify` gives of the whole stream."""
    table = Picker.of(tiny, often).table(stream)
    assert {(row.station, row.phase) for row in table.itertuples()} == {(s, w) for s in ("AAA", "BBB") for w in "PS"}
    return table


def sds(stream: Stream, root: Path) -> Path:
    for trace in stream:
        for day in (MIDNIGHT - 86_400, MIDNIGHT):
            part = trace.slice(day, day + 86_400 - 1e-6, nearest_sample=False)
            if len(part):
                s = part.stats
                name = f"{s.network}.{s.station}.{s.location}.{s.channel}.D.{day.year}.{day.julday:03d}"
                file = root / str(day.year) / s.network / s.station / f"{s.channel}.D" / name
                file.parent.mkdir(parents=True, exist_ok=True)
                with file.open("ab") as target:
                    Stream([part]).write(target, "MSEED")
    return root


def in_pieces(stream: Stream, root: Path) -> Path:
    """Each trace in files that are cut at random places, whose names say nothing; several channels in some."""
    rng = np.random.default_rng(0)
    parts = []
    for trace in stream:
        edges = [0, *np.sort(rng.integers(300, len(trace) - 300, 3)).tolist(), len(trace)]
        for first, last in pairwise(edges):
            if last > first:
                s = trace.stats
                header = {name: s[name] for name in ("network", "station", "location", "channel", "sampling_rate")}
                begin = UTCDateTime(ns=s.starttime.ns + round(first * 1e9 / s.sampling_rate))
                parts.append(Trace(trace.data[first:last], header | {"starttime": begin}))
    order = rng.permutation(len(parts)).tolist()
    root.mkdir()
    while order:
        mine, order = order[:2], order[2:]
        Stream([parts[k] for k in mine]).write(str(root / f"part{len(order)}.bin"), "MSEED")
    return root


def content_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(f.relative_to(folder)): (f.stat().st_mtime_ns, f.read_bytes()) for f in folder.rglob("*.parquet")}


def assert_same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    columns = ["network", "station", "location", "instrument", "phase", "peak_time", "start_time", "end_time"]
    pd.testing.assert_frame_equal(found[columns], expected[columns])
    np.testing.assert_allclose(found["probability"], expected["probability"], atol=1e-4)
    np.testing.assert_allclose(found["time_uncertainty_s"], expected["time_uncertainty_s"], atol=1e-3)
    np.testing.assert_allclose(found["amplitude"], expected["amplitude"], rtol=1e-3)


@pytest.mark.parametrize("kind", [in_pieces, sds])
def test_picks_of_an_archive_are_those_of_the_whole_stream(ray_cluster, kind, stream, picker, expected, tmp_path):
    root = kind(stream, tmp_path / "archive")
    told = pick_archive((str(root),), str(tmp_path / "out"), Picking(picker=picker))
    found = read_picks(str(tmp_path / "out"))
    assert_same(found, expected)
    assert (found["model"] == "tiny").all()
    assert told["picks"] == told["picks_P"] + told["picks_S"] == len(expected)
    assert (told["station_days"], told["skipped"], told["failed"]) == (4, 0, 0)
    seconds = 420 + 60 + 40 + 200
    assert told["hours_of_records"] == pytest.approx(seconds / 3600, abs=1e-4), "neither gaps nor margins"
    days = {str(f.relative_to(tmp_path / "out" / "picks")) for f in (tmp_path / "out").rglob("20*.parquet")}
    assert days == {f"XX.{s}/2021-03-0{d}.parquet" for s in ("AAA", "BBB") for d in (4, 5)}
    csv = pd.read_csv(tmp_path / "out" / "picks.csv")
    assert len(csv) == len(expected)


def test_nothing_is_done_twice_and_anything_new_is(ray_cluster, stream, picker, tmp_path, monkeypatch):
    stream = stream.select(station="BBB")
    root, out = in_pieces(stream, tmp_path / "archive"), tmp_path / "out"
    how = Picking(picker=picker)
    first = pick_archive((str(root),), str(out), how)
    before = content_of(out / "picks")
    assert (first["station_days"], first["skipped"]) == (2, 0)

    again = pick_archive((str(root),), str(out), how)
    assert (again["station_days"], again["skipped"]) == (0, 2)
    assert again["picks"] == first["picks"]
    assert content_of(out / "picks") == before

    last = max(root.iterdir(), key=lambda file: max(trace.stats.endtime for trace in obspy.read(file)))
    os.utime(last, ns=(1, 1))
    begins = min(trace.stats.starttime for trace in obspy.read(last))
    changed = pick_archive((str(root),), str(out), how)
    assert changed["station_days"] == (2 if begins - MARGIN_S < MIDNIGHT else 1)

    content = json.loads((Path(picker) / "config.json").read_text())
    stricter = shutil.copytree(picker, tmp_path / "stricter")
    content["run"]["calibration"]["p_threshold"] = 1.1
    (stricter / "config.json").write_text(json.dumps(content))
    told = pick_archive((str(root),), str(out), Picking(picker=str(stricter)))
    assert (told["station_days"], told["picks_P"]) == (2, 0)

    done, results = [], run._results

    def interrupted(*arguments):
        for one in results(*arguments):
            if done:
                raise KeyboardInterrupt
            done.append(one)
            yield one

    monkeypatch.setattr(run, "_results", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pick_archive((str(root),), str(out), how)
    monkeypatch.setattr(run, "_results", results)
    rest = pick_archive((str(root),), str(out), how)
    assert (rest["station_days"], rest["skipped"]) == (1, 1)
    assert rest["picks"] == first["picks"]


def test_a_damaged_file_gives_a_line_and_the_rest_is_picked(ray_cluster, noise, picker, tmp_path, caplog):
    short = noise(20, begin=MIDNIGHT - 10)
    root = sds(short + noise(20, begin=MIDNIGHT - 10, station="LOW", channels=("LHZ",), rate=1), tmp_path / "archive")
    bad = root / "2021" / "XX" / "AAA" / "HHE.D" / "XX.AAA..HHE.D.2021.063"
    bad.write_bytes(b"damaged" * 999)
    with caplog.at_level(logging.INFO):
        told = pick_archive((str(root),), str(tmp_path / "out"), Picking(picker=picker))
    assert told["failed"] == 0
    found = read_picks(str(tmp_path / "out"))
    assert set(found["station"]) == {"AAA"}
    assert len(found) > 2
    lines = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert [line for line in lines if str(bad) in line] == [
        f"XX.AAA, 2 days from 2021-03-04 to 2021-03-05: {bad}: Unknown format for file {bad}"
    ]
    assert [line for line in lines if "XX.LOW" in line] == [
        "XX.LOW, 2 days from 2021-03-04 to 2021-03-05: XX.LOW.: LHZ, none of the instruments " + ", ".join(INSTRUMENTS)
    ]
    assert len(lines) == 2


def test_a_day_that_fails_is_counted_and_others_are_picked(ray_cluster, noise, picker, tmp_path, monkeypatch, caplog):
    root, results = sds(noise(20, begin=MIDNIGHT - 10), tmp_path / "archive"), run._results

    def fails(*arguments):
        for day, result in results(*arguments):
            yield day, MemoryError("too\nlarge") if day.day.day == 4 else result

    monkeypatch.setattr(run, "_results", fails)
    told = pick_archive((str(root),), str(tmp_path / "out"), Picking(picker=picker))
    assert (told["failed"], told["station_days"]) == (1, 1)
    assert "XX.AAA 2021-03-04 failed: MemoryError: too" in caplog.text
    assert (read_picks(str(tmp_path / "out"))["peak_time"] >= pd.Timestamp("2021-03-05", tz="UTC")).all()
    monkeypatch.setattr(run, "_results", results)
    assert pick_archive((str(root),), str(tmp_path / "out"), Picking(picker=picker))["station_days"] == 1


def test_a_format_that_is_not_known_is_refused_before_anything_is_done(tmp_path):
    with pytest.raises(ValueError, match="--to xml: choose of"):
        pick_archive((str(tmp_path),), str(tmp_path / "out"), Picking(formats=("xml",)))
    assert not (tmp_path / "out").exists()


def day_of(root: Path, day: datetime.date, station: str = "AAA") -> StationDay:
    files = sorted(str(file) for file in root.rglob("*") if file.is_file())
    return StationDay("XX", station, day, tuple((file, 1, 1) for file in files))


def pick_day(day: StationDay, inventory=None) -> tuple[pd.DataFrame, dict]:
    trained = TrainedPicker("spikes", Spikes().eval(), Calibration())
    return run._Worker(trained, Picking(), inventory).pick(day, read_day(day, MARGIN_S, 256, INSTRUMENTS))


def test_picks_at_midnight_come_once(noise, tmp_path):
    stream, onsets = noise(400, begin=MIDNIGHT - 200), (-199, -0.99, -0.01, 0.0, 0.5, 199)
    for onset in onsets:
        stream[0].data[round((200 + onset) * 100)] = 10**6
    days = [datetime.date(2021, 3, 4), datetime.date(2021, 3, 5)]
    results = [pick_day(day_of(sds(stream, tmp_path / "sds"), day)) for day in days[:1]]
    results.append(pick_day(day_of(tmp_path / "sds", days[1])))
    found = pd.concat([table for table, _ in results])
    after = (found["peak_time"] - pd.Timestamp("2021-03-05", tz="UTC")).dt.total_seconds()
    # The two spikes beside each other, at -0.01 and 0 s, are one pick, whose first sample is the highest.
    assert after.round(6).tolist() == [-199, -0.99, -0.01, 0.5, 199]
    assert [len(table) for table, _ in results] == [3, 2]
    for table, told in results:
        assert told["picks"] == len(table)
        assert told["hours"] == pytest.approx(200 / 3600, abs=1e-6), "margins are no part of the day"
        assert table.index.tolist() == list(range(len(table)))


def test_files_that_hold_nothing_of_the_day_are_passed_over_without_a_line(noise, tmp_path):
    """Names of an SDS archive promise whole days."""
    root = sds(noise(20, begin=MIDNIGHT + 30_000) + noise(20, begin=MIDNIGHT - 30_000), tmp_path / "sds")
    records, why = read_day(day_of(root, datetime.date(2021, 3, 5)), MARGIN_S, 256, INSTRUMENTS)
    assert [len(one) for one in records] == [2000]
    assert why == []
    _, told = pick_day(day_of(root, datetime.date(2021, 3, 6)))
    assert (told["hours"], told["why"]) == (0, [])


def test_of_several_instruments_the_first_of_the_list_is_read_at_each_place(noise, tmp_path):
    channels = ("BHZ", "HHZ", "HNZ", "LHZ", "BDF")
    stream = noise(20, begin=MIDNIGHT, channels=channels) + noise(
        20, begin=MIDNIGHT, channels=("HNZ", "ehz"), location="10"
    )
    stream += noise(20, begin=MIDNIGHT, channels=("Z",), location="20")
    stream += noise(20, begin=MIDNIGHT, station="BBB")
    for k, trace in enumerate(stream):
        trace.write(str(tmp_path / f"{k}.mseed"), "MSEED")
    day = day_of(tmp_path, MIDNIGHT.date)
    read = {(one.location, one.instrument) for one in read_day(day, MARGIN_S, 256, INSTRUMENTS)[0]}
    assert read == {("", "HH"), ("10", "EH"), ("20", "")}
    records, why = read_day(day, MARGIN_S, 256, ("HN", "BH"))
    assert {(one.location, one.instrument) for one in records} == {("", "HN"), ("10", "HN"), ("20", "")}
    assert why == []
    records, why = read_day(day, MARGIN_S, 256, ("EH",))
    assert {(one.location, one.instrument) for one in records} == {("10", "EH"), ("20", "")}
    assert why == ["XX.AAA.: BDF, BHZ, HHZ, HNZ, LHZ, none of the instruments EH"]


def test_amplitudes_are_in_m_per_s_where_the_inventory_knows_the_channel(noise, tmp_path, monkeypatch):
    stream = noise(60, begin=MIDNIGHT) + noise(60, begin=MIDNIGHT, location="10")
    for trace in stream:
        trace.data = trace.data * 0 + (np.arange(6000) == 3000) * 10**6
    asked = []

    def known(inventory, seed_id, moment):
        asked.append((inventory, seed_id, moment.date))
        return 4e8 if ".10." in seed_id else None

    monkeypatch.setattr(run, "counts_per_m_s", known)
    table, _ = pick_day(day_of(sds(stream, tmp_path / "sds"), MIDNIGHT.date), inventory="inventory")
    table = table[table["phase"] == "P"]
    assert table["amplitude_unit"].tolist() == ["counts", "m/s"]
    assert table["amplitude"].iloc[0] / table["amplitude"].iloc[1] == pytest.approx(4e8)
    assert {seed_id for _, seed_id, _ in asked} == {"XX.AAA..HHZ", "XX.AAA.10.HHZ"}
    assert {moment for _, _, moment in asked} == {MIDNIGHT.date}


def test_the_mark_of_a_picker_is_that_of_all_that_decides_its_picks(tiny, tmp_path):
    picker = TrainedPicker("m", tiny, Calibration())
    (tmp_path / "a.xml").write_text("a")
    (tmp_path / "b.xml").write_text("b")
    other = tiny.__class__(dataclasses.replace(MODEL, highpass_hz=2.0), tiny.head_config)
    other.load_state_dict(tiny.state_dict())
    weights = tiny.__class__(MODEL, tiny.head_config)
    marks = [
        run._common_mark(picker, Picking()),
        run._common_mark(dataclasses.replace(picker, calibration=Calibration(s_threshold=0.2)), Picking()),
        run._common_mark(dataclasses.replace(picker, network=other.eval()), Picking()),
        run._common_mark(dataclasses.replace(picker, network=weights), Picking()),
        run._common_mark(picker, Picking(instruments=("HH",))),
        run._common_mark(picker, Picking(stations=str(tmp_path / "a.xml"))),
        run._common_mark(picker, Picking(stations=str(tmp_path / "b.xml"))),
    ]
    assert len(set(marks)) == len(marks)
    assert run._common_mark(picker, Picking(formats=("csv", "gamma"))) == marks[0]


def test_tables_keep_their_types_in_parquet(tiny, often, noise):
    table = Picker.of(tiny, often).table(noise(20))
    assert len(table) > 2
    for some in (table, table.iloc[:0]):
        back = in_order(pd.read_parquet(pd.io.common.BytesIO(run._as_parquet(some, {"mark": "x"}))))
        pd.testing.assert_frame_equal(back, some)
        assert list(back) == list(COLUMNS)
