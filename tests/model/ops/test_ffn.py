"""What can be checked of `ffn` without a GPU: its values in the interpreter, that it compiles and fits, and its shapes."""

import pytest
import torch

triton = pytest.importorskip("triton")
from offline import SHARED_MEMORY, compile_kernel, run_interpreted  # noqa: E402

from model.ops.ffn import ffn, fused, kernels  # noqa: E402

FLOATS = ("gamma", "beta", "b1", "b2", "shares")


@pytest.mark.slow
def test_ffn_in_the_interpreter():
    run_interpreted("interpreted_ffn.py")


@pytest.mark.parametrize(("element", "dropout"), [(torch.bfloat16, 0.0), (torch.bfloat16, 0.1), (torch.float32, 0.1)])
@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("name", ["ffn", "ffn_grad", "weights_grad"])
def test_ffn_kernels_compile_and_fit(name, capability, element, dropout):
    if name == "weights_grad":
        launch, (*_, constants) = fused.WEIGHTS, fused.weights_launched(torch.empty(64, 208, dtype=element), 128)
    else:
        launch, (*_, constants) = fused.LAUNCH, fused.launched(torch.empty(1, 64, 128, dtype=element), 208, dropout)
    constants = {key: value for key, value in constants.items() if not key.startswith("num_")}
    kernel, stored = getattr(kernels, f"{name}_kernel"), "fp32" if element == torch.float32 else "bf16"
    types = {"seeds": "i64"} | dict.fromkeys(FLOATS, "fp32")
    compiled = compile_kernel(
        kernel, capability, constants, lambda arg: types.get(arg, stored), launch.warps, launch.stages
    )
    assert compiled.metadata.shared <= SHARED_MEMORY


def test_shapes_are_known_before_anything_runs():
    from torch._subclasses.fake_tensor import FakeTensorMode

    width, hidden = 128, 208
    with FakeTensorMode():
        x, update = (torch.empty(3, 100, width, dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
        shapes = ((width,), (width,), (hidden, width), (hidden,), (width, hidden), (width,))
        inputs = [x, update, *(torch.empty(shape, requires_grad=True) for shape in shapes)]
        y = ffn(*inputs, dropout=0.1, seeds=torch.zeros(2, dtype=torch.int64), backend="triton")
        assert (y.shape, y.dtype) == (x.shape, x.dtype)
        for value, grad in zip(inputs, torch.autograd.grad(y.sum(), inputs), strict=True):
            assert (grad.shape, grad.dtype) == (value.shape, value.dtype)


def test_sizes_that_the_kernels_do_not_do_are_named():
    x, weights = (
        torch.zeros(1, 2, 48),
        [torch.zeros(shape) for shape in ((48,), (48,), (80, 48), (80,), (48, 80), (48,))],
    )
    with pytest.raises(ValueError, match="power of 2 of channels from 16 to 128, not 48"):
        ffn(x, x, *weights, backend="triton")
