"""Every file of picks is read back by the program that it is for."""

import io
import warnings
from datetime import datetime
from fnmatch import fnmatchcase

import numpy as np
import pandas as pd
import pytest
from obspy import UTCDateTime, read_events
from obspy.core.event import Catalog
from obspy.geodetics import gps2dist_azimuth
from obspy.io.quakeml.core import _validate

from raysys.location import Location
from raysys.picking import formats
from raysys.picking.formats import COLUMNS, FORMATS, write_picks
from raysys.picking.stations import station_ids

P_KM_S, S_KM_S = 6.0, 3.5
EVENTS = ((0.0, 46.0, 8.0, 8.0), (100.0, 46.2, 8.25, 12.0), (230.0, 45.85, 7.8, 5.0))
"""Origin time in s, latitude, longitude, depth in km."""
NO_PYOCTO = (
    "under Python 3.11 pyocto asks for numpy below 2, but runs with 2.4: pip install --no-deps pyocto==0.2.2 pyproj"
)
HEADERS = {
    "csv": ",".join(COLUMNS),
    "phasenet": "file_name,begin_time,station_id,phase_index,phase_time,phase_score,phase_amp,phase_type",
    "gamma": "id,timestamp,type,prob,amp",
    "pyocto": "station,time,phase,probability",
    "seisbench": "station,time,start_time,end_time,probability,phase,polarity,polarity_probability",
}


@pytest.fixture(scope="module")
def stations() -> pd.DataFrame:
    """Eight around 46 N, 8 E; half of them with a location code, the others serve all."""
    angle = np.arange(8) * np.pi / 4
    return pd.DataFrame(
        {
            "network": "NA",
            "station": [f"00{k}" for k in range(8)],
            "location": ["00", ""] * 4,
            "latitude": 46 + 0.3 * np.sin(angle) + 0.02 * np.arange(8),
            "longitude": 8 + 0.4 * np.cos(angle),
            "elevation_m": np.linspace(200, 2500, 8),
        }
    )


@pytest.fixture(scope="module")
def picks(stations) -> pd.DataFrame:
    """P and S of three events at all stations: straight rays through rock of one velocity."""
    rng = np.random.default_rng(0)
    start, rows = pd.Timestamp("2020-10-01T23:58:00.123456", tz="UTC"), []
    for seconds, latitude, longitude, depth in EVENTS:
        for s in stations.itertuples():
            across = gps2dist_azimuth(latitude, longitude, s.latitude, s.longitude)[0] / 1000
            way = np.hypot(across, depth + s.elevation_m / 1000)
            for phase, speed in (("P", P_KM_S), ("S", S_KM_S)):
                onset = start + pd.Timedelta(seconds=round(seconds + way / speed, 6))
                codes = (s.network, s.station, s.location or "10", "HH", phase)
                times = (onset, onset - pd.Timedelta("0.1s"), onset + pd.Timedelta("0.25s"))
                sizes = (rng.uniform(0.3, 1), rng.uniform(0.02, 0.1), rng.uniform(1e-6, 1e-4), "m/s", rng.normal())
                rows.append((*codes, *times, *sizes, "our picker/2"))
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return table.sort_values(["network", "station", "location", "peak_time", "phase"], ignore_index=True)


def read(file: Location, **how) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(file.read()), float_precision="round_trip", **how)


def naive(times: pd.Series) -> pd.Series:
    return times.dt.tz_localize(None)


def test_csv_is_the_table_itself(picks, tmp_path):
    (file,) = write_picks(picks.assign(more=1), "csv", tmp_path / "made")
    assert file == Location(tmp_path / "made" / "picks.csv")
    codes = dict.fromkeys(list(COLUMNS)[:5], str)
    found = read(file, dtype=codes, keep_default_na=False, parse_dates=["peak_time", "start_time", "end_time"])
    pd.testing.assert_frame_equal(found, picks, check_dtype=False)
    assert str(found["peak_time"].dt.tz) == "UTC"
    assert b",2020-10-01T23:58:0" in file.read()


