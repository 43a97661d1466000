"""Events in two splits or two data sets are found, by identifier and by origin, and left out when asked."""

import logging

import numpy as np
import pyarrow as pa
import pytest

from raysys.config import DataConfig
from raysys.data import leakage
from raysys.data.corpus import LEAKED, load_corpus
from raysys.data.leakage import leak_report, leaks
from raysys.data.quality import quality_report, quality_table
from tests.data.conftest import write_set


def corpus(*rows: tuple) -> pa.Table:
    """Rows of (dataset, split, event, origin time, latitude, longitude)."""
    names = ("dataset", "split", "event", "origin_time", "latitude", "longitude")
    types = (pa.string(),) * 4 + (pa.float64(),) * 2
    columns = zip(*rows, strict=True)
    table = pa.table({n: pa.array(c, t) for n, t, c in zip(names, types, columns, strict=True)})
    return table.append_column("more_events", pa.array([[]] * len(table), pa.list_(pa.string())))


def test_an_event_is_recognised_by_its_identifier_within_a_data_set():
    leaking, table = leaks(
        corpus(
            ("A", "train", "1", "", np.nan, np.nan),
            ("A", "test", "1", "", np.nan, np.nan),
            ("A", "train", "2", "", np.nan, np.nan),
            ("A", "train", "", "", np.nan, np.nan),
            ("A", "dev", "", "", np.nan, np.nan),
        )
    )
    assert leaking.tolist() == [True, False, False, False, False], "traces without an event are nobody's"
    assert [(x.train, x.evaluation, x.events, x.traces) for x in table] == [("A", "A", 1, 1)]


def test_an_event_is_recognised_by_its_origin_across_data_sets():
    leaking, table = leaks(
        corpus(
            ("A", "train", "a1", "2014-04-01T23:46:47.20Z", -19.61, -70.77),
            ("A", "train", "a1", "2014-04-01T23:46:47.20Z", -19.61, -70.77),
            ("A", "train", "a2", "2014-04-01T23:46:52.90Z", -19.61, -70.77),  # 5.1 s later
            ("A", "train", "a3", "2014-04-01T23:46:50.00Z", -20.20, -70.77),  # 66 km away
            ("A", "train", "a4", "2014-04-01T23:46:50.00Z", -19.90, 289.23),  # 32 km, the same meridian
            ("B", "test", "b1", "2014-04-01 23:46:47.8", -19.60, -70.80),
        )
    )
    assert leaking.tolist() == [True, True, False, False, True, False]
    assert [(x.train, x.evaluation, x.events, x.traces) for x in table] == [("A", "B", 2, 3)]


def test_equal_identifiers_of_two_catalogues_are_not_enough_when_the_times_differ():
    rows = [("A", "train", "17", "2014-04-01T00:00:00", 1.0, 1.0), ("B", "test", "17", "2015-04-01T00:00:00", 1.0, 1.0)]
    assert not leaks(corpus(*rows))[0].any()
    rows[1] = ("B", "test", "17", "2014-04-01T00:00:30", 5.0, 5.0)
    assert leaks(corpus(*rows))[0].tolist() == [True, False], "the same identifier, half a minute apart: one event"


def test_two_events_of_a_dense_swarm_are_in_the_same_records():
    """3 s apart, in one catalogue or in two: a record of one holds the other, whatever they are called."""
    rows = [("A", "train", "1", "2014-04-01T00:00:00", 1.0, 1.0), ("A", "test", "2", "2014-04-01T00:00:03", 1.0, 1.0)]
    assert leaks(corpus(*rows))[0].tolist() == [True, False]
    rows[1] = ("B", *rows[1][1:])
    assert leaks(corpus(*rows))[0].tolist() == [True, False]


def test_the_origin_of_an_event_is_that_of_any_of_its_rows():
    rows = [("A", "train", "1", "", np.nan, np.nan), ("A", "train", "1", "2014-04-01T00:00:00", 1.0, 1.0)]
    rows.append(("B", "test", "x", "2014-04-01T00:00:01", 1.0, 1.0))
    assert leaks(corpus(*rows))[0].tolist() == [True, True, False]


