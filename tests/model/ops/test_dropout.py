"""The law of dropout: which elements stay, and how much of them."""

import pytest
import torch

from model.ops.dropout import draw_seeds, drop, keep_mask, threshold


def test_the_rate_is_rounded_to_sixteen_bits():
    assert [threshold(rate) for rate in (0.0, 0.1, 0.3, 0.5)] == [0, 6554, 19661, 32768]


def test_what_stays_is_scaled_by_the_fraction_that_stays():
    x, seed = torch.randn(2, 50, 64, dtype=torch.float64), torch.tensor(5)
    dropped = drop(x, seed, 0.3)
    kept = dropped != 0
    assert 0.65 < kept.double().mean() < 0.75
    torch.testing.assert_close(dropped[kept], x[kept] / (1 - 19661 / 65536), rtol=1e-12, atol=0)
    assert torch.equal(kept, keep_mask(seed, 100, 64, 0.3).view_as(kept))


def test_without_a_rate_x_itself_comes_back():
    x = torch.randn(1, 2, 16)
    assert drop(x, None, 0.0) is x


def test_the_bits_of_a_seed():
    """So that a run of a seed can be repeated by later versions of this project."""
    kept = keep_mask(torch.tensor(2**40 + 1), 2, 16, 0.5).int()
    assert ["".join(map(str, row.tolist())) for row in kept] == ["1101110100111011", "1011111000110111"]


@pytest.mark.parametrize("seed", [1, 2**33])
def test_all_of_a_seed_counts(seed):
    assert not torch.equal(keep_mask(torch.tensor(0), 4, 64, 0.5), keep_mask(torch.tensor(seed), 4, 64, 0.5))


def test_layers_get_seeds_where_kernels_drop():
    x = torch.zeros(1)
    assert draw_seeds(3, x, 0.1) == draw_seeds(3, x, 0.0, "triton") == [None] * 3
    seeds = draw_seeds(3, x, 0.1, "triton")
    assert (seeds.shape, seeds.dtype) == ((3, 2), torch.int64)
    assert len(seeds.unique()) == 6
