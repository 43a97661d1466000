"""`mlstm_mixer` on the CPU, in Triton's interpreter. Run by test_interpreted.py, in a process with TRITON_INTERPRET=1."""

import pytest
import torch
from interpreted import assert_equal, poisoned_memory, tensors, value_and_gradients  # noqa: F401
from interpreted_pairs import cut

from model.ops.mlstm_mixer import mlstm_mixer, reference

SIZES = {
    "one chunk": (2, 21, 32, 2),
    "two chunks": (1, 70, 32, 2),
    "one frame": (1, 1, 48, 3),
    "several programs": (1, 9, 144, 4),
}


@pytest.fixture
def no_eps(monkeypatch):
    # With eps = 0 the stabiliser cancels, and kernels and reference have exactly the same gradient.
    monkeypatch.setattr(reference, "EPS", 0.0)


def problem(batch, length, inner, heads, dtype=torch.float64):
    blocks = (inner // 4, 4, 4)
    weights = ((inner, 4), (inner,), blocks, blocks, blocks, (2 * heads, 3 * inner), (2 * heads,), (inner,), (inner,))
    return tensors((batch, length, 2 * inner), *weights, dtype=dtype)


def both_ways(sizes, dtype=torch.float64, **settings):
    ours = value_and_gradients(lambda *x: mlstm_mixer(*x, backend="triton", **settings), problem(*sizes, dtype))
    return ours, value_and_gradients(lambda *x: mlstm_mixer(*x, backend="torch", **settings), problem(*sizes))


@pytest.mark.usefixtures("no_eps")
def test_mlstm_mixer_of_several_rows_chunks_tiles_and_programs(monkeypatch):
    cut(monkeypatch, 16, 32, pairs=False)
    assert_equal(*both_ways((2, 20, 48, 2), cap=3.0), 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("cap", [None, 3.0])
@pytest.mark.parametrize("case", SIZES)
@pytest.mark.usefixtures("no_eps")
def test_mlstm_mixer_equals_reference(case, cap):
    assert_equal(*both_ways(SIZES[case], cap=cap), 1e-10)


@pytest.mark.usefixtures("no_eps")
def test_mlstm_mixer_forward_in_time_alone():
    assert_equal(*both_ways((1, 21, 32, 2), directions=(False,)), 1e-10)


@pytest.mark.usefixtures("no_eps")
def test_mlstm_mixer_over_all_pairs_of_frames(monkeypatch):
    cut(monkeypatch, 16, 16)
    assert_equal(*both_ways((1, 20, 32, 2), cap=3.0), 1e-10)


@pytest.mark.parametrize("pairs", [False, True])
def test_mlstm_mixer_adds_its_eps_to_the_cells_denominators(pairs, monkeypatch):
    monkeypatch.setattr(reference, "EPS", 0.5)
    cut(monkeypatch, 16, 16, pairs=pairs)
    inputs = [x.detach() for x in problem(1, 20, 16, 1)]
    assert_equal([mlstm_mixer(*inputs, backend="triton")], [mlstm_mixer(*inputs, backend="torch")], 1e-10)


@pytest.mark.slow
def test_mlstm_mixer_in_single_precision():
    assert_equal(*both_ways(SIZES["two chunks"], torch.float32, cap=15.0), 2e-5)