def test_every_event_of_a_trace_counts():
    """A record of two earthquakes, the second of which is evaluated."""
    rows = [("A", "train", "1", "2014-04-01T00:00:00", 1.0, 1.0), ("A", "test", "2", "2014-04-01T00:01:00", 1.0, 1.0)]
    table = corpus(*rows)
    assert not leaks(table)[0].any()
    more = pa.array([["2", "3"], []], pa.list_(pa.string()))
    leaking, found = leaks(table.set_column(table.schema.names.index("more_events"), "more_events", more))
    assert leaking.tolist() == [True, False]
    assert [(one.events, one.traces) for one in found] == [(1, 1)]


def moved(seconds=0.0, latitude=0.0, longitude=0.0, of=(0.0, 0.0)) -> list[tuple]:
    """Two origins in two data sets; `of` is where the first lies."""
    stamp = str(np.datetime64("2014-04-01T12:00:00.000") + np.timedelta64(round(1000 * seconds), "ms"))
    return [
        ("A", "train", "", "2014-04-01T12:00:00.000", *of),
        ("B", "dev", "", stamp, of[0] + latitude, of[1] + longitude),
    ]


@pytest.mark.parametrize(
    ("rows", "same"),
    [
        (moved(4.9), True),
        (moved(-4.9), True),
        (moved(5.1), False),
        (moved(-5.1), False),
        (moved(latitude=0.449), True),  # 49.93 km
        (moved(latitude=-0.450), False),  # 50.04 km
        (moved(longitude=0.449), True),
        (moved(longitude=0.450), False),
        (moved(longitude=-0.899, of=(60, 10)), True),  # half as long a degree
        (moved(longitude=-0.901, of=(60, 10)), False),
        (moved(longitude=-359.8, of=(-10, 179.9)), True),
        (moved(latitude=0.2, longitude=180, of=(89.9, 0)), True),  # over the pole
        (moved(latitude=np.nan), False),
        (moved(longitude=np.nan), False),
    ],
)
def test_origins_are_one_event_within_five_seconds_and_fifty_kilometres(rows, same):
    assert leaks(corpus(*rows))[0].tolist() == [same, False]


def test_the_tolerances_of_an_audit_are_those_asked_for():
    assert leaks(corpus(*moved(8, latitude=0.7)), time_s=10, distance_km=80)[0].any()
    assert not leaks(corpus(*moved(8, latitude=0.7)), time_s=7, distance_km=80)[0].any()
    assert not leaks(corpus(*moved(8, latitude=0.7)), time_s=10, distance_km=70)[0].any()


@pytest.mark.parametrize(
    ("evaluation", "time", "same"),
    [
        ("B", "12:00:59", True),
        ("B", "11:59:01", True),
        ("B", "12:01:01", False),
        ("B", "11:58:59", False),
        ("B", "", True),
        ("A", "13:00:00", True),
    ],
)
def test_one_identifier_is_one_event_within_a_minute_or_a_data_set(evaluation, time, same):
    """A data set knows its own events; another may only count alike."""
    rows = [
        ("A", "train", "7", "2014-04-01T12:00:00", 0, 0),
        (evaluation, "dev", "7", f"2014-04-01T{time}" if time else "", 9, 9),
    ]
    assert leaks(corpus(*rows))[0].tolist() == [same, False]


def test_a_table_of_leaks_counts_events_and_training_traces_by_pair_of_data_sets():
    place = (1.0, 2.0)
    rows = [
        ("B", "test", "q", "2014-04-01T00:00:01", *place),
        *[("A", "train", "x", "2014-04-01T00:00:00", *place)] * 3,
        ("C", "dev", "r", "2014-04-01T00:00:02", *place),
        *[("A", "train", "", "2014-04-03T00:00:00", *place)] * 2,  # no identifier: one event by its origin
        ("C", "test", "s", "2014-04-03T00:00:00", *place),
        ("C", "dev", "s", "2014-04-03T00:00:00", *place),
        ("B", "train", "q", "2014-04-01T00:00:01", *place),
        ("B", "train", "z", "2014-04-09T00:00:00", *place),
        ("C", "train", "", "", *place),
        ("C", "test", "", "", *place),
        (
            "B",
            "dev",
            "p",
            "2014-04-01T00:00:03",
            *place,
        ),  # a second event of B that may be x is one more pair, no more traces
        ("A", "train", "", "2014-04-05T00:00:00", *place),
    ]
    leaking, table = leaks(corpus(*rows))
    assert np.flatnonzero(leaking).tolist() == [1, 2, 3, 5, 6, 9]
    assert {(x.train, x.evaluation): (x.events, x.traces) for x in table} == {
        ("A", "B"): (1, 3),
        ("A", "C"): (2, 5),
        ("B", "B"): (1, 1),
        ("B", "C"): (1, 1),
    }


