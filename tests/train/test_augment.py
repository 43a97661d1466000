"""Augmentation: each part alone does what it says, and nothing to what has no signal."""

import math

import pytest
import torch

from model.labels import Labels
from model.preprocess import highpass, standardize
from raysys.config_finetuning import AugmentConfig
from raysys.train.augment import augment

B, T = 64, 400
VALID = torch.full((B,), T)
OFF = {"flip": 0.0, "drop_component": 0.0, "noise": 0.0, "real_noise": 0.0, "gap": 0.0}


def labels(noise=0, onset=math.nan) -> Labels:
    """Of windows of which the last `noise` are noise, with a P at `onset`."""
    is_noise = torch.arange(B) >= B - noise
    return Labels(torch.full((B, 1), onset), torch.full((B, 1), math.nan), torch.empty(B, 0), is_noise, torch.zeros(B))


def windows(seed: int = 0) -> torch.Tensor:
    return torch.randn(B, 3, T, generator=torch.Generator().manual_seed(seed)) * torch.tensor([5.0, 0.5, 0.05])[:, None]


def augmented(x: torch.Tensor, given: Labels, valid=VALID, **on) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return augment(x, valid, given, AugmentConfig(**OFF | on))


def test_with_everything_off_only_the_unit_changes():
    x = windows()
    out, keep = augmented(x, labels())
    torch.testing.assert_close(standardize(out), standardize(x), rtol=1e-4, atol=1e-5)
    ratio = out.std(dim=-1) / x.std(dim=-1)
    torch.testing.assert_close(ratio, ratio[:, :1].expand(-1, 3), rtol=1e-3, atol=0)  # components keep their ratios
    assert keep.all()


def test_flips_reverse_all_components_of_a_part_of_the_windows():
    x = windows()
    product = (augmented(x, labels(), flip=0.5)[0] * x).sum(dim=-1).sign()
    assert (product == product[:, :1]).all()
    assert 0.3 < (product[:, 0] < 0).float().mean() < 0.7


def test_components_are_dropped_one_by_one():
    dead = (augmented(windows(), labels(), drop_component=0.3)[0] == 0).all(dim=-1)
    assert 0.15 < dead.float().mean() < 0.4
    assert (dead.sum(dim=1) == 2).any()


def test_the_last_component_that_is_alive_is_not_dropped():
    x = windows()
    x[:, 1:] = 0
    assert (augmented(x, labels(), drop_component=0.9)[0][:, 0] != 0).any(dim=-1).all()


def test_noise_is_in_proportion_to_each_component_and_spares_the_dead_and_the_padding():
    x, valid = windows(), VALID.clone()
    x[:, 2] = 0
    valid[:10] = 300
    out, _ = augmented(x, labels(), valid, noise=1.0)
    plain, _ = augmented(x, labels(), valid)
    assert not out[:, 2].any()
    assert not out[:10, :, 300:].any()
    added = (out - plain).std(dim=-1)
    torch.testing.assert_close(added[10:, 0] / added[10:, 1], torch.full((B - 10,), 10.0), rtol=0.3, atol=0)
    share = added[10:, 0] / plain[10:, 0].std(dim=-1)
    assert share.max() <= 1.1
    assert share.median() == pytest.approx(0.5**3, abs=0.08)


def test_samples_that_are_no_numbers_stay_zero():
    x = windows()
    x[:, 0, 100:120] = math.nan
    out, _ = augmented(x, labels(noise=8), noise=1.0, real_noise=1.0)
    assert not out[:, 0, 100:120].any()
    assert out.isfinite().all()


def test_real_noise_is_a_noise_window_of_the_batch_and_noise_stays_as_it_is():
    x, given = windows(), labels(noise=3)
    out, _ = augmented(x, given, real_noise=1.0)
    plain, _ = augmented(x, given)
    assert torch.equal(out[-3:], plain[-3:])
    added = torch.nn.functional.normalize((out - plain)[:-3, 0], dim=-1)
    noise = torch.nn.functional.normalize(plain[-3:, 0], dim=-1)
    alike = (added @ noise.T).abs()
    changed = (out - plain)[:-3, 0].std(dim=-1) > 1e-4
    assert (alike.max(dim=1).values[changed] > 0.99).all()
    assert len(set(alike.argmax(dim=1)[changed].tolist())) == 3
    assert torch.equal(augmented(x, labels(), real_noise=1.0)[0], augmented(x, labels())[0])  # none in the batch


def test_gaps_are_zeros_without_a_label_and_take_onsets_with_them():
    x, given = windows(), labels(onset=200.0)
    out, keep = augmented(x, given, gap=1.0)
    plain, _ = augmented(x, given)
    zero = (out == 0).all(dim=1) & (plain != 0).any(dim=1)
    assert not (keep & zero).any()
    assert zero.sum(dim=1).max() <= T / 4 + 1
    assert (zero.sum(dim=1) > 0).float().mean() > 0.9
    lost = zero[:, 200]
    assert lost.any()
    assert not keep[lost][:, 110:290].any()
    assert (keep | zero)[~lost].all()


def test_shapes_are_static():
    compiled = torch.compile(augment, fullgraph=True, backend="eager")
    out, keep = compiled(windows(), VALID, labels(noise=3), AugmentConfig(gap=0.5))
    assert out.shape == (B, 3, T)
    assert keep.shape == (B, T)


def test_a_component_that_only_has_an_offset_stays_dead():
    """Its deviation is that of rounding, which noise in proportion to it would turn into a signal as strong as any."""
    x = windows()
    x[:, 2] = 0.1
    out, _ = augmented(x, labels(noise=8), noise=1.0, real_noise=1.0)
    assert not standardize(out)[:, 2].any()


def test_an_s_in_a_gap_loses_its_shoulders_too():
    given = labels()._replace(s=torch.full((B, 1), 200.0))
    out, keep = augmented(windows(), given, gap=1.0)
    lost = (out == 0).all(dim=1)[:, 200]
    assert lost.any()
    assert not keep[lost][:, 110:290].any()


def on_a_swell(seed: int = 0) -> torch.Tensor:
    """Windows of noise on waves of 0.1 Hz that are ten times as large."""
    swell = torch.sin(2 * math.pi * 0.1 * torch.arange(T) / 100 + torch.arange(B)[:, None])
    return torch.randn(B, 3, T, generator=torch.Generator().manual_seed(seed)) + 10 * swell[:, None]


@pytest.mark.parametrize("kind", ["noise", "real_noise"])
def test_noise_is_in_proportion_to_what_the_highpass_of_the_network_leaves(kind):
    x, given = on_a_swell(), labels(noise=8 if kind == "real_noise" else 0)

    def added(highpass_hz: float) -> torch.Tensor:
        out = []
        for size in (1.0, 0.0):
            torch.manual_seed(0)
            out.append(augment(x, VALID, given, AugmentConfig(**OFF | {kind: size}), highpass_hz)[0])
        left = highpass(out[1], torch.ones(1, 1, T, dtype=torch.bool), 1.0).std(dim=-1)
        return ((out[0] - out[1]).std(dim=-1) / left)[: B - 8]

    assert added(1.0).max() < 1.6
    assert added(1.0).median() == pytest.approx(0.5**3, abs=0.1)
    assert added(0.0).median() > 3 * added(1.0).median(), "else it would bury the window"


def test_a_highpass_changes_nothing_where_there_is_no_noise():
    x = on_a_swell()
    torch.manual_seed(0)
    out, _ = augment(x, VALID, labels(), AugmentConfig(**OFF), 1.0)
    torch.testing.assert_close(standardize(out), standardize(x), rtol=1e-4, atol=1e-4)
