import math

import pytest
import torch

from model.preprocess import highpass, live_windows, standardize


@pytest.mark.parametrize("unit", [1e-30, 1e-9, 1.0, 1e9, 1e30])
def test_amplitude_does_not_matter(unit):
    x = torch.randn(2, 3, 500)
    y = standardize(x * unit)
    assert y.dtype == torch.float32
    assert y.mean(-1).abs().max() < 1e-6
    torch.testing.assert_close(y.std(-1, correction=0), torch.ones(2, 3))
    torch.testing.assert_close(y, standardize(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("constant", [0.0, 1.0, 1e-9, 123456.7, -3e8])
def test_dead_component_is_exactly_zero(constant):
    x = torch.randn(2, 3, 500)
    x[:, 1] = constant
    y = standardize(x, torch.tensor([500, 321]))
    assert (y[:, 1] == 0).all()
    assert y.isfinite().all()


def test_a_small_signal_on_a_large_offset_survives_in_float64():
    signal = torch.randn(1, 1, 400, dtype=torch.float64)
    torch.testing.assert_close(standardize(signal + 1e9), standardize(signal), rtol=1e-4, atol=1e-4)


def test_padding_stays_zero_and_has_no_say():
    x = torch.randn(2, 3, 300) + 5
    num_valid = torch.tensor([300, 120])
    garbage = x.clone()
    garbage[1, :, 120:] = 1e6
    y = standardize(garbage, num_valid)
    assert (y[1, :, 120:] == 0).all()
    torch.testing.assert_close(y[1, :, :120], standardize(x[1:, :, :120])[0])
    torch.testing.assert_close(y[0], standardize(x[:1])[0])


def test_dead_is_what_the_format_cannot_resolve():
    """On an offset of one, a signal of 1e-5 is above the resolution of float32 and lives; one of 1e-7 is rounding."""
    signal = torch.sin(torch.arange(400) / 7)[None, None]
    torch.testing.assert_close(standardize(1 + 1e-5 * signal), standardize(signal), rtol=0.05, atol=0.05)
    assert (standardize(1 + 1e-7 * signal) == 0).all()
    assert (standardize(signal.double() + 1e7)[0] != 0).all()


def test_no_valid_sample_at_all_gives_zeros():
    assert (standardize(torch.randn(1, 3, 10), torch.tensor([0])) == 0).all()


def test_twice_is_once():
    y = standardize(torch.randn(2, 3, 300) * 7 + 3)
    torch.testing.assert_close(standardize(y), y, rtol=1e-5, atol=1e-6)


def test_samples_that_are_not_finite_count_for_nothing():
    x = torch.randn(1, 3, 300) + 4
    holes = x.clone()
    holes[0, 0, 100:110], holes[0, 1, 5] = float("nan"), float("inf")
    y = standardize(holes)
    assert y.isfinite().all()
    assert (y[0, 0, 100:110] == 0).all()
    kept = torch.cat([x[:, :1, :100], x[:, :1, 110:]], dim=-1)
    torch.testing.assert_close(torch.cat([y[:, :1, :100], y[:, :1, 110:]], dim=-1), standardize(kept))


def test_only_windows_without_any_signal_are_dead():
    x = torch.randn(3, 3, 100)
    x[0], x[1, :2] = 7.0, 0.0
    assert live_windows(standardize(x)).tolist() == [False, True, True]


def sine(hz: float, samples: int = 6000) -> torch.Tensor:
    return torch.sin(2 * math.pi * hz * torch.arange(samples, dtype=torch.float64) / 100)[None, None]


EVERY = torch.ones(1, 1, 1, dtype=torch.bool)


@pytest.mark.parametrize("corner", [0.5, 1.0, 2.0])
def test_the_highpass_falls_by_3_db_at_its_corner_and_shifts_nothing(corner):
    for octaves, decibel in ((0, -3.01), (-1, -11.56), (-2, -22.63), (2, 0.0)):
        x = sine(corner * 2.0**octaves)
        y = highpass(x, EVERY, corner)[..., 1000:-1000]
        gain = (y * x[..., 1000:-1000]).sum() / (x[..., 1000:-1000] ** 2).sum()
        assert 20 * math.log10(gain) == pytest.approx(decibel, abs=0.15)
        torch.testing.assert_close(y, gain * x[..., 1000:-1000], rtol=0, atol=2e-3)  # in phase


def test_the_highpass_leaves_nothing_of_an_offset_at_ends_padding_and_gaps():
    x, inside = torch.full((2, 3, 1000), 7.0), torch.ones(2, 3, 1000, dtype=torch.bool)
    inside[0, 1, 300:420] = False
    inside[1, :, 600:] = False
    assert highpass(x, inside, 1.0).abs().max() < 1e-4
    assert not highpass(torch.randn(2, 3, 1000), inside, 1.0)[~inside].any()


def test_samples_outside_have_no_part_in_the_highpass():
    x, inside = torch.randn(1, 3, 1000), torch.ones(1, 3, 1000, dtype=torch.bool)
    inside[..., 500:600] = False
    garbage = torch.where(inside, x, 1e6)
    torch.testing.assert_close(highpass(garbage, inside, 1.0), highpass(x, inside, 1.0))


def test_a_window_that_is_shorter_than_the_filter_is_filtered_too():
    x = torch.randn(1, 3, 20) + 5
    y = highpass(x, torch.ones(1, 1, 20, dtype=torch.bool), 0.1)
    torch.testing.assert_close(y, x - x.mean(dim=-1, keepdim=True), rtol=0, atol=0.02)


def test_small_waves_on_a_large_swell_come_out_with_unit_deviation():
    """Of microseisms thirty times as large hardly anything is left, whatever the unit; autocast does not reach it."""
    swell, wave = 30 * sine(0.1).expand(1, 3, -1), sine(5.0).expand(1, 3, -1)
    for unit in (1e-12, 1.0, 1e9):
        with torch.autocast("cpu", torch.bfloat16):
            y = standardize(((swell + wave) * unit).float(), highpass_hz=1.0)
        assert y.dtype == torch.float32
        torch.testing.assert_close(y.std(dim=-1, correction=0), torch.ones(1, 3), rtol=1e-4, atol=0)
        share = (y * wave).mean() / (wave**2).mean().sqrt()
        assert share > 0.85
    assert (standardize(swell + wave) * wave).mean() < 0.05, "without it there is nothing to see"


def test_dead_components_and_padding_stay_zero_behind_the_highpass():
    x = torch.randn(2, 3, 500)
    x[:, 1] = 123456.7
    y = standardize(x, torch.tensor([500, 321]), highpass_hz=1.0)
    assert not y[:, 1].any()
    assert not y[1, :, 321:].any()
    torch.testing.assert_close(y[1, 0, :321], standardize(x[1:, :1, :321], highpass_hz=1.0)[0, 0])
