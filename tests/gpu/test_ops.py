"""The kernels on a GPU in bfloat16: at most twice the error of plain PyTorch in the same dtype, and always the same bits."""

import pytest
import torch

from model.ops.combine import combine
from model.ops.mlstm import mlstm
from model.ops.project import project

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]
FLOOR = 4e-3
"""Error of rounding results to bfloat16, about; below it there is nothing to compare."""


def cell_inputs(batch, heads, length, dim, value_directions=1, gate=(0.0, 1.0), fgate=(4.0, 1.0)):
    gen = torch.Generator("cuda").manual_seed(length)

    def normal(*shape):
        return torch.randn(*shape, generator=gen, device="cuda")

    q, k = (normal(2, batch, length, heads, dim).bfloat16() for _ in range(2))
    v = normal(value_directions, batch, length, heads, dim).bfloat16()
    igate = normal(2, batch, length, heads) * gate[1] + gate[0]
    fgate = normal(2, batch, length, heads) * fgate[1] + fgate[0]
    return [x.requires_grad_() for x in (q, k, v, igate, fgate)]


def value_and_gradients(function, tensors):
    out = function(*tensors)
    out = out if isinstance(out, tuple) else (out,)
    gen = torch.Generator("cuda").manual_seed(1)
    loss = sum((x.double() * torch.randn(x.shape, generator=gen, device="cuda")).sum() for x in out)
    return [*out, *torch.autograd.grad(loss, tensors)]


def assert_as_good_as_torch(kernel, plain, tensors, names, least=0.0):
    """`least` is the norm below which a quantity counts as the rounding error of the terms that cancel in it."""
    exact = value_and_gradients(plain, [x.detach().double().requires_grad_() for x in tensors])
    ours, native = value_and_gradients(kernel, tensors), value_and_gradients(plain, tensors)
    for name, a, b, ref in zip(names.split(), ours, native, exact, strict=True):
        scale = ref.norm().clamp_min(max(least, 1e-30))
        error, allowed = (a.double() - ref).norm() / scale, (b.double() - ref).norm() / scale
        assert a.isfinite().all(), name
        assert error <= max(2 * allowed, FLOOR), f"{name}: {error:.1e}, plain PyTorch has {allowed:.1e}"


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
    tensors = cell_inputs(*CELLS[case])
    assert_as_good_as_torch(
        lambda *x: mlstm(*x, backend="triton"), lambda *x: mlstm(*x, backend="torch"), tensors, "h q k v i f"
    )


@pytest.mark.parametrize("igate", [-15.0, 15.0])
@pytest.mark.parametrize("fgate", [-15.0, 15.0])
def test_cell_with_extreme_gates(igate, fgate):
    tensors = cell_inputs(1, 2, 500, 64, 1, (igate, 0.1), (fgate, 0.1))
    assert_as_good_as_torch(
        lambda *x: mlstm(*x, backend="triton"),
        lambda *x: mlstm(*x, backend="torch"),
        tensors,
        "h q k v i f",
        least=tensors[2].detach().norm().item(),  # with one gate wide open h = v, and gate gradients cancel to nothing
    )


def test_cell_gives_the_same_bits_ten_times():
    tensors = cell_inputs(8, 4, 300, 64)
    first = value_and_gradients(lambda *x: mlstm(*x, backend="triton"), tensors)
    for _ in range(9):
        again = value_and_gradients(lambda *x: mlstm(*x, backend="triton"), tensors)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_cell_compiles_whole_under_autocast():
    tensors = cell_inputs(2, 2, 100, 32)
    plain = value_and_gradients(lambda *x: mlstm(*x) * 2, tensors)
    with torch.autocast("cuda", torch.bfloat16):
        compiled = value_and_gradients(torch.compile(lambda *x: mlstm(*x) * 2, fullgraph=True), tensors)
    assert all(torch.equal(a, b) for a, b in zip(plain, compiled, strict=True))


def project_inputs(batch, length, inner, heads):
    gen = torch.Generator("cuda").manual_seed(length)
    shapes = (
        (batch, length, inner),
        (inner, 4),
        (inner,),
        *[(inner // 4, 4, 4)] * 3,
        (2 * heads, 3 * inner),
        (2 * heads,),
    )
    scales = (1, 0.5, 0.1, 0.5, 0.5, 0.5, 0.05, 1)
    tensors = [torch.randn(s, generator=gen, device="cuda") * x for s, x in zip(shapes, scales, strict=True)]
    return [x.bfloat16().requires_grad_() for x in tensors]


@pytest.mark.parametrize("directions", [(False, True), (True,)])
@pytest.mark.parametrize("sizes", [(4, 1024, 256, 4), (3, 64, 1024, 4), (2, 77, 32, 2)])
def test_project(sizes, directions):
    def run(backend):
        return lambda *x: project(*x, directions=directions, backend=backend)

    names = "conv q k v gates dx dtaps dbias dq dk dv dgate dgate_bias"
    assert_as_good_as_torch(run("triton"), run("torch"), project_inputs(*sizes), names)


@pytest.mark.parametrize("sizes", [(2, 4, 1024, 4, 64), (2, 3, 64, 4, 256), (1, 2, 77, 3, 24)])
def test_combine(sizes):
    directions, batch, length, heads, dim = sizes
    gen = torch.Generator("cuda").manual_seed(length)
    inner = heads * dim
    shapes = ((directions, batch, length, heads, dim), (directions, batch, length, inner), (batch, length, inner))
    tensors = [torch.randn(s, generator=gen, device="cuda") for s in (*shapes, (inner,), (inner,))]
    tensors = [x.bfloat16().requires_grad_() for x in tensors]
    assert_as_good_as_torch(
        lambda *x: combine(*x, backend="triton"), lambda *x: combine(*x, backend="torch"), tensors, "y h conv z w skip"
    )
