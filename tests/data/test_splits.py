"""Splits that are given, that follow from an event, and that are drawn."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest

from raysys.data.metadata import read_metadata
from raysys.data.splits import assign_missing_split, read_splits
from raysys.location import Location


def traces_without_split(more: list | None = None, **columns: list) -> pa.Table:
    n = len(next(iter(columns.values())))
    empty = {"split": [""] * n, "event": [""] * n, "station": [""] * n, "start_time": [""] * n}
    names = {"trace_name": [f"t{i}" for i in range(n)]}
    table = pa.table({name: pa.array(values, pa.string()) for name, values in (empty | names | columns).items()})
    more = pa.array(more or [[]] * n, pa.list_(pa.string()))
    return table.append_column("more_events", more)


def splits_of(table: pa.Table, name="set", seed=0) -> list[str]:
    return assign_missing_split(table, name, seed)[0]["split"].to_pylist()


def drawn(key: str) -> str:
    """The split of a key, worked out by hand: training below 0.6 of the range of the hash, then dev up to 0.7."""
    draw = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest(), "big") / 2**32
    return "train" if draw < 0.6 else "dev" if draw < 0.7 else "test"


def test_a_split_is_drawn_by_event_or_day_and_station_or_station_or_name():
    rows = {
        "event": ["e1", "e1", "e2", "", "", "", "", ""] * 8,
        "station": ["GE.A", "GE.B", "", "GE.A", "GE.A", "GE.B", "GE.B", ""] * 8,
        "start_time": ["2010-01-01T00", "", "2010-01-02T00", "2010-01-01T05", "2010-01-01T23", "", "2011", ""] * 8,
    }
    rows = {key: [f"{v}{i // 8}" if key == "event" and v else v for i, v in enumerate(vs)] for key, vs in rows.items()}
    table = traces_without_split(**rows)
    for name, seed in (("set", 0), ("set", 3), ("other", 3)):
        keys = [
            event or (f"{station}/{time[:10]}" if time else station or trace)
            for event, station, time, trace in zip(*(table[c].to_pylist() for c in [*rows, "trace_name"]), strict=True)
        ]
        assert splits_of(table, name, seed) == [drawn(f"{seed}/{name}/{key}") for key in keys]
    assert splits_of(table, "set", 0) != splits_of(table, "set", 3), "another seed, another split"
    assert splits_of(table, "set", 3) != splits_of(table, "other", 3), "two sets that count their events alike"


def test_six_traces_in_ten_are_for_training_one_for_validation_and_three_for_testing():
    got = splits_of(traces_without_split(event=[str(i) for i in range(8000)]))
    share = [got.count(split) / len(got) for split in ("train", "dev", "test")]
    np.testing.assert_allclose(share, [0.6, 0.1, 0.3], atol=0.015)


def test_a_split_that_is_given_stays_whatever_the_seed():
    given = ["train", "dev", "test", "", ""] * 20
    table = traces_without_split(split=given)
    for seed in (0, 1):
        got = splits_of(table, seed=seed)
        assert [s for s, g in zip(got, given, strict=True) if g in ("train", "dev", "test")] == given[:3] * 20
        assert set(got) == {"train", "dev", "test"}


def test_a_record_that_was_added_later_is_in_the_split_of_its_event():
    given = ["train", "", "dev", "", "test", "", "", "train", "dev", ""]
    event = ["a", "a", "b", "b", "c", "c", "new", "d", "d", "d"]
    table, drawn = assign_missing_split(traces_without_split(split=given, event=event), "set", 0)
    got = table["split"].to_pylist()
    assert got[:6] == ["train", "train", "dev", "dev", "test", "test"]
    assert got[6] == splits_of(traces_without_split(event=["new"]))[0]
    assert got[7:] == ["train", "dev", "dev"], "an event in two splits: what is evaluated is not trained on once more"
    assert drawn == 1


def test_noise_that_was_added_later_is_in_the_split_of_its_day_and_station():
    columns = {
        "station": ["A", "A", "A", "B"],
        "start_time": ["2020-01-01T05:00:00", "2020-01-01T23:00:00Z"] + ["2020-01-02T00"] * 2,
    }
    for split in ("train", "dev", "test"):
        table = traces_without_split(split=[split, "", "", ""], **columns)
        assert splits_of(table)[1] == split
        assert splits_of(table)[2:] == splits_of(traces_without_split(**columns))[2:]
    table = traces_without_split(split=["test"] + [""] * 30, station=["A"] * 31)
    assert set(splits_of(table)[1:]) == {drawn("0/set/A")}, "all records of a station are no block"


def test_a_day_is_the_same_in_every_form():
    times = ["2020-01-01T21:00:03Z", "20200101T210003", "2020/01/01 03:00:00", "2020-01-02T06:00:03+09:00"]
    for i in range(20):
        table = traces_without_split(station=[str(i)] * 4, start_time=times)
        assert splits_of(table) == [drawn(f"0/set/{i}/2020-01-01")] * 4


def test_events_that_share_a_trace_draw_as_one():
    event, more = [f"{k}{i}" for i in range(30) for k in "abcd"], [["b"], ["c"], [], []] * 30
    more = [[f"{one}{i // 4}" for one in ones] for i, ones in enumerate(more)]
    got = np.array(splits_of(traces_without_split(event=event, more=more))).reshape(30, 4)
    assert (got[:, :3] == got[:, :1]).all()
    assert (got[:, 3] != got[:, 0]).any()


@pytest.mark.parametrize(
    ("cell", "split"),
    [
        ("val", "dev"),
        ("Validation", "dev"),
        ("valid", "dev"),
        (" development ", "dev"),
        ("Train", "train"),
        ("TRAINING", "train"),
        ("testing", "test"),
        ("", ""),
        ("NA", ""),
        ("None", ""),
    ],
)
def test_a_split_has_its_common_names(tmp_path, cell, split):
    (tmp_path / "metadata.csv").write_text(f"trace_name,split\na,{cell}\n")
    assert read_splits(read_metadata(Location(tmp_path / "metadata.csv"), lambda _: True)).to_pylist() == [split]


def test_any_other_name_of_a_split_is_refused_with_its_count(tmp_path):
    (tmp_path / "metadata.csv").write_text("trace_name,split\na,train\nb,holdout\nc,\nd,holdout\n")
    with pytest.raises(
        ValueError, match=r"metadata\.csv: column split, row 3: 'holdout' \(in 2 rows\) is no split: write train"
    ):
        read_splits(read_metadata(Location(tmp_path / "metadata.csv"), lambda _: True))
