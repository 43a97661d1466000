"""Whatever a stream is, its samples lie on one grid of time, in the order Z, N, E."""

import math
import time

import numpy as np
import obspy
import pytest
from obspy import Stream, Trace, UTCDateTime

from raysys.picking.record import Record, records_of

RATES = (20, 40, 50, 62.5, 80, 100, 125, 200, 250)
BEGIN = UTCDateTime("2021-03-04T05:06:07")
WINDOW = 256


def trace(data, channel="HHZ", begin=BEGIN, rate=100.0, station="AAA", location="") -> Trace:
    codes = {"network": "XX", "station": station, "location": location, "channel": channel}
    return Trace(np.asanyarray(data), codes | {"starttime": begin, "sampling_rate": rate})


def wiggle(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1000, samples)


def read(*traces: Trace, window: int = WINDOW) -> list[Record]:
    found = list(records_of(Stream(traces), window))
    assert not [one for one in found if isinstance(one, str)], found
    return found


def only(*traces: Trace, window: int = WINDOW) -> Record:
    (record,) = read(*traces, window=window)
    return record


def told(*traces: Trace) -> str:
    (line,) = records_of(Stream(traces), WINDOW)
    assert isinstance(line, str)
    assert "\n" not in line
    return line


def times_s(record: Record) -> np.ndarray:
    """Of all samples, after `BEGIN`."""
    return (record.time_ns(np.arange(len(record))) - BEGIN.ns) / 1e9


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("late_ns", [0, 1_234_567])
def test_a_wavelet_of_any_rate_stays_where_it_is(rate, late_ns):
    t, onset, hz = np.arange(round(60 * rate)) / rate, 31.4159, 3.0
    wavelet = np.exp(-((hz * (t - onset)) ** 2)) * np.cos(2 * np.pi * hz * (t - onset))
    record = only(trace(1e6 * wavelet, rate=rate, begin=UTCDateTime(ns=BEGIN.ns + late_ns)))
    found = times_s(record) - late_ns / 1e9
    expected = np.exp(-((hz * (found - onset)) ** 2)) * np.cos(2 * np.pi * hz * (found - onset))
    assert np.abs(record.samples[0] / 1e6 - expected + (1e6 * wavelet).mean() / 1e6).max() < 0.02
    assert abs(found[record.samples[0].argmax()] - onset) <= 0.01
    assert abs(found[0]) <= 0.01
    assert abs(found[-1] - t[-1]) <= 1 / min(rate, 100)


@pytest.mark.parametrize("rate", RATES)
def test_a_sample_does_not_depend_on_where_the_stream_is_cut(rate):
    whole = trace(wiggle(round(90 * rate)), rate=rate, begin=BEGIN + 0.0034)
    record, samples = only(whole), {}
    for first, last in ((17.003, 61.7), (40.4, 90)):
        part = only(whole.slice(BEGIN + first, BEGIN + last, nearest_sample=False))
        at = part.first - record.first
        assert 0 < at <= len(record) - len(part)
        offset = part.samples[0] - record.samples[0, at : at + len(part)]
        assert np.ptp(offset[100:-100]) < 2e-3  # float32; each has a mean of its own
        assert np.array_equal(part.time_ns(np.arange(len(part))), record.time_ns(np.arange(at, at + len(part))))
        samples[first] = part
    assert len(samples) == 2


def test_long_traces_are_resampled_in_pieces_without_a_seam(monkeypatch):
    whole = trace(wiggle(12_000), rate=200)
    at_once = only(whole)
    monkeypatch.setattr("raysys.picking.record._PIECE", 777)
    np.testing.assert_allclose(only(whole).samples, at_once.samples, atol=1e-3)


@pytest.mark.parametrize("ns", [0, 1, 999, 4_999_999, 5_000_001, 9_999_999])
@pytest.mark.parametrize("rate", [50, 62.5, 100, 250])
def test_times_are_those_of_the_file_to_the_nanosecond(ns, rate):
    record = only(trace(wiggle(500), rate=rate, begin=UTCDateTime(ns=BEGIN.ns + ns)))
    after_ns = record.time_ns(np.arange(len(record))) - BEGIN.ns - ns
    assert not (after_ns % math.gcd(10**7, round(1e9 / rate))).any()  # where its samples and those of the grid meet
    assert abs(after_ns[0]) < 10**7
    assert np.unique(np.diff(record.time_ns(np.arange(len(record))))).tolist() == [10_000_000]


