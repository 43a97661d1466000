"""How the kernels of the mLSTM cell cut its work, and what they say of its outputs before anything runs."""

import pytest
import torch

pytest.importorskip("triton")
from model.ops.mlstm_cell import mlstm_cell
from model.ops.mlstm_cell.fused import FEW, ROOMY, WIDE, plan

SMALL = 101_376
"""Bytes of shared memory of an L4 or RTX 4090."""


def numbers(cut):
    """Chunk and chunks of a segment; tile, registers and whether all is loaded early, of hidden, grad and states."""
    launches = [(x.tile, x.registers, x.early) for x in (cut.hidden, cut.grad, cut.states, cut.states_grad)]
    return cut.chunk, cut.num_chunks, cut.chunks, cut.pairs is not None, *launches


@pytest.mark.parametrize(
    ("problem", "wanted"),
    [
        ((512, 1024, 64), (64, 16, 16, False, (64, 128, True), (64, None, True), (64, 128, False), (64, 128, False))),
        ((512, 256, 128), (64, 4, 4, True, (128, None, False), (128, None, False), *[(128, None, False)] * 2)),
        ((512, 64, 256), (64, 1, 1, False, (64, None, False), (128, None, False), *[(128, None, False)] * 2)),
        ((512, 256, 128, 2, SMALL), (64, 4, 4, True, (128, None, False), (64, None, False), *[(128, None, False)] * 2)),
        ((512, 1024, 64, 4), (64, 16, 16, False, *[(64, None, False)] * 4)),
        (
            (512, 1024, 64, 4, SMALL),
            (64, 16, 16, False, (64, None, False), (32, None, False), *[(64, None, False)] * 2),
        ),
        ((8, 1000, 64), (64, 16, 1, False, (64, 128, True), (64, None, True), (64, 128, False), (64, 128, False))),
        ((100, 300, 24), (64, 5, 1, False, (32, 128, True), (32, None, True), (32, 128, False), (32, 128, False))),
        ((200, 1000, 64), (64, 16, 8, False, (64, 128, True), (64, None, True), (64, 128, False), (64, 128, False))),
        ((512, 20, 16), (32, 1, 1, False, (16, 128, True), (16, None, True), (16, 128, False), (16, 128, False))),
    ],
)
def test_the_measured_cuts(problem, wanted):
    """Levels of `base`, then a small GPU, fp32, few rows, and short windows."""
    assert numbers(plan(*problem)) == wanted


@pytest.mark.parametrize("element_size", [2, 4, 8])
@pytest.mark.parametrize("dim", [1, 16, 24, 64, 100, 128, 256])
def test_tiles_are_wide_enough_for_a_product_and_hold_an_early_head(dim, element_size):
    for room in (SMALL, ROOMY):
        cut = plan(512, 1024, dim, element_size, room)
        for launch in (cut.hidden, cut.grad, cut.states, cut.states_grad):
            assert launch.tile >= 16
            assert launch.tile >= dim or not launch.early


def test_short_sequences_of_wide_heads_go_by_pairs():
    assert (FEW, WIDE) == (4, 128)
    chunk = plan(512, 64, WIDE).chunk
    assert not plan(512, chunk, WIDE).pairs
    assert plan(512, chunk + 1, WIDE).pairs
    assert plan(512, FEW * chunk, WIDE).pairs
    assert not plan(512, FEW * chunk + 1, WIDE).pairs
    assert not plan(512, FEW * chunk, WIDE - 1).pairs
    assert not plan(512, FEW * chunk, WIDE, 4).pairs


@pytest.mark.parametrize(("length", "dim"), [(100, 64), (200, 128)])
def test_shapes_are_known_before_anything_runs(length, dim):
    """By chunks with states, and over all pairs."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        q = torch.empty(2, 3, length, 4, dim, dtype=torch.bfloat16, requires_grad=True)
        gate = torch.empty(2, 3, length, 4, requires_grad=True)
        h = mlstm_cell(q, q, q[:1], gate, gate, backend="triton")
        assert h.shape == q.shape
        assert h.dtype == torch.bfloat16
        dq, dgate = torch.autograd.grad(h.sum(), (q, gate))
        assert dq.shape == q.shape
        assert dgate.shape == gate.shape


def test_a_cpu_tensor_is_refused_with_advice():
    x = torch.zeros(1, 1, 3, 1, 16)
    with pytest.raises(ValueError, match="use backend='torch'"):
        mlstm_cell(x, x, x, x[..., 0], x[..., 0], backend="triton")