@pytest.mark.parametrize("pairs", [4_000_000, 40, 1])
def test_the_audit_equals_a_comparison_of_all_pairs(monkeypatch, pairs):
    """However many candidate pairs are compared at a time."""
    monkeypatch.setattr(leakage, "_PAIRS", pairs)
    rng = np.random.default_rng(0)
    n = 400
    seconds = rng.uniform(0, 4000, n)
    stamp = [f"2014-04-01T{int(s) // 3600:02d}:{int(s) // 60 % 60:02d}:{s % 60:09.6f}" for s in seconds]
    latitude, longitude = rng.uniform(0, 1, n), rng.uniform(0, 1, n)
    name, split = rng.choice(["A", "B", "C"], n), rng.choice(["train", "dev", "test"], n, p=[0.6, 0.2, 0.2])
    event = rng.integers(0, 300, n).astype(str)
    got, _ = leaks(corpus(*zip(name, split, event, stamp, latitude, longitude, strict=True)))
    first = {key: i for i, key in reversed(list(enumerate(zip(name, split == "train", event, strict=True))))}
    i = np.array([first[key] for key in zip(name, split == "train", event, strict=True)])  # an event has one origin
    x, y, t = np.radians(longitude[i]), np.radians(latitude[i]), np.round(seconds[i], 6)
    h = np.sin((y[:, None] - y) / 2) ** 2 + np.cos(y[:, None]) * np.cos(y) * np.sin((x[:, None] - x) / 2) ** 2
    apart = np.abs(t[:, None] - t)
    same_set, same_id = name[:, None] == name, event[:, None] == event
    near = (apart <= 5) & (2 * 6371 * np.arcsin(np.sqrt(h)) <= 50)
    pair = (same_id & (same_set | (apart <= 60))) | near
    expected = (split == "train") & (pair & (split != "train")).any(axis=1)
    np.testing.assert_array_equal(got, expected)
    assert 50 < expected.sum() < (split == "train").sum()


@pytest.mark.parametrize("exclude", [False, True])
def test_a_corpus_tells_its_leaks_and_leaves_them_out_when_asked(tmp_path, caplog, exclude):
    caplog.set_level(logging.INFO)
    waveforms = [np.random.default_rng(i).standard_normal((3, 900)).astype(np.float32) for i in range(4)]
    origin = ["2014-04-01T00:00:00Z", "2014-04-02T00:00:00Z", "2014-04-03T00:00:00Z", "2014-04-04T00:00:00Z"]
    for name, split, shift in (("one", ["train"] * 3 + ["dev"], 0), ("two", ["train", "test", "train", "train"], 1)):
        columns = {
            "split": split,
            "source_id": [f"{name}{i}" for i in range(4)],
            "source_origin_time": [t.replace("00Z", f"0{shift}Z") for t in origin],
            "source_latitude_deg": [10.0] * 4,
            "source_longitude_deg": [20.0] * 4,
        }
        write_set(tmp_path / "data" / name, waveforms, columns=columns)
    config = DataConfig(
        root=str(tmp_path / "data"), datasets=("all",), cache=str(tmp_path / "cache"), exclude_leaks=exclude
    )
    table = load_corpus(config)
    assert "one train, two dev/test: 1 events, 1 training traces" in caplog.text
    assert {(x["train"], x["evaluation"]): x["traces"] for x in leak_report(table)} == {
        ("one", "two"): 1,
        ("two", "one"): 1,
    }
    kept = list(zip(table["dataset"].to_pylist(), table["event"].to_pylist(), strict=True))
    assert len(kept) == (6 if exclude else 8)
    assert (("one", "one1") in kept, ("two", "two3") in kept) == ((False, False) if exclude else (True, True))
    rows = quality_report(table)
    assert [row["left_out"] for row in rows] == ([{LEAKED: 1}] * 2 if exclude else [{}, {}])
    if exclude:
        assert quality_table(rows).splitlines()[1].split() == ["one", "3", "-1"]