@pytest.mark.parametrize("rate", [99.95, 100.002, 49.99, 200.04])
def test_a_rate_that_is_nearly_round_keeps_its_times(rate):
    """Its samples are taken as those of the round one, and after an hour they would be seconds away."""
    seconds = 1500
    data = np.zeros(round(seconds * rate))
    at = np.array([10, 700, 1490])
    data[np.round(at * rate).astype(int)] = 1e6
    record = only(trace(data, rate=rate))
    high, near = record.samples[0] > 3e5, np.lib.stride_tricks.sliding_window_view(np.pad(record.samples[0], 20), 41)
    peaks = np.flatnonzero(high & (record.samples[0] == near.max(axis=1)))
    assert np.abs(times_s(record)[peaks] - at).max() < 0.02


def test_rates_that_are_too_low_are_told_and_a_fast_component_is_read_without_slow_ones():
    assert "recorded at 19 Hz, and at least 20 Hz are needed" in told(trace(wiggle(500), rate=19))
    record = only(trace(wiggle(500)), trace(wiggle(50), "HHN", rate=10))
    assert np.isfinite(record.samples[0]).all()
    assert np.isnan(record.samples[1:]).all()


def test_components_of_other_rates_lie_on_one_grid():
    pieces = [
        trace(wiggle(round(30 * rate)), f"HH{c}", rate=rate) for c, rate in zip("ZNE", (100, 50, 200), strict=True)
    ]
    record = only(*pieces)
    assert np.isfinite(record.samples[:, :2990]).all()


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (("HHE", "HHZ", "HHN"), "EZN"),
        (("hhz", "hhn", "hhe"), "ZNE"),
        (("Z", "N", "E"), "ZNE"),
        (("z", "n", "e"), "ZNE"),
        (("HHZ", "HH1", "HH2"), "ZNE"),
        (("HH3", "HH1", "HH2"), "ZNE"),
        (("HH1", "HH2", "HH3"), "NEZ"),
        (("1", "2", "3"), "NEZ"),
        (("BHZ", "BH2", "BH3"), "ZNE"),
        (("EW", "NS", "UD"), "ENZ"),
        (("ud", "ew", "ns"), "ZEN"),
        (("X", "Y", "Z"), "ENZ"),
        (("HHX", "HHY", "HHZ"), "ENZ"),
        (("HHZ", "HHR", "HHT"), "ZNE"),
        (("HHZ", "HHN"), "ZN"),
        (("HHZ", "HH1", "HH2", "HHN", "HHE"), "Z??NE"),
        (("HHZ", "HHQ"), "Z?"),
        (("HHZ",), "Z"),
        (("HHN",), "N"),
        (("HHE",), "E"),
        (("HH2",), "E"),
        (("HHQ",), "Z"),
        (("",), "Z"),
        (("Z",), "Z"),
        (("HNZ", "HNN", "HNE"), "ZNE"),
    ],
)
def test_components_have_their_rows_whatever_they_are_called(names, order):
    record = only(*(trace(wiggle(300, k), name) for k, name in enumerate(names)))
    rows = {row: wiggle(300, k) for k, row in enumerate(order) if row != "?"}
    for row, letter in enumerate("ZNE"):
        if letter not in rows:
            assert np.isnan(record.samples[row]).all()
        elif len(rows) == len(names):
            np.testing.assert_allclose(record.samples[row], rows[letter] - rows[letter].mean(), atol=1e-3)


def test_a_whole_pair_of_horizontals_is_taken_rather_than_a_half():
    found = only(*(trace(wiggle(300, k), name) for k, name in enumerate(("HHZ", "HHN", "HH1", "HH2"))))
    for row, seed in enumerate((0, 2, 3)):
        np.testing.assert_allclose(found.samples[row], wiggle(300, seed) - wiggle(300, seed).mean(), atol=1e-3)


