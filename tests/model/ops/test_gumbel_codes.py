"""The Gumbel quantizer's sampling: its noise and its law."""

import math

import pytest
import torch

pytest.importorskip("triton")
from model.config import QuantizerConfig
from model.draws import Draws, KeyedDraws
from model.ops.gumbel_codes import gumbel_noise, sample_codes
from model.ops.gumbel_codes.reference import sample_codes_reference
from model.ops.philox import philox
from model.quantizers.gumbel import GumbelQuantizer, StraightThroughCodes


def test_random_bits_are_those_of_philox():
    """Known answer of Random123 for Philox4x32-10 with counter and key zero."""
    zero = torch.zeros(1, dtype=torch.int64)
    assert [int(x) for x in philox(zero[0], zero, zero)] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


def test_noise_is_standard_gumbel():
    noise = gumbel_noise(torch.tensor([7]), 4000, 2, 320).double()
    assert noise.isfinite().all()
    spread = math.pi / math.sqrt(6 * noise.numel())
    assert noise.mean().item() == pytest.approx(0.5772157, abs=4 * spread)
    # The fourth moment of a Gumbel variable is 5.4 squared variances.
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, rel=4 * math.sqrt(4.4 / noise.numel()))
    points = torch.linspace(0.001, 0.999, 50, dtype=torch.float64)
    below = torch.stack([(noise < x).double().mean() for x in -(-points.log()).log()])
    assert (below - points).abs().max() < 4 * 0.5 / math.sqrt(noise.numel())
    for rows in (noise.flatten(0, 1), noise.permute(2, 1, 0).flatten(0, 1)):
        assert len(rows.unique(dim=0)) == len(rows)
    centred = (noise - noise.mean()) / noise.std()
    for other in (centred.roll(1, 0), centred.roll(1, 1), centred.roll(1, 2), centred.roll(16, 2)):
        assert (centred * other).mean().abs() < 5 / math.sqrt(noise.numel())


def test_the_noise_of_a_seed():
    """So that a run of a seed can be repeated by later versions of this project."""
    seed = torch.tensor([2**40 + 1])
    of_few = torch.tensor([2.414505959, 0.466339469, 0.650606275, -0.355818212, -0.782967389])
    torch.testing.assert_close(gumbel_noise(seed, 2, 1, 5)[0, 0], of_few, rtol=1e-6, atol=1e-6)
    of_many = torch.tensor([-1.085736752, 1.347913504, 1.955645680, -0.052135427])
    torch.testing.assert_close(gumbel_noise(seed, 2, 2, 320)[1, 1, ::80], of_many, rtol=1e-6, atol=1e-6)


def test_noise_is_a_function_of_all_of_the_seed():
    seeds = [0, 1, 2**31, 2**32, 2**33 + 5, 2**61]
    noise = [gumbel_noise(torch.tensor([seed]), 3, 2, 20) for seed in seeds]
    assert len(torch.stack(noise).flatten(1).unique(dim=0)) == len(seeds)
    assert torch.equal(noise[1], gumbel_noise(torch.tensor(1), 3, 2, 20))


def test_reference_is_the_quantizers_function():
    gen = torch.Generator().manual_seed(0)
    logits, codebook = (torch.randn(s, generator=gen, dtype=torch.float64) for s in ((50, 2, 16), (2, 16, 8)))
    weight, temperature, seed = torch.rand(50, generator=gen).double(), torch.tensor(0.6), torch.tensor([5])
    noise = gumbel_noise(seed, *logits.shape)
    found = []
    for function in (
        lambda x, c: StraightThroughCodes.apply(x, noise, c, temperature, weight),
        lambda x, c: sample_codes_reference(x, c, temperature, weight, noise),
        lambda x, c: sample_codes(x, c, temperature, weight, seed),
    ):
        inputs = [x.clone().requires_grad_() for x in (logits, codebook)]
        q, ids, mean = function(*inputs)
        grads = torch.autograd.grad((q * q.detach().cos()).sum() + (mean * mean.detach().sin()).sum(), inputs)
        found.append((q, ids, mean, *grads))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_shapes_are_known_before_anything_runs():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        logits = torch.empty(30, 2, 320, dtype=torch.bfloat16, requires_grad=True)
        codebook = torch.empty(2, 320, 128, requires_grad=True)
        small = torch.empty(()), torch.empty(30), torch.empty(1, dtype=torch.int64)
        q, ids, mean = sample_codes(logits, codebook, *small, backend="triton")
        assert (q.shape, q.dtype) == ((30, 2, 128), torch.bfloat16)
        assert (ids.shape, ids.dtype) == ((30, 2), torch.int64)
        assert (mean.shape, mean.dtype) == ((2, 320), torch.float32)
        for x in (logits, codebook):
            (grad,) = torch.autograd.grad(q.sum() + mean.sum(), x, retain_graph=True)
            assert (grad.shape, grad.dtype) == (x.shape, x.dtype)


def test_only_draws_of_a_generator_hand_out_seeds():
    draws = Draws(torch.device("cpu"), torch.Generator().manual_seed(3))
    assert draws.seed() != draws.seed()
    assert draws.seed().shape == (1,)
    assert KeyedDraws(torch.arange(3)).seed() is None


def test_a_quantizer_on_the_cpu_draws_its_noise_as_before():
    quantizer = GumbelQuantizer(12, 8, QuantizerConfig(num_codes=16, code_dim=8))
    x, weight = torch.randn(2, 9, 12), torch.ones(2, 9)
    codes = quantizer(x, weight, Draws(x.device, torch.Generator().manual_seed(1))).codes
    noise = Draws(x.device, torch.Generator().manual_seed(1)).gumbel(2, 9, 2, 16)
    assert torch.equal(codes, (quantizer.logits(x).unflatten(-1, (2, -1)) + noise).argmax(-1))


def test_bad_arguments_are_named():
    x, c = torch.zeros(3, 1, 4), torch.zeros(1, 4, 16)
    rest = torch.ones(()), torch.ones(3), torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ValueError, match="backend='cuda'"):
        sample_codes(x, c, *rest, backend="cuda")
    with pytest.raises(ValueError, match="use backend='torch'"):
        sample_codes(x, c, *rest, backend="triton")
    with pytest.raises(ValueError, match="not 5000, of at most"):
        sample_codes(torch.zeros(3, 1, 5000), torch.zeros(1, 5000, 16), *rest, backend="triton")
