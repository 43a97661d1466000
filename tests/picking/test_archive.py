"""Which files hold which station on which day, of every kind of archive."""

import datetime
import logging
import os

import pandas as pd
import pytest
from obspy import UTCDateTime

from raysys.picking import archive
from raysys.picking.archive import DAY_NS, StationDay, find_files, station_days

COLUMNS = ["network", "station", "location", "channel"]
NOON = UTCDateTime("2021-12-31T12:00:00")


@pytest.fixture
def no_reading(monkeypatch):
    """Neither Ray nor ObsPy is asked."""

    class Refused:
        def remote(self, *_):
            raise AssertionError("a file was read")

        def get(self, refs):
            return [self.remote() for _ in refs]

    monkeypatch.setattr(archive, "ray", Refused())


def touch(folder, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"not read")


def span(day: int, first_s: float = 0, last_s: float = 86_400, **codes) -> dict:
    begin = (datetime.date(2021, 1, 1) - datetime.date(1970, 1, 1)).days + day
    usual = {
        "path": f"/{day}",
        "size": 1,
        "changed_ns": 2,
        "network": "XX",
        "station": "AAA",
        "location": "",
        "channel": "HHZ",
    }
    return (
        usual
        | codes
        | {"first_ns": begin * DAY_NS + round(first_s * 1e9), "last_ns": begin * DAY_NS + round(last_s * 1e9) - 1}
    )


def days_of(*rows: dict, margin_s: float = 100, **limits) -> list[StationDay]:
    return station_days(pd.DataFrame(rows), margin_s, **limits)


def test_names_of_an_sds_archive_need_no_reading(no_reading, tmp_path):
    touch(tmp_path, "2020/XX/AAA/HHZ.D/XX.AAA.00.HHZ.D.2020.366", "2021/XX/B1/BH1.D/XX.B1..BH1.D.2021.001", ".hidden")
    found = find_files([str(tmp_path)])
    assert found[COLUMNS].to_numpy().tolist() == [["XX", "AAA", "00", "HHZ"], ["XX", "B1", "", "BH1"]]
    assert pd.to_datetime(found["first_ns"]).astype(str).tolist() == ["2020-12-31", "2021-01-01"]
    assert (found["last_ns"] - found["first_ns"] == DAY_NS - 1).all()
    assert found["path"].tolist() == sorted(str(file) for file in tmp_path.rglob("*.D.*"))


def test_what_is_known_and_the_same_is_not_read_again(no_reading, tmp_path):
    touch(tmp_path, "a.mseed")
    about = (tmp_path / "a.mseed").stat()
    known = pd.DataFrame([span(3, path=str(tmp_path / "a.mseed"), size=about.st_size, changed_ns=about.st_mtime_ns)])
    pd.testing.assert_frame_equal(find_files([str(tmp_path)], known), known)
    os.utime(tmp_path / "a.mseed", ns=(0, 7))
    with pytest.raises(AssertionError, match="a file was read"):
        find_files([str(tmp_path)], known)


def test_files_are_found_once_and_paths_that_are_not_there_are_named(no_reading, tmp_path):
    touch(tmp_path, "XX.AAA.00.HHZ.D.2020.366")
    twice = find_files([str(tmp_path), str(tmp_path / "XX.AAA.00.HHZ.D.2020.366"), f"{tmp_path}/../{tmp_path.name}"])
    assert len(twice) == 1
    with pytest.raises(FileNotFoundError, match="/nowhere does not exist"):
        find_files(["/nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no seismograms in .*empty"):
        find_files([str(tmp_path / "empty")])


def test_links_to_folders_are_followed(no_reading, tmp_path):
    """Archives of several disks are made of them."""
    touch(tmp_path / "disk", "AAA/HHZ.D/XX.AAA.00.HHZ.D.2020.366")
    (tmp_path / "sds").mkdir()
    (tmp_path / "sds" / "XX").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "round").symlink_to(tmp_path / "sds")
    assert len(find_files([str(tmp_path / "sds")])) == 1


def test_a_day_has_the_files_of_its_neighbours_within_the_margin():
    days = days_of(span(1), span(2), span(3), span(2, station="BBB", path="/b"))
    assert [(day.station, day.day.day, [path for path, _, _ in day.files]) for day in days] == [
        ("AAA", 2, ["/1", "/2"]),
        ("AAA", 3, ["/1", "/2", "/3"]),
        ("BBB", 3, ["/b"]),
        ("AAA", 4, ["/2", "/3"]),
    ]
    assert days[0].files[0] == ("/1", 1, 2)
    assert days[0].file_name == "XX.AAA/2021-01-02.parquet"
    assert pd.Timestamp(days[0].begin_ns) == pd.Timestamp("2021-01-02")


def test_spans_reach_over_midnight_and_margins_make_no_day():
    files = [path for day in days_of(span(1, 0, 86_400 + 1), span(2, 200, 300, path="/c")) for path, _, _ in day.files]
    assert files == ["/1", "/1", "/c"]
    assert [day.day.day for day in days_of(span(1, 86_390, 86_400))] == [2]
    assert [day.day.day for day in days_of(span(1, 86_390, 86_400.000_000_002))] == [2, 3]
    assert len(days_of(span(1, 0, 3 * 86_400))) == 3


@pytest.mark.parametrize(
    ("begin", "end", "kept"), [(None, None, [2, 3, 4]), (3, None, [3, 4]), (None, 3, [2, 3]), (3, 3, [3])]
)
def test_days_are_limited_with_both_ends(begin, end, kept):
    limits = {"begin": begin and datetime.date(2021, 1, begin), "end": end and datetime.date(2021, 1, end)}
    assert [day.day.day for day in days_of(span(1), span(2), span(3), **limits)] == kept


def test_headers_of_other_files_say_what_they_hold(ray_cluster, tmp_path, noise, caplog):
    stream = (
        noise(30, begin=NOON) + noise(20, begin=NOON + 100, channels=("HHZ",)) + noise(10, begin=NOON, station="BBB")
    )
    stream.write(str(tmp_path / "all.mseed"), "MSEED")
    noise(10, begin=NOON + 0.5, channels=("EHZ",), location="10")[0].write(str(tmp_path / "one.sac"), "SAC")
    noise(10, begin=NOON, channels=("BHZ",), station="GSE")[0].write(str(tmp_path / "two.gse"), "GSE2")
    (tmp_path / "notes.txt").write_text("it rained")
    (tmp_path / "empty.mseed").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        found = find_files([str(tmp_path)])
    rows = {(row.station, row.location, row.channel): row for row in found.itertuples()}
    assert set(rows) == {
        *((station, "", f"HH{c}") for station in ("AAA", "BBB") for c in "ZNE"),
        ("AAA", "10", "EHZ"),
        ("GSE", "", "BHZ"),
    }
    z = rows["AAA", "", "HHZ"]
    assert (z.first_ns, z.last_ns) == (NOON.ns, NOON.ns + 119_990_000_000), "of all its traces"
    assert rows["AAA", "", "HHN"].last_ns == NOON.ns + 29_990_000_000
    lines = [record.message for record in caplog.records if "seismograms" in record.message]
    assert lines == [f"no seismograms that ObsPy reads: {tmp_path / 'notes.txt'}"]
    again = find_files([str(tmp_path)], found)
    pd.testing.assert_frame_equal(again.sort_values(list(again)), found.sort_values(list(found)))
