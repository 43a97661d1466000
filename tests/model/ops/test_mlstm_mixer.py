"""What `mlstm_mixer` says of its outputs before anything runs, and what it refuses."""

import pytest
import torch

pytest.importorskip("triton")
from model.ops.mlstm_mixer import mlstm_mixer

INNER, HEADS = 256, 4
WEIGHTS = ((INNER, 4), (INNER,), *[(INNER // 4, 4, 4)] * 3, (2 * HEADS, 3 * INNER), (2 * HEADS,), (INNER,), (INNER,))


def test_the_kernels_want_a_gpu():
    with pytest.raises(ValueError, match="backend='triton' needs tensors on a GPU, these are on cpu"):
        mlstm_mixer(torch.ones(1, 8, 2 * INNER), *map(torch.ones, WEIGHTS), backend="triton")


def test_shapes_are_known_before_anything_runs():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        wide = torch.empty(3, 100, 2 * INNER, dtype=torch.bfloat16, requires_grad=True)
        weights = [torch.empty(shape, requires_grad=True) for shape in WEIGHTS]
        y = mlstm_mixer(wide, *weights, cap=15.0, backend="triton")
        assert y.shape == (3, 100, INNER)
        assert y.dtype == torch.bfloat16
        for x, grad in zip([wide, *weights], torch.autograd.grad(y.sum(), [wide, *weights]), strict=True):
            assert grad.shape == x.shape
            assert grad.dtype == x.dtype


def test_sizes_that_the_kernels_do_not_do_are_named():
    inner = 20
    shapes = ((inner, 4), (inner,), *[(inner // 4, 4, 4)] * 3, (4, 3 * inner), (4,), (inner,), (inner,))
    with pytest.raises(ValueError, match="multiple of 16 channels, not 20"):
        mlstm_mixer(torch.zeros(1, 2, 2 * inner), *(torch.zeros(shape) for shape in shapes), backend="triton")
