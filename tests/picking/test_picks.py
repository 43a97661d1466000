"""Picks against ObsPy's triggers, and sizes against signals made by hand."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from obspy.signal.trigger import trigger_onset

from raysys.picking.picks import COLUMNS, Calibration, find_picks, no_picks, triggers
from raysys.picking.record import Record

FIRST = 161_483_436_700
STEPS = st.integers(0, 10).map(lambda k: k / 10)


def record_of(samples, **codes) -> Record:
    codes = {"network": "XX", "station": "AAA", "location": "00", "instrument": "HH"} | codes
    return Record(**codes, first=FIRST, samples=np.asarray(samples, np.float32), late=((FIRST, 0.0025, 0.0),))


def curves(*peaks: tuple[int, int, float], length: int = 2000) -> np.ndarray:
    """Triangles on P (row 0) and S (row 1) with a half-width of 20 samples."""
    out = np.zeros((3, length))
    for row, at, height in peaks:
        out[row] = np.maximum(out[row], height * (1 - np.abs(np.arange(length) - at) / 20).clip(0))
    out[2] = 1 - out[0] - out[1]
    return out.astype(np.float32)


def flat(length: int = 2000) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3, length))


@settings(max_examples=300, deadline=None)
@given(arrays(np.float64, st.integers(0, 60), elements=STEPS), STEPS.filter(bool))
def test_triggers_are_those_of_obspy(curve, threshold):
    """On steps of a tenth, so that samples often equal the threshold or its half."""
    begins, ends, peaks = triggers(curve, threshold)
    expected = np.reshape(trigger_onset(curve, threshold, threshold / 2), (-1, 2)) if len(curve) else np.zeros((0, 2))
    assert np.array_equal(np.stack([begins, ends], axis=1), expected)
    assert peaks.tolist() == [int(a) + curve[int(a) : int(b) + 1].argmax() for a, b in expected]


@settings(max_examples=100, deadline=None)
@given(
    arrays(np.float32, st.integers(1, 60), elements=st.sampled_from([0.0, 0.2, 0.3, 0.5, 0.9, np.nan]).map(np.float32))
)
def test_holes_end_a_trigger(curve):
    """The same as those of the parts between them."""
    begins, ends, peaks = triggers(curve, 0.4)
    edges = np.flatnonzero(np.diff(np.isfinite(curve), prepend=False, append=False)).reshape(-1, 2)
    expected = [np.stack(triggers(curve[first:last], 0.4)) + first for first, last in edges]
    expected = np.concatenate(expected, axis=1) if expected else np.zeros((3, 0))
    assert np.array_equal(np.stack([begins, ends, peaks]), expected)


def test_a_row_says_all_that_is_known_of_a_pick():
    found = find_picks(curves((0, 500, 0.8), (1, 900, 0.6), (0, 1500, 0.2)), record_of(flat()), Calibration(), "mine")
    assert {name: str(kind) for name, kind in found.dtypes.items()} == {
        name: str(pd.Series(dtype=kind).dtype) for name, kind in COLUMNS.items()
    }
    assert found["phase"].tolist() == ["P", "S"]
    assert found[["network", "station", "location", "instrument", "model"]].iloc[0].tolist() == [
        "XX", "AAA", "00", "HH", "mine"
    ]  # fmt: skip
    assert (found["amplitude_unit"] == "counts").all()
    expected = (FIRST + np.array([500, 900])) * 10_000_000 + 2_500_000
    assert found["peak_time"].astype("int64").tolist() == expected.tolist()
    np.testing.assert_allclose(found["probability"], [0.8, 0.6], rtol=1e-6)
    before = (found["peak_time"] - found["start_time"]).dt.total_seconds()
    behind = (found["end_time"] - found["peak_time"]).dt.total_seconds()
    assert before.tolist() == [0.12, 0.10]  # 0.3 of 0.8 and of 0.6, on the way up
    assert behind.tolist() == [0.16, 0.15]
    assert found["time_uncertainty_s"].isna().all()


def test_p_and_s_have_thresholds_and_spreads_of_their_own():
    made, record = curves((0, 500, 0.6), (1, 900, 0.6)), record_of(flat())
    for p, s, kept in ((0.5, 0.7, ["P"]), (0.7, 0.5, ["S"])):
        assert find_picks(made, record, Calibration(p_threshold=p, s_threshold=s), "m")["phase"].tolist() == kept
    found = find_picks(made, record, Calibration(p_spread=0.5, s_spread=2.0), "m")
    width = 20 / np.sqrt(6) / 100  # of a triangle
    np.testing.assert_allclose(found["time_uncertainty_s"], [0.5 * width, 2 * width], rtol=0.01)


def test_probabilities_of_p_and_s_are_calibrated_by_their_own_odds():
    made = curves((0, 500, 0.8), (1, 700, 0.6))
    found = find_picks(made, record_of(flat()), Calibration(p_odds=(2.0, 0.0), s_odds=(1.0, 1.0)), "m")["probability"]
    s = 0.6 / 0.4 * np.e
    np.testing.assert_allclose(found, [16 / 17, s / (1 + s)], rtol=1e-5)


def test_without_a_calibration_probabilities_are_those_of_the_network_though_they_do_not_sum_to_one():
    made = curves((0, 500, 0.8), (1, 500, 0.7))
    made[2] = 0.9
    found = find_picks(made, record_of(flat()), Calibration(), "m")
    np.testing.assert_allclose(found["probability"], [0.8, 0.7], rtol=1e-6)


def test_amplitude_and_noise_of_a_signal_made_by_hand():
    t = np.arange(2000)
    samples = np.stack([np.where(t % 2, 1.0, -1.0), np.where(t % 2, 2.0, -2.0), np.zeros(2000)]) + 50.0
    samples[0, 500:600] += np.where(t[:100] % 2, 9, -9)  # the second behind the onset: 10 and 2
    samples[1, 651] += 40  # within two seconds
    samples[1, 700] += 400  # beyond
    (found,) = find_picks(curves((0, 500, 0.8)), record_of(samples), Calibration(), "m").itertuples()
    assert found.amplitude == pytest.approx(42)
    assert found.snr_db == pytest.approx(20 * np.log10(np.sqrt(10**2 + 2**2) / np.sqrt(1 + 2**2)))


@pytest.mark.parametrize(
    ("there", "amplitude"),
    [(slice(500, 2000), False), (slice(0, 500), False), (slice(0, 0), False), (slice(400, 600), True)],
)
def test_sizes_are_unknown_where_there_is_too_little_record(there, amplitude):
    samples = np.full((3, 2000), np.nan)
    samples[:, there] = flat()[:, there]
    (found,) = find_picks(curves((0, 500, 0.8)), record_of(samples), Calibration(), "m").itertuples()
    assert np.isfinite(found.amplitude) == np.isfinite(found.snr_db) == amplitude


def test_one_component_is_enough_for_sizes():
    samples = np.full((3, 2000), np.nan)
    samples[2] = flat()[2]
    (found,) = find_picks(curves((1, 500, 0.8)), record_of(samples), Calibration(), "m").itertuples()
    level = samples[2, 300:500].mean()
    assert found.amplitude == pytest.approx(np.abs(samples[2, 500:700] - level).max(), rel=1e-5)


def test_a_dead_record_has_no_ratio():
    (found,) = find_picks(curves((0, 500, 0.8)), record_of(np.zeros((3, 2000))), Calibration(), "m").itertuples()
    assert found.amplitude == 0
    assert np.isnan(found.snr_db)


@pytest.mark.parametrize("at", [0, 1999])
def test_picks_at_the_ends_of_a_record_are_picks(at):
    found = find_picks(curves((0, at, 0.8)), record_of(flat()), Calibration(p_spread=1.0), "m")
    assert len(found) == 1
    assert np.isfinite(found["time_uncertainty_s"]).all()


def test_nothing_is_a_table_of_the_same_types():
    empty = find_picks(curves(), record_of(flat()), Calibration(p_spread=1.0), "m")
    assert empty.empty
    pd.testing.assert_frame_equal(empty, no_picks())
    holes = find_picks(np.full((3, 100), np.nan, np.float32), record_of(flat(100)), Calibration(), "m")
    pd.testing.assert_frame_equal(holes, no_picks())
