"""What `add_norm` says of its outputs before anything runs, and what it refuses."""

import pytest
import torch

pytest.importorskip("triton")
from model.ops.add_norm import add_norm


@pytest.mark.parametrize("with_update", [False, True])
def test_shapes_are_known_before_anything_runs(with_update):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        x, update = (torch.empty(3, 100, 128, dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
        weight, bias = (torch.empty(128, requires_grad=True) for _ in range(2))
        seed = torch.zeros((), dtype=torch.int64)
        update = update if with_update else None
        out = add_norm(x, weight, bias, update=update, dropout=0.1, seed=seed, backend="triton")
        assert all((y.shape, y.dtype) == (x.shape, x.dtype) for y in out)
        inputs = [value for value in (x, weight, bias, update) if value is not None]
        for value, grad in zip(inputs, torch.autograd.grad(sum(y.sum() for y in out), inputs), strict=True):
            assert (grad.shape, grad.dtype) == (value.shape, value.dtype)


def test_a_width_that_the_kernels_do_not_do_is_named():
    with pytest.raises(ValueError, match="power of 2 of channels from 16 to 1024, not 48"):
        add_norm(torch.zeros(1, 2, 48), torch.zeros(48), torch.zeros(48), backend="triton")
