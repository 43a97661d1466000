"""The cell over all pairs of frames, in Triton's interpreter. Run by test_interpreted.py, in a process with TRITON_INTERPRET=1."""

import pytest
import torch
from interpreted import (  # noqa: F401 (a fixture)
    assert_equal,
    cases,
    cell_inputs,
    poisoned,
    poisoned_memory,
    tensors,
    value_and_gradients,
)

from model.ops.mlstm_cell import fused, mlstm_cell
from model.ops.mlstm_cell.fused import CellLaunch, Pairs, Plan


def run(inputs, backend="triton", eps=0.0):
    # With eps = 0 the stabiliser cancels, and kernels and reference have exactly the same gradient.
    return value_and_gradients(lambda *x: mlstm_cell(*x, backend=backend, eps=eps), inputs)


def cut(monkeypatch, chunk, tile, pairs=True):
    """Small chunks and tiles, so that short sequences have several of each."""
    one = CellLaunch(tile, part=max(16, chunk // 2))

    def plan(rows, length, dim, element_size, shared_memory):
        count = -(-length // chunk)
        parts = dict.fromkeys(("hidden", "grad", "states", "states_grad"), one)
        return Plan(
            chunk=chunk,
            num_chunks=count,
            chunks=count,
            **parts,
            pairs=Pairs(hidden=one, queries_grad=one, keys_grad=one) if pairs else None,
        )

    monkeypatch.setattr(fused, "plan", plan)


CELLS = {
    "two chunks, the last one short": ((2, 20, 2, 16), (16, 16)),
    "the last chunk of one frame": ((1, 33, 2, 16), (16, 16)),
    "four chunks, own values": ((1, 60, 1, 16, 2), (16, 16)),
    "more chunks than a plan takes": ((1, 70, 1, 16), (16, 16)),
    "several tiles": ((1, 40, 1, 32), (16, 16)),
    "several tiles, the last one narrow": ((1, 20, 1, 24), (16, 16)),
    "three tiles, the last one narrow, own values": ((1, 40, 1, 40, 2), (16, 16)),
    "chunks in parts, the last one short": ((1, 70, 1, 16), (32, 16)),
    "chunks in parts, several tiles, own values": ((1, 90, 1, 24, 2), (32, 16)),
    "channels that are no power of two": ((1, 36, 2, 24), (16, 32)),
    "wide gates": ((1, 60, 1, 16, 1, 5.0), (16, 16)),
}
CORE = (
    "two chunks, the last one short",
    "four chunks, own values",
    "several tiles, the last one narrow",
    "chunks in parts, the last one short",
)


@pytest.mark.parametrize("case", cases(CELLS, *CORE))
def test_pairs_equal_reference(case, monkeypatch):
    sizes, cuts = CELLS[case]
    cut(monkeypatch, *cuts)
    inputs = cell_inputs(*sizes)
    assert_equal(run(inputs), run(inputs, "reference"), 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("length", [65, 200])
def test_full_sizes_equal_pytorch(length, monkeypatch):
    cut(monkeypatch, 64, 128)
    inputs = cell_inputs(1, length, 1, 128)
    assert_equal(run(inputs), run(inputs, "torch"), 1e-10)


@pytest.mark.slow
def test_pairs_equal_reference_in_one_direction(monkeypatch):
    cut(monkeypatch, 16, 16)
    inputs = [poisoned(x.detach()[:1]) for x in cell_inputs(2, 50, 1, 16)]
    assert_equal(run(inputs), run(inputs, "reference"), 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_pairs_equal_chunks_with_states(dtype, monkeypatch):
    inputs = cell_inputs(1, 60, 1, 16, dtype=dtype)
    cut(monkeypatch, 16, 16, pairs=False)
    ref = run(inputs)
    cut(monkeypatch, 16, 16)
    assert_equal(run(inputs), [x.double() for x in ref], 1e-10 if dtype == torch.float64 else 1e-5)


@pytest.mark.slow
def test_pairs_in_single_precision(monkeypatch):
    cut(monkeypatch, 16, 16)
    ref = run(cell_inputs(1, 60, 1, 16), "reference", eps=1e-6)
    assert_equal(run(cell_inputs(1, 60, 1, 16, dtype=torch.float32), eps=1e-6), ref, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("igate", "fgate"), [(15.0, 15.0), (15.0, -15.0), (-15.0, 15.0), (-15.0, -15.0)])
def test_pairs_with_extreme_gates(igate, fgate, monkeypatch):
    cut(monkeypatch, 16, 16)
    q, k, v, i, f = cell_inputs(1, 60, 1, 16, spread=0.01)
    inputs = [q, k, v, poisoned(i.detach() + igate), poisoned(f.detach() + fgate)]
    assert_equal(run(inputs), run(inputs, "reference"), 1e-9)


@pytest.mark.slow
def test_pairs_gradcheck(monkeypatch):
    cut(monkeypatch, 16, 16)
    inputs = cell_inputs(1, 34, 1, 2)
    assert torch.autograd.gradcheck(lambda *x: mlstm_cell(*x, backend="triton"), inputs, fast_mode=True)
