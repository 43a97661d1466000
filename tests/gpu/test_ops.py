"""The kernels on a GPU in bfloat16: twice the error of plain PyTorch and 2 % at most, and always the same bits."""

import pytest
import torch

from model.ops.agreement import (
    cell_problem,
    combine_problem,
    disagreements,
    errors,
    project_problem,
    value_and_gradients,
)
from model.ops.mlstm import mlstm

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
    assert not disagreements(errors(cell_problem(*CELLS[case])))


@pytest.mark.parametrize("igate", [-15.0, 15.0])
@pytest.mark.parametrize("fgate", [-15.0, 15.0])
def test_cell_with_extreme_gates(igate, fgate):
    problem = cell_problem(1, 2, 500, 64, 1, (igate, 0.1), (fgate, 0.1))
    # With one gate wide open h = v, and gate gradients cancel to nothing.
    least = problem.inputs[2].detach().norm().item()
    assert not disagreements(errors(problem, least=least, ceiling=float("inf")))


def test_cell_gives_the_same_bits_ten_times():
    inputs = cell_problem(8, 4, 300, 64).inputs
    first = value_and_gradients(lambda *x: mlstm(*x, backend="triton"), inputs)
    for _ in range(9):
        again = value_and_gradients(lambda *x: mlstm(*x, backend="triton"), inputs)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_cell_compiles_whole_under_autocast():
    inputs = cell_problem(2, 2, 100, 32).inputs
    plain = value_and_gradients(lambda *x: mlstm(*x) * 2, inputs)
    with torch.autocast("cuda", torch.bfloat16):
        compiled = value_and_gradients(torch.compile(lambda *x: mlstm(*x) * 2, fullgraph=True), inputs)
    assert all(torch.equal(a, b) for a, b in zip(plain, compiled, strict=True))


@pytest.mark.parametrize("directions", [(False, True), (True,)])
@pytest.mark.parametrize("sizes", [(4, 1024, 256, 4), (3, 64, 1024, 4), (2, 77, 32, 2)])
def test_project(sizes, directions):
    assert not disagreements(errors(project_problem(*sizes, directions)))


@pytest.mark.parametrize("sizes", [(2, 4, 1024, 4, 64), (2, 3, 64, 4, 256), (1, 2, 77, 3, 24)])
def test_combine(sizes):
    assert not disagreements(errors(combine_problem(*sizes)))
