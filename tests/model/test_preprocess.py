import pytest
import torch

from model.preprocess import live_windows, standardize


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