@pytest.mark.parametrize("names", [("S  Z", "S  N", "S  E"), ("SBZ", "SBN", "SBE"), ("HYZ", "HYN", "HYE")])
def test_names_of_older_files_are_those_of_ground_motion(noise, names):
    (record,) = records_of(noise(20, channels=names), 256)
    assert np.isfinite(record.samples).all()


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (("HHQ", "HHK"), "components K, Q are not known: rename them to Z, N and E"),
        (("HHU", "HHV", "HHW"), "components U, V, W are none of Z, N and E: rotate them before"),
        (("BDF",), "XX.AAA..BD?: not a seismometer"),
        (("LOG",), "XX.AAA..LO?: not a seismometer"),
    ],
)
def test_what_cannot_be_read_is_told_in_a_line(names, why):
    assert why in told(*(trace(wiggle(300), name) for name in names))


def test_what_cannot_be_read_does_not_keep_others_from_being_read():
    found = list(records_of(Stream([trace(wiggle(300), "BDF"), trace(wiggle(300), "HHZ")]), WINDOW))
    assert sorted(type(one).__name__ for one in found) == ["Record", "str"]


def test_instruments_and_locations_and_stations_do_not_mix():
    places = [(s, l, i) for s in ("AAA", "BBB") for l in ("", "10") for i in ("HH", "HN")]
    traces = [
        trace(wiggle(300, 10 * k + row), f"{i}{c}", station=s, location=l)
        for row, c in enumerate("ZNE")
        for k, (s, l, i) in enumerate(places)
    ]
    found = read(*traces)
    assert sorted((one.station, one.location, one.instrument) for one in found) == sorted(places)
    for one in found:
        k = places.index((one.station, one.location, one.instrument))
        assert one.trace_id == f"XX.{one.station}.{one.location}"
        for row in range(3):
            expected = wiggle(300, 10 * k + row)
            np.testing.assert_allclose(one.samples[row], expected - expected.mean(), atol=1e-3)


def test_counts_on_a_large_offset_keep_their_digits():
    signal = np.random.default_rng(0).integers(-3, 4, 6000)
    for rate in (100, 200):
        record = only(trace((signal + 10**8).astype(np.int32), rate=rate))
        alone = only(trace(signal.astype(np.float64), rate=rate))
        np.testing.assert_allclose(record.samples[0], alone.samples[0], atol=1e-5)


@pytest.mark.parametrize("rate", [100, 200])
def test_a_hole_is_the_same_masked_absent_or_not_a_number(rate):
    data = wiggle(30 * rate)
    begin, end = 10 * rate, 11 * rate
    absent = only(trace(data[:begin], rate=rate), trace(data[end:], rate=rate, begin=BEGIN + 11))
    masked = trace(np.ma.masked_array(np.round(data).astype(np.int32), np.zeros(len(data), bool)), rate=rate)
    masked.data[begin:end] = np.ma.masked
    holes = [masked]
    for value in (np.nan, np.inf, -np.inf):
        holes.append(
            trace(np.where((np.arange(len(data)) >= begin) & (np.arange(len(data)) < end), value, data), rate=rate)
        )
    for hole in holes:
        record = only(hole)
        assert np.array_equal(np.isnan(record.samples), np.isnan(absent.samples))
        np.testing.assert_allclose(record.samples, absent.samples, atol=1)
    assert np.flatnonzero(np.isnan(absent.samples[0])).tolist() == list(range(1000, 1100))


def test_nothing_but_holes_is_told():
    assert "nothing was recorded" in told(trace(np.full(500, np.nan)))
    assert "nothing was recorded" in told(trace(np.zeros(0, np.int32)))
    assert "nothing was recorded" in told(trace(np.ma.masked_all(500)))
    assert list(records_of(Stream(), WINDOW)) == []


def test_constant_channels_are_told_where_all_are_and_stay_beside_one_that_lives():
    assert "every sample is the same" in told(trace(np.full(500, 7)), trace(np.full(500, 9), "HHN"))
    record = only(trace(wiggle(500)), trace(np.full(500, 9), "HHN"))
    assert not record.samples[1].any()


