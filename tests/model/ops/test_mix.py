"""What can be checked of `mix` without a GPU: its values in the interpreter, that it compiles, and its shapes."""

import pytest
import torch

triton = pytest.importorskip("triton")
import triton.language as tl  # noqa: E402
from offline import compile_kernel, most_shared, run_interpreted  # noqa: E402

from model.ops.mix import kernels, mix  # noqa: E402
from model.ops.mix.kernels_hidden import hidden_combine_kernel  # noqa: E402

CONSTANTS = {"G": 16, "USED": 8, "K": 16, "ACC": tl.float32}


@pytest.mark.slow
def test_mix_in_the_interpreter():
    run_interpreted("interpreted_mix.py")


@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("name", ["prepare", "prepare_grad"])
def test_mix_kernels_compile(name, capability):
    kernel = getattr(kernels, f"{name}_kernel")
    constants = {key: value for key, value in CONSTANTS.items() if key in kernel.arg_names}
    assert compile_kernel(kernel, capability, constants, lambda _: "fp32").metadata.shared <= 16_384


@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_hidden_combine_kernel_compiles(dtype, capability):
    activations = ("a", "k", "v", "z", "memory", "h", "y")
    constants = {
        "R": 2,
        "log_scale": -3.0,
        "eps": 1e-6,
        "norm_eps": 1e-5,
        "E": 64,
        "L": 64,
        "BE": 64,
        "ACC": tl.float32,
    }
    compiled = compile_kernel(
        hidden_combine_kernel, capability, constants, lambda name: dtype if name in activations else "fp32"
    )
    assert compiled.metadata.shared <= most_shared(capability)


INNER, HEADS = 256, 4
WEIGHTS = ((INNER, 4), (INNER,), *[(INNER // 4, 4, 4)] * 3, (2 * HEADS, 3 * INNER), (2 * HEADS,), (INNER,), (INNER,))


def test_the_kernels_want_a_gpu():
    with pytest.raises(ValueError, match="backend='triton' needs tensors on a GPU, these are on cpu"):
        mix(torch.ones(1, 8, 2 * INNER), *map(torch.ones, WEIGHTS), backend="triton")


def test_shapes_are_known_before_anything_runs():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        wide = torch.empty(3, 100, 2 * INNER, dtype=torch.bfloat16, requires_grad=True)
        weights = [torch.empty(shape, requires_grad=True) for shape in WEIGHTS]
        y = mix(wide, *weights, cap=15.0, backend="triton")
        assert y.shape == (3, 100, INNER)
        assert y.dtype == torch.bfloat16
        for x, grad in zip([wide, *weights], torch.autograd.grad(y.sum(), [wide, *weights]), strict=True):
            assert grad.shape == x.shape
            assert grad.dtype == x.dtype


def test_sizes_that_the_kernels_do_not_do_are_named():
    inner = 20
    shapes = ((inner, 4), (inner,), *[(inner // 4, 4, 4)] * 3, (4, 3 * inner), (4,), (inner,), (inner,))
    with pytest.raises(ValueError, match="multiple of 16 channels, not 20"):
        mix(torch.zeros(1, 2, 2 * inner), *(torch.zeros(shape) for shape in shapes), backend="triton")
