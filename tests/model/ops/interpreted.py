"""The kernels on the CPU, in Triton's interpreter. Run by test_interpreted.py, in a process with TRITON_INTERPRET=1.

Every file `interpreted*.py` has a core, which does every kernel once at small sizes, and cases marked slow for all the others.
"""

import pytest
import torch

from model.ops.conv_qkv_gates import conv_qkv_gates
from model.ops.conv_qkv_gates import fused as conv_qkv_gates_fused
from model.ops.head_norm_gate import fused as head_norm_gate_fused
from model.ops.head_norm_gate import head_norm_gate
from model.ops.mlstm_cell import fused, mlstm_cell
from model.ops.mlstm_cell.fused import CellLaunch, Plan
from model.ops.partial_sums import sum_each


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Fresh memory is NaN, so that an element that no kernel writes shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def cases(table, *core):
    """The names of a table of cases, those that are not in the core marked slow."""
    assert set(core) <= set(table)
    return [pytest.param(name, marks=() if name in core else pytest.mark.slow) for name in table]


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
        one = CellLaunch(tile, early=dim <= tile)
        parts = {"hidden": one, "grad": one, "states": CellLaunch(16), "states_grad": CellLaunch(16)}
        return Plan(chunk=chunk, num_chunks=-(-length // chunk), chunks=chunks, **parts)

    monkeypatch.setattr(fused, "plan", plan)


CELLS = {
    "several rows and heads": ((2, 20, 2, 8), (16, 16, 2)),
    "several segments of several tiles, own values": ((1, 36, 1, 24, 2), (16, 16, 1)),
    "default plan": ((1, 5, 2, 4), None),
    "one frame": ((1, 1, 1, 16), None),
    "one chunk, several tiles": ((1, 10, 1, 40), (16, 16, 1)),
    "one segment, own values": ((1, 40, 2, 8, 2), (16, 16, 3)),
    "several tiles": ((1, 20, 1, 32), (16, 16, 3)),
    "segments, the last one short": ((1, 100, 1, 16), (16, 16, 2)),
    "segments of one chunk": ((1, 52, 1, 24), (16, 32, 1)),
    "wide gates": ((1, 60, 1, 16, 1, 5.0), (16, 16, 2)),
}


@pytest.mark.parametrize("case", cases(CELLS, *list(CELLS)[:3]))
def test_cell_equals_reference(case, monkeypatch):
    sizes, cuts = CELLS[case]
    if cuts:
        cut(monkeypatch, *cuts)
    inputs = cell_inputs(*sizes)
    # With eps = 0 the stabiliser cancels, and kernels and reference have exactly the same gradient.
    ref = value_and_gradients(lambda *x: mlstm_cell(*x, backend="reference", eps=0.0), inputs)
    assert_equal(value_and_gradients(lambda *x: mlstm_cell(*x, backend="triton", eps=0.0), inputs), ref, 1e-10)


@pytest.mark.parametrize("fgate", [0.0, 6.0])
def test_states_of_inner_segments_of_several_chunks(fgate, monkeypatch):
    """Four segments, since no chunk starts from what the last one adds; where much fades, and where the past weighs more."""
    cut(monkeypatch, 16, 16, 2)
    q, k, v, i, f = (x.detach()[:1] for x in cell_inputs(1, 98, 1, 4))
    inputs = [poisoned(x) for x in (q, k, v, i, f + fgate)]
    ref = value_and_gradients(lambda *x: mlstm_cell(*x, backend="reference", eps=0.0), inputs)
    assert_equal(value_and_gradients(lambda *x: mlstm_cell(*x, backend="triton", eps=0.0), inputs), ref, 1e-10)


@pytest.mark.slow
def test_cell_in_single_precision(monkeypatch):
    cut(monkeypatch, 16, 16, 2)
    ref = value_and_gradients(lambda *x: mlstm_cell(*x, backend="reference"), cell_inputs(1, 70, 1, 16))
    inputs = cell_inputs(1, 70, 1, 16, dtype=torch.float32)
    assert_equal(value_and_gradients(lambda *x: mlstm_cell(*x, backend="triton"), inputs), ref, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("igate", "fgate"), [(15.0, 15.0), (15.0, -15.0), (-15.0, 15.0), (-15.0, -15.0)])
def test_cell_with_extreme_gates(igate, fgate, monkeypatch):
    cut(monkeypatch, 16, 16, 1)
    q, k, v, i, f = cell_inputs(1, 36, 1, 16, spread=0.01)
    inputs = [q, k, v, poisoned(i.detach() + igate), poisoned(f.detach() + fgate)]
    ref = value_and_gradients(lambda *x: mlstm_cell(*x, backend="reference", eps=0.0), inputs)
    assert_equal(value_and_gradients(lambda *x: mlstm_cell(*x, backend="triton", eps=0.0), inputs), ref, 1e-9)


@pytest.mark.parametrize("eps", [0.0, 0.5])
def test_eps_is_added_to_the_stabilised_denominator(eps, monkeypatch):
    cut(monkeypatch, 16, 16, 1)
    q, k, v, i, f = (x.detach() for x in cell_inputs(1, 20, 1, 16))
    ours, ref = (mlstm_cell(q, k, v, i, f, backend=backend, eps=eps) for backend in ("triton", "reference"))
    assert_equal([ours], [ref], 1e-10)


@pytest.mark.slow
def test_cell_gradcheck(monkeypatch):
    cut(monkeypatch, 16, 16, 1)
    inputs = cell_inputs(1, 18, 1, 2)
    assert torch.autograd.gradcheck(lambda *x: mlstm_cell(*x, backend="triton"), inputs, fast_mode=True)


def test_sums_of_tensors_of_different_numbers_of_runs():
    parts = [
        torch.randn(runs, size, dtype=torch.float64) for runs, size in ((1, 70), (3, 5), (130, 33), (600, 2), (2, 90))
    ]
    for some in (parts, parts[:2], parts[2:3]):
        assert_equal([sum_each(*some)], [torch.cat([part.sum(0) for part in some])], 1e-12)


def conv_qkv_gates_both(sizes, directions):
    """By the kernels, and by PyTorch."""
    batch, length, inner, heads = sizes
    blocks = (inner // 4, 4, 4)
    inputs = tensors(
        (batch, length, 2 * inner), (inner, 4), (inner,), blocks, blocks, blocks, (2 * heads, 3 * inner), (2 * heads,)
    )

    def run(backend):
        return lambda wide, *rest: conv_qkv_gates(wide[..., :inner], *rest, directions=directions, backend=backend)

    return [value_and_gradients(run(backend), inputs) for backend in ("triton", "torch")]


def test_conv_qkv_gates_backward_in_time_alone():
    assert_equal(*conv_qkv_gates_both((1, 6, 48, 3), (True,)), 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("directions", [(False, True), (True,)])
@pytest.mark.parametrize("sizes", [(2, 21, 32, 2), (1, 1, 48, 3)])
def test_conv_qkv_gates_equals_reference(sizes, directions):
    assert_equal(*conv_qkv_gates_both(sizes, directions), 1e-10)


def test_programs_of_project_that_do_several_tiles(monkeypatch):
    for name in ("BACKWARD", "WEIGHTS_BACKWARD", "CONVOLVE"):
        monkeypatch.setattr(conv_qkv_gates_fused, name, conv_qkv_gates_fused.TileLaunch(32, 16, 4))
    assert_equal(*conv_qkv_gates_both((2, 37, 32, 2), (False, True)), 1e-10)


def head_norm_gate_both(sizes):
    """By the kernels, and by PyTorch."""
    directions, batch, length, heads, dim = sizes
    inner = heads * dim
    shapes = ((directions, batch, length, inner), (batch, length, 2 * inner), (inner,), (inner,))
    inputs = tensors((directions, batch, length, heads, dim), *shapes)

    def run(backend):
        return lambda h, conv, wide, *rest: head_norm_gate(h, conv, wide[..., inner:], *rest, backend=backend)

    return [value_and_gradients(run(backend), inputs) for backend in ("triton", "torch")]


@pytest.mark.parametrize("sizes", [(2, 2, 21, 2, 16), (1, 1, 5, 3, 24)])
def test_head_norm_gate_equals_reference(sizes):
    assert_equal(*head_norm_gate_both(sizes), 1e-10)


def test_programs_of_combine_that_do_several_tiles(monkeypatch):
    monkeypatch.setattr(head_norm_gate_fused, "BACKWARD_ELEMENTS", 128)
    monkeypatch.setattr(head_norm_gate_fused, "WANTED_PROGRAMS", 4)
    assert_equal(*head_norm_gate_both((2, 2, 19, 2, 16)), 1e-10)
