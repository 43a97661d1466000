"""What `feed_forward` says of its outputs before anything runs, and what it does not do."""

import pytest
import torch

pytest.importorskip("triton")
from model.ops.feed_forward import feed_forward


def test_shapes_are_known_before_anything_runs():
    from torch._subclasses.fake_tensor import FakeTensorMode

    width, hidden = 128, 208
    with FakeTensorMode():
        x, update = (torch.empty(3, 100, width, dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
        shapes = ((width,), (width,), (hidden, width), (hidden,), (width, hidden), (width,))
        inputs = [x, update, *(torch.empty(shape, requires_grad=True) for shape in shapes)]
        y = feed_forward(*inputs, dropout=0.1, seeds=torch.zeros(2, dtype=torch.int64), backend="triton")
        assert (y.shape, y.dtype) == (x.shape, x.dtype)
        for value, grad in zip(inputs, torch.autograd.grad(y.sum(), inputs), strict=True):
            assert (grad.shape, grad.dtype) == (value.shape, value.dtype)


def test_sizes_that_the_kernels_do_not_do_are_named():
    x, weights = (
        torch.zeros(1, 2, 48),
        [torch.zeros(shape) for shape in ((48,), (48,), (80, 48), (80,), (48, 80), (48,))],
    )
    with pytest.raises(ValueError, match="power of 2 of channels from 16 to 128, not 48"):
        feed_forward(x, x, *weights, backend="triton")
