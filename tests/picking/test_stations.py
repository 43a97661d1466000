"""Stations are read from what observatories hand out, picks are matched with them, and counts become m/s."""

import io
import itertools

import numpy as np
import pandas as pd
import pytest
from obspy import UTCDateTime, read_inventory
from obspy.core.inventory import Channel, Inventory, Network, Response, Station
from obspy.core.inventory.response import InstrumentSensitivity
from obspy.geodetics import gps2dist_azimuth

from raysys.location import Location
from raysys.picking.stations import (
    COLUMNS,
    counts_per_m_s,
    local_km,
    read_stations,
    response,
    station_ids,
    unmatched,
    with_ids,
)

NOON = UTCDateTime("2020-10-01T12:00:00")


def table(*ids: str) -> pd.DataFrame:
    rows = [(*name.split("."), 46.0 + k, 8.0, 100.0 * k) for k, name in enumerate(ids)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def channel(code="HHZ", location="", sensitivity=(1e9, "M/S"), latitude=46.0, elevation=500.0, **epoch) -> Channel:
    value, unit = sensitivity
    known = None if value is None else InstrumentSensitivity(value, 1.0, unit, "COUNTS")
    found = Response(instrument_sensitivity=known)
    return Channel(code, location, latitude, 8.0, elevation, 0.0, response=found, **epoch)


def inventory(*channels: Channel, **epoch) -> Inventory:
    return Inventory([Network("CH", [Station("ABC", 46.1, 8.1, 400.0, channels=list(channels), **epoch)])])


def test_stations_of_an_inventory_have_one_row_a_location_with_the_place_of_the_sensor(tmp_path):
    made = inventory(channel(), channel("HHN"), channel("HNZ", "10", latitude=46.2, elevation=90.0))
    made.networks += Inventory([Network("NA", [Station("XYZ", 12.0, -68.0, 7.0)])]).networks
    made.write(str(tmp_path / "stations.xml"), "STATIONXML")
    found = read_stations(tmp_path / "stations.xml")
    assert list(found.columns) == list(COLUMNS)
    assert found.to_numpy().tolist() == [
        ["CH", "ABC", "", 46.0, 8.0, 500.0],
        ["CH", "ABC", "10", 46.2, 8.0, 90.0],
        ["NA", "XYZ", "", 12.0, -68.0, 7.0],
    ]


def test_other_inventories_of_obspy_are_read_too(tmp_path):
    read_inventory().write(str(tmp_path / "stations.txt"), "STATIONTXT", level="channel")
    assert station_ids(read_stations(tmp_path / "stations.txt")).tolist() == ["BW.RJOB.", "GR.FUR.", "GR.WET."]


def test_the_last_place_of_a_station_counts_and_a_move_is_said(tmp_path, caplog):
    old = channel(latitude=46.0, start_date=UTCDateTime(2001, 1, 1), end_date=UTCDateTime(2010, 1, 1))
    new = channel(latitude=46.01, start_date=UTCDateTime(2010, 1, 1))
    stays = [channel(location="00", latitude=latitude) for latitude in (46.0, 46.0002)]
    inventory(new, old, *stays).write(str(tmp_path / "stations.xml"), "STATIONXML")
    assert read_stations(tmp_path / "stations.xml")["latitude"].tolist() == [46.01, 46.0002]
    (line,) = caplog.messages
    assert line.endswith("the last place counts of stations that have moved: CH.ABC.")


@pytest.mark.parametrize(
    "text",
    [
        "network,station,location,latitude,longitude,elevation\nNA,007,,1.5,2.5,3\nIU,ANMO,00,4.5,-5.5,\n",
        "Network, Station, Location, Latitude, Longitude, elevation_m\nNA, 007, , 1.5, 2.5, 3\nIU, ANMO, 00, 4.5, -5.5, \n",
        "id,longitude,latitude,elevation,x,y\nIU.ANMO.00.BHZ,-5.5,4.5,,7,8\nNA.007,2.5,1.5,3,7,8\n",
    ],
    ids=["codes", "spaces", "id"],
)
def test_a_csv_file_keeps_codes_as_text(tmp_path, text):
    (tmp_path / "stations.CSV").write_text(text)
    found = read_stations(tmp_path / "stations.CSV")
    assert station_ids(found).tolist() == ["IU.ANMO.00", "NA.007."]
    assert found[["latitude", "longitude"]].to_numpy().tolist() == [[4.5, -5.5], [1.5, 2.5]]
    assert np.isnan(found["elevation_m"][0])
    assert found["elevation_m"][1] == 3


def test_stations_are_read_behind_a_url():
    place = Location("memory://picking/stations.csv")
    place.write("network,station,latitude,longitude,elevation\nCH,ABC,46,8,500\n")
    assert station_ids(read_stations(place)).tolist() == ["CH.ABC."]
    content = io.BytesIO()
    inventory(channel(location="00")).write(content, "STATIONXML")
    Location("memory://picking/stations.xml").write(content.getvalue())
    assert station_ids(read_stations("memory://picking/stations.xml")).tolist() == ["CH.ABC.00"]


def test_what_cannot_be_a_table_of_stations_says_what_is_wrong(tmp_path):
    path = tmp_path / "stations.csv"
    for text, words in (
        ("id,latitude,longitude\nCH.ABC,46,8\n", "no column elevation_m"),
        ("name,latitude,longitude,elevation\nABC,46,8,1\n", "no column network, station"),
        ("id,latitude,longitude,elevation\nABC,46,8,1\n", "'ABC' is no id"),
        ("id,latitude,longitude,elevation\nCH.ABC,46,8,1\nCH.DEF,91,8,1\n", "latitude of row 2 cannot be '91'"),
        ("id,latitude,longitude,elevation\nCH.ABC,46,,1\n", "longitude of row 1 cannot be ''"),
        ("id,latitude,longitude,elevation\nCH.ABC,46,8,high\n", "elevation_m of row 1 cannot be 'high'"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=words):
            read_stations(path)


def test_ids_that_no_station_has_come_with_the_nearest():
    stations = table("CH.ABC.", "IU.ANMO.10", "GR.FUR.00")
    assert unmatched(table("CH.ABC.", "CH.ABC.00", "IU.ANMO.10"), stations) == []
    assert unmatched(table("ZZ.QQQ.77", "IU.ANMO.00", "IU.ANMO.00", "GR.FUR."), stations) == [
        "GR.FUR. is not among the stations: did you mean GR.FUR.00?",
        "IU.ANMO.00 is not among the stations: did you mean IU.ANMO.10?",
        "ZZ.QQQ.77 is not among the stations",
    ]
    assert unmatched(table(), stations) == []
    assert unmatched(table("CH.ABC.").astype({"station": "category"}), table()) == ["CH.ABC. is not among the stations"]


def test_ids_of_picks_and_stations_are_equal(caplog):
    stations = table("CH.ABC.", "CH.DEF.00", "CH.ABC.")
    stations.loc[1, "elevation_m"] = np.nan
    found = with_ids(stations, table("CH.ABC.00", "CH.ABC.10", "CH.DEF.00", "CH.DEF.10", "CH.ABC."))
    assert found["id"].tolist() == ["CH.DEF.00", "CH.ABC.", "CH.ABC.00", "CH.ABC.10"]
    assert found["latitude"].tolist() == [47.0, 48.0, 48.0, 48.0]
    assert found["elevation_m"].tolist() == [0.0, 200.0, 200.0, 200.0]
    assert caplog.messages == ["elevation taken for 0 m where none is given: CH.DEF.00"]


@pytest.mark.parametrize("middle", [(46.0, 8.0), (-17.8, 179.9), (64.0, -180.0), (0.0, 0.0)])
@pytest.mark.parametrize(("reach", "error"), [(0.9, 2e-4), (4.5, 4e-3)])
def test_distances_in_km_are_those_on_the_ellipsoid(middle, reach, error):
    rng = np.random.default_rng(0)
    latitude = middle[0] + rng.uniform(-reach, reach, 12)
    longitude = middle[1] + rng.uniform(-reach, reach, 12)
    x, y, origin = local_km(latitude, (longitude + 180) % 360 - 180)
    assert abs(origin[0] - latitude.mean()) < 1e-9
    assert abs((origin[1] - longitude.mean() + 180) % 360 - 180) < 0.01
    for a, b in itertools.combinations(range(12), 2):
        exact = gps2dist_azimuth(latitude[a], longitude[a], latitude[b], longitude[b])[0] / 1000
        assert np.hypot(x[a] - x[b], y[a] - y[b]) == pytest.approx(exact, rel=error)
    assert all(np.sign(x) == np.sign((longitude - origin[1] + 180) % 360 - 180))
    assert y[np.argmax(latitude)] > 0 > y[np.argmin(latitude)]


def test_no_places_have_no_middle():
    x, y, origin = local_km([], [])
    assert len(x) == len(y) == 0
    assert np.isnan(origin).all()


def test_counts_for_one_m_s_are_the_sensitivity_of_the_epoch():
    old = channel(sensitivity=(4e8, "M/S"), end_date=UTCDateTime(2010, 1, 1))
    made = inventory(old, channel(start_date=UTCDateTime(2010, 1, 1)), channel(location="10", sensitivity=(5e8, "m/s")))
    assert counts_per_m_s(made, "CH.ABC..HHZ", NOON) == 1e9
    assert counts_per_m_s(made, "CH.ABC..HHZ", "2005-01-01") == 4e8
    assert counts_per_m_s(made, "CH.ABC.10.HHZ", NOON) == 5e8
    assert counts_per_m_s(made, "CH.ABC.20.HHZ", NOON) is None
    assert counts_per_m_s(made, "CH.ABC..HHN", NOON) is None


def test_only_velocity_in_counts_has_a_sensitivity():
    units = {"M/S": 2e6, "NM/S": 2e15, "CM/S": 2e8, "M/S**2": None, "M": None, "PA": None}
    for unit, wanted in units.items():
        found = counts_per_m_s(inventory(channel(sensitivity=(2e6, unit))), "CH.ABC..HHZ", NOON)
        assert found == (wanted and pytest.approx(wanted)), unit
    for nothing in (0.0, None):
        assert counts_per_m_s(inventory(channel(sensitivity=(nothing, "M/S"))), "CH.ABC..HHZ", NOON) is None
    volts = inventory(channel())
    volts[0][0][0].response.instrument_sensitivity.output_units = "V"
    assert counts_per_m_s(volts, "CH.ABC..HHZ", NOON) is None
    bare = inventory(channel())
    bare[0][0][0].response = None
    assert counts_per_m_s(bare, "CH.ABC..HHZ", NOON) is None


def test_the_response_of_a_file_is_its_inventory(tmp_path):
    inventory(channel()).write(str(tmp_path / "stations.xml"), "STATIONXML")
    assert counts_per_m_s(response(tmp_path / "stations.xml"), "CH.ABC..HHZ", NOON) == 1e9