def test_quakeml_is_read_back_by_obspy(picks, tmp_path):
    picks = picks.assign(time_uncertainty_s=picks["time_uncertainty_s"].where(picks.index != 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        (file,) = write_picks(picks, "quakeml", tmp_path)
        first = file.read()
        write_picks(picks, "quakeml", tmp_path)
    assert file.read() == first
    assert file.name == "picks.xml"
    assert _validate(io.BytesIO(first))
    events = read_events(io.BytesIO(first))
    assert len(events) == len(picks)
    assert len({str(event.resource_id) for event in events}) == len(picks)
    for event, row in zip(events, picks.itertuples(), strict=True):
        (pick,) = event.picks
        assert pick.time == UTCDateTime(row.peak_time.isoformat())
        assert pick.phase_hint == row.phase
        assert pick.evaluation_mode == "automatic"
        assert pick.waveform_id.get_seed_string() == f"NA.{row.station}.{row.location}.HH"
        assert str(pick.method_id) == "smi:local/raysys/our_picker_2"
        (comment,) = pick.comments
        name, value = comment.text.split("=")
        assert (name, float(value)) == ("probability", row.probability)
        known = pick.time_errors.uncertainty
        assert (known is None) if row.Index == 1 else known == pytest.approx(row.time_uncertainty_s)


def test_many_picks_in_quakeml_are_warned_about_in_one_line(picks, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(formats, "MANY", len(picks))
    write_picks(picks, "quakeml", tmp_path)
    assert not caplog.messages
    monkeypatch.setattr(formats, "MANY", len(picks) - 1)
    write_picks(picks, "quakeml", tmp_path)
    (line,) = caplog.messages
    assert f"{len(picks)} picks make a QuakeML file" in line


def test_phasenet_counts_samples_from_midnight(picks, tmp_path):
    (file,) = write_picks(picks, "phasenet", tmp_path)
    found = read(file, parse_dates=["begin_time", "phase_time"])
    assert ",".join(found.columns) == HEADERS["phasenet"]
    assert found["station_id"].tolist() == [
        f"NA.{s}.{c}.HH" for s, c in zip(picks.station, picks.location, strict=True)
    ]
    assert (found["phase_time"] == naive(picks["peak_time"])).all()
    assert set(found["begin_time"]) == {pd.Timestamp("2020-10-01"), pd.Timestamp("2020-10-02")}
    again = found["begin_time"] + pd.to_timedelta(found["phase_index"] / 100, unit="s")
    assert ((again - found["phase_time"]).abs() <= pd.Timedelta("5ms")).all()
    assert fnmatchcase("NA.000.00.HHZ.D.2020.275", found["file_name"][0])
    assert found["file_name"].iloc[-1] == "NA.007.10.HH*.D.2020.276"
    assert found["phase_type"].tolist() == picks["phase"].tolist()
    assert found["phase_score"].tolist() == picks["probability"].tolist()
    assert found["phase_amp"].tolist() == picks["amplitude"].tolist()


def test_gamma_takes_times_types_and_amplitudes_as_they_are(picks, tmp_path):
    """The steps are those of `convert_picks_csv` in gamma/utils.py."""
    (file,) = write_picks(picks, "gamma", tmp_path)
    found = read(file)
    assert ",".join(found.columns) == HEADERS["gamma"]
    times = [pd.Timestamp(datetime.fromisoformat(text)) for text in found["timestamp"]]
    assert all(time.tzinfo is None for time in times)
    assert [time.tz_localize("UTC") for time in times] == picks["peak_time"].tolist()
    assert found["type"].tolist() == [phase.lower() for phase in picks["phase"]]
    assert found["prob"].tolist() == picks["probability"].tolist()
    assert found["amp"].tolist() == picks["amplitude"].tolist()
    assert found["id"].tolist() == station_ids(picks).tolist()


@pytest.mark.parametrize(("to", "column"), [("gamma", "amp"), ("phasenet", "phase_amp")])
def test_amplitudes_in_counts_become_no_magnitudes(picks, tmp_path, caplog, to, column):
    some = picks.assign(amplitude_unit=["counts", "counts", *picks["amplitude_unit"][2:]])
    some.loc[1, "amplitude"] = np.nan
    (file,) = write_picks(some, to, tmp_path)
    assert read(file)[column].isna().tolist() == [True, True, *[False] * (len(picks) - 2)]
    (line,) = caplog.messages
    assert "amplitudes of 1 picks are left out" in line


def test_stations_of_gamma_are_those_of_the_picks(picks, stations, tmp_path):
    """GaMMA merges them so, and leaves out picks beside an empty cell."""
    made = write_picks(picks, "gamma", tmp_path, stations)
    assert [file.name for file in made] == ["picks_gamma.csv", "stations_gamma.csv"]
    found = read(made[1])
    assert found.columns.tolist() == ["id", "x(km)", "y(km)", "z(km)"]
    meta = found.merge(read(made[0])["id"], how="right", on="id", validate="one_to_many")
    assert not meta.isna().to_numpy().any()
    assert len(meta) == len(picks)
    assert found["z(km)"][0] == -0.2
    here = stations.set_index("station").loc[["000", "003"]]
    x, y = (found.set_index("id").loc[["NA.000.00", "NA.003.10"], name].to_numpy() for name in ("x(km)", "y(km)"))
    exact = gps2dist_azimuth(*here.iloc[0, 2:4], *here.iloc[1, 2:4])[0] / 1000
    assert np.hypot(*np.diff([x, y])) == pytest.approx(exact, rel=2e-4)
    assert x[0] > x[1]
    assert y[0] < y[1]


def test_seisbench_has_the_table_of_its_own_pick_list(picks, tmp_path):
    from seisbench.util import Pick, PickList

    (file,) = write_picks(picks, "seisbench", tmp_path)
    found = read(file, parse_dates=["time", "start_time", "end_time"])
    assert ",".join(found.columns) == HEADERS["seisbench"]
    made = PickList(
        Pick(
            trace_id,
            *(UTCDateTime(t.isoformat()) for t in (row.start_time, row.end_time, row.peak_time)),
            row.probability,
            row.phase,
        )
        for trace_id, row in zip(station_ids(picks), picks.itertuples(), strict=True)
    )
    own = made.to_dataframe().drop(columns="index")
    assert own.columns.tolist() == found.columns.tolist()
    text = ["polarity", "polarity_probability"]
    pd.testing.assert_frame_equal(found.drop(columns=text), own.drop(columns=text), check_dtype=False)
    assert found[text].isna().all(axis=None)
    assert own[text].isna().all(axis=None)
    again = PickList(
        Pick(row.station, *map(UTCDateTime, (row.start_time, row.end_time, row.time)), row.probability, row.phase)
        for row in found.itertuples()
    )
    pd.testing.assert_frame_equal(again.to_dataframe().drop(columns="index"), own)


def test_pyocto_has_seconds_since_1970(picks, stations, tmp_path):
    made = write_picks(picks, "pyocto", tmp_path, stations)
    assert [file.name for file in made] == ["picks_pyocto.csv", "stations_pyocto.csv"]
    found, places = read(made[0]), read(made[1])
    assert ",".join(found.columns) == HEADERS["pyocto"]
    micro = pd.to_datetime((found["time"] * 1e6).round().astype(np.int64), unit="us")
    assert (micro == naive(picks["peak_time"])).all()
    assert found["phase"].tolist() == picks["phase"].tolist()
    assert found["station"].tolist() == station_ids(picks).tolist()
    assert places.columns.tolist() == ["id", "longitude", "latitude", "elevation"]
    assert set(found["station"]) <= set(places["id"])
    assert places["id"].is_unique
    kept = places.set_index("id").loc["NA.007.10", ["latitude", "longitude", "elevation"]]
    assert kept.tolist() == pytest.approx(stations.iloc[7, 3:].astype(float).tolist())


@pytest.mark.parametrize("way", ["pyocto", "gamma", "seisbench"])
def test_pyocto_finds_the_three_events(picks, stations, tmp_path, way):
    pyocto = pytest.importorskip("pyocto", reason=NO_PYOCTO)
    places = read(write_picks(picks, "pyocto", tmp_path, stations)[1])
    rock = pyocto.VelocityModel0D(P_KM_S, S_KM_S, tolerance=1.0)
    associator = pyocto.OctoAssociator.from_area((45.3, 46.7), (7, 9), (0, 30), rock, time_before=60, n_threads=1)
    places = associator.transform_stations(places)
    if way == "pyocto":
        events, members = associator.associate(read(write_picks(picks, way, tmp_path)[0]), places)
    elif way == "seisbench":
        from seisbench.util import Pick, PickList

        table = read(write_picks(picks, way, tmp_path)[0])
        times = (table[name].map(UTCDateTime) for name in ("start_time", "end_time", "time"))
        columns = zip(table["station"], *times, table["probability"], table["phase"], strict=True)
        events, members = associator.associate_seisbench(PickList(Pick(*row) for row in columns), places)
    else:
        files = write_picks(picks, way, tmp_path, stations)
        associator = pyocto.OctoAssociator((-60, 60), (-60, 60), (0, 30), rock, time_before=60, n_threads=1)
        heights = read(files[1]).assign(**{"z(km)": lambda table: -table["z(km)"]})
        events, members = associator.associate_gamma(read(files[0], parse_dates=["timestamp"]), heights)
    start = pd.Timestamp("2020-10-01T23:58:00.123456", tz="UTC").timestamp()
    assert (events["time"] - start).tolist() == pytest.approx([seconds for seconds, *_ in EVENTS], abs=0.5)
    assert events["picks"].tolist() == [16, 16, 16]
    assert members["residual"].abs().max() < 0.5
    if way != "gamma":
        found = associator.transform_events(events)[["latitude", "longitude", "depth"]].to_numpy()
        assert np.abs(found[:, :2] - np.array(EVENTS)[:, 1:3]).max() < 0.03


def test_ids_that_no_station_has_are_named(picks, stations, tmp_path, caplog):
    known = stations[stations["station"] != "000"]
    for to in ("gamma", "pyocto"):
        caplog.clear()
        write_picks(picks, to, tmp_path, known)
        (line,) = caplog.messages
        assert line.startswith(f"picks_{to}.csv: NA.000.00 is not among the stations: did you mean NA.0")


@pytest.mark.parametrize("to", FORMATS)
def test_no_picks_make_a_header_or_an_empty_catalogue(picks, stations, tmp_path, to):
    for place, nothing in (("typed", picks[:0]), ("bare", pd.DataFrame(columns=list(COLUMNS)))):
        file, *others = write_picks(nothing, to, tmp_path / place, stations)
        if to == "quakeml":
            assert read_events(io.BytesIO(file.read())) == Catalog(resource_id="smi:local/raysys/picks")
        else:
            assert file.read().decode() == HEADERS[to] + "\n"
        assert all(len(read(other)) == 8 for other in others)


@pytest.mark.parametrize("to", FORMATS)
def test_times_and_codes_of_other_types_make_the_same_file(picks, tmp_path, to):
    times = ("peak_time", "start_time", "end_time")
    stored = io.BytesIO(picks.to_parquet(index=False))
    others = {
        "parquet": pd.read_parquet(stored),
        "microseconds": picks.astype(dict.fromkeys(times, "datetime64[us, UTC]")),
        "zone": picks.assign(**{name: picks[name].dt.tz_convert("Asia/Tokyo") for name in times}),
        "naive": picks.assign(**{name: naive(picks[name]) for name in times}),
        "nanoseconds": picks.assign(**{name: picks[name] + pd.Timedelta("400ns") for name in times}),
        "categories": picks.astype(dict.fromkeys(("network", "station", "location", "phase"), "category")),
        "rows": picks.set_axis(range(7, 7 + len(picks))),
    }
    wanted = write_picks(picks, to, tmp_path)[0].read()
    for name, other in others.items():
        assert write_picks(other, to, tmp_path / name)[0].read() == wanted, name


def test_files_are_written_behind_a_url(picks, stations):
    made = write_picks(picks, "pyocto", "memory://picking/made", stations)
    assert [str(file) for file in made] == [f"memory://picking/made/{n}_pyocto.csv" for n in ("picks", "stations")]
    assert all(file.exists() for file in made)


def test_what_cannot_be_written_says_what_is_wrong(picks, tmp_path):
    with pytest.raises(ValueError, match="unknown format of picks 'quakelm', did you mean 'quakeml'"):
        write_picks(picks, "quakelm", tmp_path)
    with pytest.raises(ValueError, match="no column peak_time, model"):
        write_picks(picks.drop(columns=["peak_time", "model"]), "csv", tmp_path)
    assert not list(tmp_path.iterdir())
