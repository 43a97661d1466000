"""The filter behind windows at 100 Hz: the right ratio, the published taps, as few frames as needed."""

import numpy as np
import pytest
from scipy.signal import firwin

from raysys.data.resample import SAMPLES_VERSION, low_pass, ratio, resampler


@pytest.mark.parametrize(
    ("rate_hz", "expected"),
    [
        (20.0, (5, 1)),
        (100 / 3, (3, 1)),
        (75.19, (133, 100)),
        (99.95, (1, 1)),
        (100.05, (1, 1)),
        (100.2, (500, 501)),
        (120.0, (5, 6)),
        (250.0, (2, 5)),
        (50_000.0, (1, 500)),
    ],
)
def test_a_rate_is_a_small_fraction_of_100_hz_and_nearly_equal_ones_are_equal(rate_hz, expected):
    assert ratio(rate_hz) == expected


@pytest.mark.parametrize(("up", "down"), [(5, 2), (2, 5), (5, 6), (1, 5), (3, 1)])
def test_the_taps_are_a_kaiser_windowed_sinc_with_unit_gain_at_every_phase(up, down):
    """The design of `scipy.signal.resample_poly`: ten zero crossings on each side at the lower Nyquist frequency."""
    most = max(up, down)
    expected = firwin(2 * 10 * most + 1, 1 / most, window=("kaiser", 5.0))
    for phase in range(up):
        one = expected[phase::up] / expected[phase::up].sum()
        np.testing.assert_allclose(low_pass(up, down)[phase::up], one, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("up", "down"), [(5, 2), (2, 5), (133, 100)])
@pytest.mark.parametrize("window", [1, 2, 60, 65, 4096])
def test_frames_hold_a_window_wherever_it_begins_and_no_frame_is_spare(up, down, window):
    one = resampler(up, down)
    latest = one.step_out - 1 + window
    assert (one.frames(window) - 1) * one.step_out < latest <= one.frames(window) * one.step_out
    first, needed = one.span(np.arange(2 * one.step_out), window)
    assert first.tolist() == [-one.before] * one.step_out + [one.step_in - one.before] * one.step_out
    assert one(np.zeros((2, 3, needed)), np.array([0, one.step_out - 1]), window).shape == (2, 3, window)


PINNED = {
    40.0: [-0.663320224, -0.466605197, -0.264447409, -0.054684717],
    250.0: [1.264807678, 0.566494817, -0.9202905, 0.668732371],
    75.19: [-0.507412321, -0.216333214, 0.521368911, 0.973890682],
}


@pytest.mark.parametrize("rate_hz", PINNED)
def test_samples_of_this_version_stay_what_they_are(rate_hz):
    """Shards hold them: where this test has to change, SAMPLES_VERSION has to rise."""
    assert SAMPLES_VERSION == 1
    apply = resampler(*ratio(rate_hz))
    start = np.array([130])
    first, needed = apply.span(start, 4)
    k = first[0] + np.arange(needed)
    stored = np.broadcast_to(np.sin(0.7 * k) + 0.1 * (k % 7), (1, 3, needed)).copy()
    np.testing.assert_allclose(apply(stored, start, 4)[0, 1], PINNED[rate_hz], atol=1e-8)
