"""`feed_forward` on the CPU, in Triton's interpreter. Run by test_interpreted.py, in a process with TRITON_INTERPRET=1."""

import pytest
import torch
from interpreted import assert_equal, cases, poisoned_memory, tensors, value_and_gradients  # noqa: F401

from model.ops.dropout import keep_mask
from model.ops.feed_forward import feed_forward, fused

SEEDS = torch.tensor([0x1234_5678_9ABC_DEF, 2**61 + 5])
SIZES = {
    "one tile": (2, 21, 16, 24),
    "several tiles, ragged": (1, 150, 32, 56),
    "one frame": (1, 1, 32, 8),
    "wide": (1, 5, 128, 40),
}


def problem(batch, length, width, hidden, dtype=torch.float64):
    weights = ((width,), (width,), (hidden, width), (hidden,), (width, hidden), (width,))
    return tensors((batch, length, width), (batch, length, width), *weights, dtype=dtype)


def both(sizes, dtype=torch.float64, **settings):
    ours = value_and_gradients(lambda *x: feed_forward(*x, backend="triton", **settings), problem(*sizes, dtype))
    return ours, value_and_gradients(lambda *x: feed_forward(*x, backend="torch", **settings), problem(*sizes))


@pytest.mark.parametrize("dropout", [0.0, 0.25])
@pytest.mark.parametrize("case", cases(SIZES, "one tile"))
def test_feed_forward_equals_reference(case, dropout):
    assert_equal(*both(SIZES[case], dropout=dropout, seeds=SEEDS), 1e-10)


def test_programs_that_do_several_tiles(monkeypatch):
    monkeypatch.setattr(fused, "WEIGHTS_PROGRAMS", 16)
    assert fused.weights_launched(torch.empty(70, 56, dtype=torch.float64), 32)[0] > 1
    assert_equal(*both((1, 70, 32, 56), dropout=0.25, seeds=SEEDS), 1e-10)


@pytest.mark.slow
def test_feed_forward_in_single_precision():
    assert_equal(*both(SIZES["several tiles, ragged"], torch.float32, dropout=0.1, seeds=SEEDS), 1e-5)


def test_without_seeds_pytorch_draws_some():
    """The same ones for the same state of its generator, and then others."""
    inputs = [x.detach() for x in problem(*SIZES["one tile"])]
    found = []
    for state in (1, 1, 2):
        torch.manual_seed(state)
        found.append(feed_forward(*inputs, dropout=0.5, backend="triton"))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    torch.manual_seed(1)
    seeds = torch.randint(2**62, (2,))
    assert torch.equal(found[0], feed_forward(*inputs, dropout=0.5, seeds=seeds, backend="triton"))


def test_the_kept_fraction_and_the_two_masks():
    first, second = (keep_mask(seed, 500, 64, 0.1) for seed in SEEDS)
    for mask in (first, second):
        assert (mask.double().mean() - 0.9).abs() < 5 * (0.09 / mask.numel()) ** 0.5
    together = (first & second).double().mean()
    assert (together - 0.81).abs() < 5 * (0.81 * 0.19 / first.numel()) ** 0.5
