"""What can be checked of `norm_gelu` without a GPU: its values in the interpreter, that it compiles, and its shapes."""

import pytest
import torch

triton = pytest.importorskip("triton")
import triton.language as tl  # noqa: E402
from offline import SHARED_MEMORY, compile_kernel, run_interpreted  # noqa: E402

from model.ops.norm_gelu import kernels, norm_gelu  # noqa: E402


@pytest.mark.slow
def test_norm_gelu_in_the_interpreter():
    run_interpreted("interpreted_norm_gelu.py")


@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("name", ["norm_gelu", "norm_gelu_grad"])
def test_norm_gelu_kernels_compile(name, capability):
    constants = {"D": 256, "L": 8, "eps": 1e-5, "ACC": tl.float32}
    exact = ("weight", "bias", "shares")
    compiled = compile_kernel(
        getattr(kernels, f"{name}_kernel"), capability, constants, lambda arg: "fp32" if arg in exact else "bf16"
    )
    assert compiled.metadata.shared <= SHARED_MEMORY


def test_shapes_are_known_before_anything_runs():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        x = torch.empty(3, 100, 256, dtype=torch.bfloat16, requires_grad=True)
        weight, bias = (torch.empty(256, requires_grad=True) for _ in range(2))
        y = norm_gelu(x, weight, bias, backend="triton")
        assert (y.shape, y.dtype) == (x.shape, x.dtype)
        for value, grad in zip((x, weight, bias), torch.autograd.grad(y.sum(), (x, weight, bias)), strict=True):
            assert (grad.shape, grad.dtype) == (value.shape, value.dtype)


def test_a_width_that_the_kernels_do_not_do_is_named():
    with pytest.raises(ValueError, match="power of 2 of channels from 16 to 1024, not 48"):
        norm_gelu(torch.zeros(2, 48), torch.zeros(48), torch.zeros(48), backend="triton")
