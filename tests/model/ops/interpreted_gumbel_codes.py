"""`sample_codes` on the CPU, in Triton's interpreter. Run by test_interpreted.py, in a process with TRITON_INTERPRET=1."""

import pytest
import torch
from interpreted import assert_equal, cases, poisoned, poisoned_memory, tensors  # noqa: F401

from model.ops.gumbel_codes import count_codes, fused, gumbel_noise, sample_codes
from model.ops.gumbel_codes.fused import CodebookLaunch, LogitsLaunch
from model.ops.gumbel_codes.reference import sample_codes_reference

SEED = torch.tensor([0x1234_5678_9ABC_DEF])
SIZES = {
    "default": (11, 2, 320, 32),
    "two calls of the generator": (7, 2, 70, 24),
    "one group of few codes": (37, 1, 5, 16),
    "three groups": (13, 3, 17, 24),
    "one frame": (1, 2, 16, 8),
    "two codes": (70, 2, 2, 4),
    "many codes": (5, 1, 1000, 16),
}


def problem(frames, groups, codes, width, dtype=torch.float64):
    logits, codebook = (
        poisoned(x.detach()) for x in tensors((frames, groups, codes), (groups, codes, width), dtype=dtype)
    )
    weight = torch.rand(frames, generator=torch.Generator().manual_seed(2), dtype=dtype) * 2 / frames
    weight[-1] = 0 if frames > 1 else 1
    return [logits, codebook], poisoned(weight).detach()


def run(function, inputs):
    """Outputs of (q, ids, mean) and the gradients of logits and codebook, for a fixed random sum of q and mean."""
    q, ids, mean = function(*inputs)
    gen = torch.Generator().manual_seed(1)
    loss = sum((x * torch.randn(x.shape, generator=gen, dtype=torch.float64)).sum() for x in (q, mean))
    return [q, ids.double(), mean, *torch.autograd.grad(loss, inputs)]


def both(sizes, dtype=torch.float64, temperature=0.7):
    inputs, weight = problem(*sizes, dtype)
    temperature, noise = torch.tensor(temperature), gumbel_noise(SEED, *sizes[:3], backend="triton")
    ours = run(lambda *x: sample_codes(*x, temperature, weight, SEED, backend="triton"), inputs)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    return ours, run(lambda *x: sample_codes_reference(*x, temperature, weight.double(), noise), exact)


@pytest.mark.parametrize("case", cases(SIZES, "two calls of the generator"))
def test_sample_equals_reference(case):
    assert_equal(*both(SIZES[case]), 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [2.0, 0.1])
def test_sample_at_any_temperature(temperature):
    assert_equal(*both((20, 2, 40, 16), temperature=temperature), 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["one group of few codes", "three groups"])
def test_sample_in_single_precision(case):
    assert_equal(*both(SIZES[case], torch.float32), 1e-5)


def test_runs_of_several_tiles(monkeypatch):
    monkeypatch.setattr("model.ops.gumbel_codes.fused.FORWARD", LogitsLaunch(256, 4, 4))
    monkeypatch.setattr("model.ops.gumbel_codes.fused.BACKWARD", LogitsLaunch(256, 4))
    monkeypatch.setattr("model.ops.gumbel_codes.fused.CODEBOOK", CodebookLaunch(16, 16, 16, 4, 1, 24))
    assert_equal(*both((36, 2, 20, 40)), 1e-10)


@pytest.mark.slow
def test_confident_logits_give_finite_gradients():
    inputs, weight = problem(20, 2, 64, 8)
    inputs[0] = (inputs[0].detach() * 1e4).requires_grad_()
    out = run(lambda *x: sample_codes(*x, torch.tensor(0.1), weight, SEED, backend="triton"), inputs)
    assert all(x.isfinite().all() for x in out)


@pytest.mark.parametrize("sizes", [(5, 2, 320), (33, 3, 5), (3, 1, 1000)])
def test_kernel_makes_the_noise_of_the_reference(sizes):
    ours, ref = (gumbel_noise(SEED, *sizes, backend=backend) for backend in ("triton", "torch"))
    torch.testing.assert_close(ours, ref, rtol=1e-6, atol=2e-6)


def test_always_the_same_bits():
    first, again = both((5, 2, 20, 16))[0], both((5, 2, 20, 16))[0]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_a_nan_stays_inside_of_the_codebook():
    inputs, weight = problem(4, 1, 20, 8)
    logits = inputs[0].detach().clone()
    logits[1] = float("nan")
    _, ids, _ = sample_codes(logits, inputs[1].detach(), torch.tensor(1.0), weight, SEED, backend="triton")
    assert ((ids >= 0) & (ids < 20)).all()


@pytest.mark.parametrize("programs", [fused.COUNT_PROGRAMS, 6])
@pytest.mark.parametrize(
    ("frames", "groups", "codes"), [(1, 1, 2), (300, 3, 17), pytest.param(5000, 3, 17, marks=pytest.mark.slow)]
)
def test_counts_equal_reference(frames, groups, codes, programs, monkeypatch):
    monkeypatch.setattr(fused, "COUNT_PROGRAMS", programs)
    gen = torch.Generator().manual_seed(0)
    ids, weight = torch.randint(codes, (frames, groups), generator=gen), torch.rand(frames, generator=gen)
    exact = count_codes(ids, weight.double(), codes, backend="torch")
    assert_equal([count_codes(ids, weight, codes, backend="triton")], [exact], 1e-6)
