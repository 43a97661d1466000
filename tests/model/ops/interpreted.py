"""The kernels on the CPU, in Triton's interpreter. Collected by test_kernels.py, in a process with TRITON_INTERPRET=1."""

import pytest
import torch

from model.ops.combine import combine
from model.ops.mlstm import fused, mlstm
from model.ops.mlstm.fused import Launch, Plan
from model.ops.project import project


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Fresh memory is NaN, so that an element that no kernel writes shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def poisoned(x):
    """The same values in the middle of a buffer of NaN, so that stray reads show."""
    buffer = x.new_full((x.numel() + 512,), float("nan"))
    buffer[256:-256] = x.flatten()
    return buffer[256:-256].view(x.shape).requires_grad_()


def tensors(*shapes, seed=0, dtype=torch.float64):
    gen = torch.Generator().manual_seed(seed)
    return [poisoned(torch.randn(s, generator=gen, dtype=torch.float64).to(dtype)) for s in shapes]


def value_and_gradients(function, inputs):
    out = function(*inputs)
    out = out if isinstance(out, tuple) else (out,)
    gen = torch.Generator().manual_seed(1)
    loss = sum((x * torch.randn(x.shape, generator=gen, dtype=torch.float64)).sum() for x in out)
    return [*out, *torch.autograd.grad(loss, inputs)]


def assert_equal(ours, ref, tolerance):
    for number, (a, b) in enumerate(zip(ours, ref, strict=True)):
        assert (a.double() - b).norm() <= tolerance * b.norm() + 1e-14, f"output {number}"


def cell_inputs(batch, length, heads, dim, value_directions=1, spread=1.0, dtype=torch.float64):
    shape = (batch, length, heads)
    q, k, v, i, f = tensors(
        (2, *shape, dim), (2, *shape, dim), (value_directions, *shape, dim), (2, *shape), (2, *shape)
    )
    i, f = i * spread, f * spread + 2
    return [poisoned(x.detach().to(dtype)) for x in (q, k, v, i, f)]


def cut(monkeypatch, chunk, tile, chunks):
    """Small chunks, tiles and segments, so that short sequences have several of each."""

    def plan(rows, length, dim, element_size, shared_memory):
        one = Launch(tile, early=dim <= tile)
        parts = {"hidden": one, "grad": one, "states": Launch(16), "states_grad": Launch(16)}
        return Plan(chunk=chunk, num_chunks=-(-length // chunk), chunks=chunks, **parts)

    monkeypatch.setattr(fused, "plan", plan)


CELLS = {
    "default plan": ((1, 5, 2, 4), None),
    "one frame": ((1, 1, 1, 16), None),
    "one chunk, several tiles": ((1, 10, 1, 40), (16, 16, 1)),
    "one segment, own values": ((1, 40, 2, 8, 2), (16, 16, 3)),
    "several tiles": ((1, 20, 1, 32), (16, 16, 3)),
    "segments, the last one short": ((1, 70, 1, 16), (16, 16, 2)),
    "segments of one chunk": ((1, 36, 1, 24), (16, 32, 1)),
    "wide gates": ((1, 60, 1, 16, 1, 5.0), (16, 16, 2)),
}


@pytest.mark.parametrize("case", CELLS)
def test_cell_equals_reference(case, monkeypatch):
    sizes, cuts = CELLS[case]
    if cuts:
        cut(monkeypatch, *cuts)
    inputs = cell_inputs(*sizes)
    # With eps = 0 the stabiliser cancels, and kernels and reference have exactly the same gradient.
    ref = value_and_gradients(lambda *x: mlstm(*x, backend="reference", eps=0.0), inputs)
    assert_equal(value_and_gradients(lambda *x: mlstm(*x, backend="triton", eps=0.0), inputs), ref, 1e-10)


def test_cell_in_single_precision(monkeypatch):
    cut(monkeypatch, 16, 16, 2)
    ref = value_and_gradients(lambda *x: mlstm(*x, backend="reference"), cell_inputs(1, 70, 1, 16))
    inputs = cell_inputs(1, 70, 1, 16, dtype=torch.float32)
    assert_equal(value_and_gradients(lambda *x: mlstm(*x, backend="triton"), inputs), ref, 1e-5)


@pytest.mark.parametrize(("igate", "fgate"), [(15.0, 15.0), (15.0, -15.0), (-15.0, 15.0), (-15.0, -15.0)])
def test_cell_with_extreme_gates(igate, fgate, monkeypatch):
    cut(monkeypatch, 16, 16, 1)
    q, k, v, i, f = cell_inputs(1, 36, 1, 16, spread=0.01)
    inputs = [q, k, v, poisoned(i.detach() + igate), poisoned(f.detach() + fgate)]
    ref = value_and_gradients(lambda *x: mlstm(*x, backend="reference", eps=0.0), inputs)
    assert_equal(value_and_gradients(lambda *x: mlstm(*x, backend="triton", eps=0.0), inputs), ref, 1e-9)


def test_cell_gradcheck(monkeypatch):
    cut(monkeypatch, 16, 16, 1)
    inputs = cell_inputs(1, 18, 1, 2)
    assert torch.autograd.gradcheck(lambda *x: mlstm(*x, backend="triton"), inputs, fast_mode=True)


@pytest.mark.parametrize("directions", [(False, True), (True,)])
@pytest.mark.parametrize("sizes", [(2, 21, 32, 2), (1, 1, 48, 3)])
def test_project_equals_reference(sizes, directions):
    batch, length, inner, heads = sizes
    blocks = (inner // 4, 4, 4)
    inputs = tensors(
        (batch, length, 2 * inner), (inner, 4), (inner,), blocks, blocks, blocks, (2 * heads, 3 * inner), (2 * heads,)
    )

    def run(backend):
        return lambda wide, *rest: project(wide[..., :inner], *rest, directions=directions, backend=backend)

    assert_equal(value_and_gradients(run("triton"), inputs), value_and_gradients(run("torch"), inputs), 1e-10)


@pytest.mark.parametrize("sizes", [(2, 2, 21, 2, 16), (1, 1, 5, 3, 24)])
def test_combine_equals_reference(sizes):
    directions, batch, length, heads, dim = sizes
    inner = heads * dim
    shapes = ((directions, batch, length, inner), (batch, length, 2 * inner), (inner,), (inner,))
    inputs = tensors((directions, batch, length, heads, dim), *shapes)

    def run(backend):
        return lambda h, conv, wide, *rest: combine(h, conv, wide[..., inner:], *rest, backend=backend)

    assert_equal(value_and_gradients(run("triton"), inputs), value_and_gradients(run("torch"), inputs), 1e-10)
