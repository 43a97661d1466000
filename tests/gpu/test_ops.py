"""The kernels on a GPU in bfloat16: twice the error of plain PyTorch and 2 % at most, and always the same bits."""

import itertools
import math

import pytest
import torch

from model.config import MaskConfig, QuantizerConfig
from model.draws import Draws
from model.masking import span_mask
from model.ops.agreement import (
    Problem,
    add_norm_problem,
    contrast_problem,
    conv_qkv_gates_problem,
    disagreements,
    errors,
    feed_forward_problem,
    head_norm_gate_problem,
    linear_norm_gelu_problem,
    mlstm_cell_problem,
    mlstm_mixer_problem,
    norm_gelu_problem,
    value_and_gradients,
)
from model.ops.gumbel_codes import gumbel_noise, sample_codes
from model.ops.mlstm_cell import mlstm_cell
from model.quantizers.gumbel import GumbelQuantizer
from raysys.train.optim import AdamW, StepGuard

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]

CELLS = {
    "level 1": (4, 4, 1024, 64),
    "level 2": (4, 4, 256, 128),
    "level 3": (4, 4, 64, 256),
    "ragged": (2, 4, 1000, 64),
    "one frame more than a chunk": (2, 2, 65, 128),
    "two chunks of wide heads": (2, 2, 70, 256),
    "one frame": (2, 4, 1, 64),
    "narrow": (2, 2, 200, 16),
    "odd width": (2, 2, 90, 24),
    "65,536 samples": (1, 1, 16384, 64),
    "own values": (2, 2, 130, 64, 2),
}


@pytest.mark.parametrize("case", CELLS)
def test_cell(case):
    assert not disagreements(errors(mlstm_cell_problem(*CELLS[case])))


@pytest.mark.parametrize("igate", [-15.0, 15.0])
@pytest.mark.parametrize("fgate", [-15.0, 15.0])
def test_cell_with_extreme_gates(igate, fgate):
    problem = mlstm_cell_problem(1, 2, 500, 64, 1, (igate, 0.1), (fgate, 0.1))
    # With one gate wide open h = v, and gate gradients cancel to nothing.
    least = problem.inputs[2].detach().norm().item()
    assert not disagreements(errors(problem, least=least, ceiling=float("inf")))


def test_cell_gives_the_same_bits_ten_times():
    inputs = mlstm_cell_problem(8, 4, 300, 64).inputs
    first = value_and_gradients(lambda *x: mlstm_cell(*x, backend="triton"), inputs)
    for _ in range(9):
        again = value_and_gradients(lambda *x: mlstm_cell(*x, backend="triton"), inputs)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_cell_compiles_whole_under_autocast():
    inputs = mlstm_cell_problem(2, 2, 100, 32).inputs
    plain = value_and_gradients(lambda *x: mlstm_cell(*x) * 2, inputs)
    with torch.autocast("cuda", torch.bfloat16):
        compiled = value_and_gradients(torch.compile(lambda *x: mlstm_cell(*x) * 2, fullgraph=True), inputs)
    assert all(torch.equal(a, b) for a, b in zip(plain, compiled, strict=True))


@pytest.mark.parametrize("directions", [(False, True), (True,)])
@pytest.mark.parametrize("sizes", [(4, 1024, 256, 4), (3, 64, 1024, 4), (2, 77, 32, 2)])
def test_conv_qkv_gates(sizes, directions):
    assert not disagreements(errors(conv_qkv_gates_problem(*sizes, directions)))


@pytest.mark.parametrize("directions", [(False, True), (False,)])
@pytest.mark.parametrize("sizes", [(4, 1024, 256, 4), (4, 256, 512, 4), (3, 64, 1024, 4), (2, 77, 32, 2)])
def test_mlstm_mixer(sizes, directions):
    assert not disagreements(errors(mlstm_mixer_problem(*sizes, directions)))


@pytest.mark.parametrize("sizes", [(4, 1024, 128, 208), (3, 77, 32, 56), (1, 1, 16, 24)])
def test_feed_forward(sizes):
    assert not disagreements(errors(feed_forward_problem(*sizes)))


@pytest.mark.parametrize("sizes", [(4, 1024, 128), (4, 64, 512), (3, 77, 32), (1, 1, 16)])
def test_add_norm(sizes):
    assert not disagreements(errors(add_norm_problem(*sizes)))


@pytest.mark.parametrize("sizes", [(4, 2048, 256), (3, 77, 32), (1, 1, 16)])
def test_norm_gelu(sizes):
    assert not disagreements(errors(norm_gelu_problem(*sizes)))
    assert not disagreements(errors(linear_norm_gelu_problem(*sizes)))


@pytest.mark.parametrize("sizes", [(4, 672, 256), (2, 77, 32), (1, 1, 16)])
def test_contrast(sizes):
    # The loss of one frame, which has no other to be told from, is 0, and its gradient what rounding leaves.
    assert not disagreements(errors(contrast_problem(*sizes), least=1e-3))


@pytest.mark.parametrize("num_frames", [1024, 4096, 61])
def test_the_masks_of_a_gpu_are_those_of_a_cpu(num_frames):
    uniform = torch.rand(16, 2 * num_frames + 1, generator=torch.Generator().manual_seed(num_frames))
    config = MaskConfig()
    for ours, law in zip(span_mask(uniform.cuda(), config), span_mask(uniform, config), strict=True):
        assert torch.equal(ours.cpu(), law)