def test_of_two_traces_at_one_time_the_earlier_counts():
    early, late = wiggle(600, 1), wiggle(600, 2)
    for traces in ((trace(early), trace(late, begin=BEGIN + 3)), (trace(late, begin=BEGIN + 3), trace(early))):
        record = only(*traces)
        assert len(record) == 900
        expected = np.concatenate([early, late[300:]])
        np.testing.assert_allclose(record.samples[0], expected - expected.mean(), atol=1e-3)


def test_traces_of_other_types_that_continue_each_other_leave_no_hole():
    for rate in RATES:
        data = wiggle(round(40 * rate)).round()
        half = len(data) // 2
        traces = [
            trace(data[:half].astype(np.int32), rate=rate),
            trace(data[half:].astype(np.float32), rate=rate, begin=BEGIN + half / rate),
        ]
        record = only(*traces)
        assert np.isfinite(record.samples[0]).all(), rate
        whole = only(trace(data, rate=rate))
        assert np.abs(record.samples[0] - whole.samples[0]).max() < 5000
        far = np.abs(np.arange(len(whole)) - half * 100 / rate) > 100
        np.testing.assert_allclose(record.samples[0, far], whole.samples[0, far], atol=1)


@pytest.mark.parametrize("rate", [20, 62.5, 250])
def test_pieces_that_continue_each_other_are_resampled_as_one(rate):
    whole, third = trace(wiggle(round(60 * rate)), rate=rate), round(20 * rate)
    parts = [
        trace(whole.data[k * third : (k + 1) * third], rate=rate, begin=BEGIN + k * third / rate) for k in range(3)
    ]
    np.testing.assert_allclose(only(*parts).samples, only(whole).samples, atol=1e-3)


def test_a_gap_of_a_window_begins_another_record():
    first = trace(wiggle(500))
    near, far = (trace(wiggle(500, 1), begin=BEGIN + 5 + gap / 100) for gap in (WINDOW - 1, WINDOW))
    assert len(only(first, near)) == 1000 + WINDOW - 1
    assert [len(one) for one in read(first, far)] == [500, 500]
    merged = Stream([first.copy(), far.copy()]).merge()[0]
    assert [len(one) for one in read(merged)] == [500, 500], "a gap that ObsPy has masked is one, too"
    assert len(only(first, far, trace(wiggle(900), "HHN"))) == 1000 + WINDOW, "another component goes on"


def test_each_piece_has_its_own_time_between_two_samples_of_the_grid():
    parts = [trace(wiggle(500)), trace(wiggle(500), begin=BEGIN + 6.003), trace(wiggle(500), begin=BEGIN + 12.0041)]
    record = only(*parts)
    late = times_s(record) - (record.first + np.arange(len(record))) / 100 + BEGIN.ns / 1e9
    there = np.isfinite(record.samples[0])
    for first, expected in ((0, 0.0), (600, 0.003), (1200, 0.0041)):
        assert there[first : first + 500].all()
        assert np.allclose(late[first : first + 500], expected, atol=1e-6)


def test_the_stream_is_not_changed():
    stream = Stream([trace(wiggle(500).astype(np.int32)), trace(np.ma.masked_less(wiggle(500), 0), "HHN")])
    before = stream.copy()
    list(records_of(stream, WINDOW))
    assert stream == before
    assert all(
        np.array_equal(np.ma.getmaskarray(a.data), np.ma.getmaskarray(b.data))
        for a, b in zip(stream, before, strict=True)
    )


def test_many_short_traces_are_joined_in_seconds():
    data = wiggle(600_000).round().astype(np.int32)
    begun = time.perf_counter()
    record = only(*(trace(data[k : k + 200], begin=BEGIN + k / 100) for k in range(0, len(data), 200)))
    assert np.isfinite(record.samples[0]).all()
    assert time.perf_counter() - begun < 60


def test_the_example_of_obspy_is_read():
    (record,) = records_of(obspy.read(), 3000)
    assert record.trace_id == "BW.RJOB."
    assert record.instrument == "EH"
    assert record.samples.shape == (3, 3000)
