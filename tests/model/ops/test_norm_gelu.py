"""What `norm_gelu` says of its outputs before anything runs, and what it refuses."""

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton")
from model.ops.norm_gelu import linear_norm_gelu, norm_gelu
from model.ops.norm_gelu.fused import bias_as_column, fits


def test_shapes_are_known_before_anything_runs():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        x, early, taps = (torch.empty(3, 100, n, dtype=torch.bfloat16, requires_grad=True) for n in (256, 256, 16))
        linear, *vectors = (torch.empty(shape, requires_grad=True) for shape in ((256, 16), *[(256,)] * 5))
        weight, bias, offset, *last = vectors
        for y, inputs in (
            (norm_gelu(x, weight, bias, backend="triton"), (x, weight, bias)),
            (norm_gelu(x, weight, bias, early=early, offset=offset, last=last, backend="triton"), (x, early, *vectors)),
            (linear_norm_gelu(taps, linear, weight, bias, backend="triton"), (taps, linear, weight, bias)),
        ):
            assert (y.shape, y.dtype) == (x.shape, x.dtype)
            for value, grad in zip(inputs, torch.autograd.grad(y.sum(), inputs), strict=True):
                assert (grad.shape, grad.dtype) == (value.shape, value.dtype)


def test_sizes_that_the_kernels_do_not_do_are_named():
    with pytest.raises(ValueError, match="power of 2 of channels from 16 to 1024, not 48"):
        norm_gelu(torch.zeros(1, 2, 48), torch.zeros(48), torch.zeros(48), backend="triton")
    with pytest.raises(ValueError, match="16 or 32 inputs, not 9"):
        linear_norm_gelu(torch.zeros(2, 9), torch.zeros(32, 9), torch.zeros(32), torch.zeros(32), backend="triton")


@pytest.mark.parametrize(("inputs", "padded"), [(9, 16), (15, 16), (16, 32), (31, 32)])
def test_a_bias_is_one_more_column_and_zeros_make_the_inputs_a_multiple_of_16(inputs, padded):
    x, linear, bias = (torch.randn(*shape, dtype=torch.float64) for shape in ((2, 5, inputs), (7, inputs), (7,)))
    longer, wider = bias_as_column(x, linear, bias)
    assert (longer.shape, wider.shape) == ((2, 5, padded), (7, padded))
    torch.testing.assert_close(F.linear(longer, wider), F.linear(x, linear, bias))


def test_on_a_gpu_kernels_make_maps_of_few_inputs():
    assert all(fits(256, inputs, True) for inputs in (9, 31))
    assert all(fits(256, inputs, False) for inputs in (16, 32))
    assert not any(fits(*sizes) for sizes in ((256, 32, True), (256, 9, False), (48, 9, True)))