@pytest.mark.parametrize("sizes", [(2, 4, 1024, 4, 64), (2, 3, 64, 4, 256), (1, 2, 77, 3, 24)])
def test_head_norm_gate(sizes):
    assert not disagreements(errors(head_norm_gate_problem(*sizes)))


def sample_codes_problem(frames, groups, codes, width):
    """`sample_codes` of logits and a codebook; its ids are left out of the outputs."""
    gen = torch.Generator("cuda").manual_seed(frames)
    logits, codebook = (
        torch.randn(shape, generator=gen, device="cuda").bfloat16().requires_grad_()
        for shape in ((frames, groups, codes), (groups, codes, width))
    )
    weight = torch.rand(frames, generator=gen, device="cuda") / frames**0.5
    temperature, seed = torch.tensor(0.8, device="cuda"), torch.tensor([frames], device="cuda")

    def operator(logits, codebook, backend):
        q, _ids, mean = sample_codes(logits, codebook, temperature, weight, seed, backend=backend)
        return q, mean

    return Problem(operator, [logits, codebook], ["q", "mean", "dlogits", "dcodebook"])


SAMPLES = {
    "default": (5000, 2, 320, 128),
    "ragged": (37, 1, 5, 16),
    "three groups": (999, 3, 100, 24),
    "one frame": (1, 2, 64, 32),
    "many codes": (300, 2, 2000, 64),
}


@pytest.mark.parametrize("case", SAMPLES)
def test_sample(case):
    assert not disagreements(errors(sample_codes_problem(*SAMPLES[case])))


def test_noise_of_the_kernel_is_standard_gumbel():
    seed = torch.tensor([2**40 + 3], device="cuda")
    noise = gumbel_noise(seed, 20000, 2, 320)
    torch.testing.assert_close(noise, gumbel_noise(seed, 20000, 2, 320, backend="torch"), rtol=0, atol=5e-5)
    assert noise.isfinite().all()
    assert noise.double().mean().item() == pytest.approx(0.5772157, abs=2e-3)
    assert noise.double().var().item() == pytest.approx(math.pi**2 / 6, abs=8e-3)


def test_sample_gives_the_same_bits_ten_times():
    problem = sample_codes_problem(20000, 2, 320, 128)
    first, *others = (
        value_and_gradients(lambda *x: problem.operator(*x, backend="triton"), problem.inputs) for _ in range(10)
    )
    for again in others:
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_sample_compiles_whole_under_autocast():
    problem = sample_codes_problem(1000, 2, 320, 128)

    def run(*x):
        return problem.operator(*x, backend="triton")

    plain = value_and_gradients(run, problem.inputs)
    with torch.autocast("cuda", torch.bfloat16):
        compiled = value_and_gradients(torch.compile(run, fullgraph=True), problem.inputs)
    assert all(torch.equal(a, b) for a, b in zip(plain[:2], compiled[:2], strict=True))
    for a, b in zip(plain[2:], compiled[2:], strict=True):
        torch.testing.assert_close(a, b, rtol=2e-2, atol=1e-3 * a.abs().max().item())


def test_a_captured_quantizer_draws_new_noise_each_replay():
    quantizer = GumbelQuantizer(64, 32, QuantizerConfig()).cuda()
    quantizer.compile(dynamic=False)
    x, weight = torch.randn(2, 100, 64, device="cuda"), torch.ones(2, 100, device="cuda")
    quantizer.logits.weight.data.mul_(0.01)
    parameters = list(quantizer.parameters())

    def run():
        with torch.autocast("cuda", torch.bfloat16):
            out = quantizer(x, weight, Draws(x.device))
        return out.codes, torch.autograd.grad(
            out.targets.float().square().sum() + out.mean_probs[:, 0].sum(), parameters
        )

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        codes, grads = run()
    seen = []
    for _ in range(3):
        graph.replay()
        seen.append(codes.clone())
        assert all(grad.isfinite().all() for grad in grads)
    assert all((a != b).float().mean() > 0.9 for a, b in itertools.pairwise(seen))


def test_the_optimiser_takes_the_steps_of_pytorch():
    torch.manual_seed(0)
    shapes = ((300, 70), (5,), (4096,), (2, 8193))
    ours, theirs = ([torch.nn.Parameter(torch.randn(s, device="cuda")) for s in shapes] for _ in range(2))
    for a, b in zip(ours, theirs, strict=True):
        b.data.copy_(a.data)
    groups = [[{"params": p[:2], "weight_decay": 0.1}, {"params": p[2:], "weight_decay": 0.0}] for p in (ours, theirs)]
    for group in groups[0]:
        group["lr"] = torch.tensor(1e-2, device="cuda")
    mine = AdamW(groups[0], (0.9, 0.95), torch.device("cuda"))
    reference = torch.optim.AdamW(groups[1], lr=1e-2, betas=(0.9, 0.95))
    guard = StepGuard(torch.device("cuda"))
    for _ in range(5):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        norm = mine.grad_norm()
        torch.testing.assert_close(torch.nn.utils.clip_grad_norm_(theirs, 1.0), norm)
        guard.step(mine, norm, 1.0)
        reference.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
