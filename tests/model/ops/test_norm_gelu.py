"""What can be checked of `norm_gelu` without a GPU: its values in the interpreter, that it compiles, and its shapes."""

import pytest
import torch

triton = pytest.importorskip("triton")
import triton.language as tl  # noqa: E402
from offline import SHARED_MEMORY, compile_kernel, run_interpreted  # noqa: E402

from model.ops.norm_gelu import kernels, linear_norm_gelu, norm_gelu  # noqa: E402


@pytest.mark.slow
def test_norm_gelu_in_the_interpreter():
    run_interpreted("interpreted_norm_gelu.py")


EXACT = ("weight", "bias", "offset", "last_weight", "last_bias", "shares")


def assert_compiles(name, capability, constants):
    kernel = getattr(kernels, f"{name}_kernel")
    constants = {"D": 256, "eps": 1e-5, "ACC": tl.float32} | constants
    compiled = compile_kernel(kernel, capability, constants, lambda arg: "fp32" if arg in EXACT else "bf16")
    assert compiled.metadata.shared <= SHARED_MEMORY


@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("name", ["norm_gelu", "norm_gelu_grad"])
def test_norm_gelu_kernels_compile(name, whole, capability):
    stages = {"STAGES": 2} if "grad" in name else {}
    assert_compiles(name, capability, {"L": 8, "EARLY": whole, "LAST": whole} | stages)


@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("name", ["linear_norm_gelu", "linear_norm_gelu_grad"])
def test_linear_norm_gelu_kernels_compile(name, capability):
    assert_compiles(name, capability, {"L": 16, "C": 16} | ({"INPUT": True} if "grad" in name else {}))


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
