"""What can be checked of `contrast` without a GPU: its values in the interpreter, that it compiles and fits, and its shapes."""

import pytest
import torch

triton = pytest.importorskip("triton")
from offline import compile_kernel, most_shared, run_interpreted  # noqa: E402

from model.ops.contrast import contrast, fused, kernels  # noqa: E402

TYPES = dict.fromkeys(("context", "targets", "pull", "dcontext", "dtargets"), "bf16")
TYPES |= {"ids": "i64", "counts": "u8", "right": "i1"}


@pytest.mark.slow
def test_contrast_in_the_interpreter():
    run_interpreted("interpreted_contrast.py")


@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("name", ["contrast", "contrast_grad"])
def test_contrast_kernels_compile_and_fit(name, capability):
    launch = fused.BACKWARD if "grad" in name else fused.FORWARD
    _grid, constants = fused.launched(torch.empty(1, 672, 256, dtype=torch.bfloat16), launch)
    constants = {key: value for key, value in constants.items() if not key.startswith("num_")}
    constants |= {"COSINE": True} if "grad" in name else {"LEARNED": True}
    kernel = getattr(kernels, f"{name}_kernel")
    compiled = compile_kernel(
        kernel, capability, constants, lambda arg: TYPES.get(arg, "fp32"), launch.warps, launch.stages
    )
    assert compiled.metadata.shared <= most_shared(capability)


@pytest.mark.parametrize("capability", [80, 90, 100])
def test_the_kernel_of_lengths_compiles(capability):
    constants = {"D": 256, "L": 8, "COSINE": True, "ACC": triton.language.float32}
    compile_kernel(kernels.lengths_kernel, capability, constants, lambda arg: TYPES.get(arg, "fp32"))


def test_shapes_are_known_before_anything_runs():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        context, targets = (torch.empty(3, 70, 256, dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
        ids, words = torch.zeros(3, 70, dtype=torch.int64), torch.zeros(3, 70, 18, dtype=torch.int32)
        temperature = torch.tensor(0.1, requires_grad=True)
        loss, right = contrast(context, targets, ids, words, temperature, backend="triton")
        assert (loss.shape, loss.dtype, right.shape, right.dtype) == ((3, 70), torch.float32, (3, 70), torch.bool)
        inputs = (context, targets, temperature)
        for value, grad in zip(inputs, torch.autograd.grad(loss.sum(), inputs), strict=True):
            assert (grad.shape, grad.dtype) == (value.shape, value.dtype)


def test_a_width_that_the_kernels_do_not_do_is_named():
    x, ids, words = torch.zeros(1, 8, 48), torch.zeros(1, 8, dtype=torch.int64), torch.zeros(1, 8, 2, dtype=torch.int32)
    with pytest.raises(ValueError, match="power of 2 of channels from 16 to 256, not 48"):
        contrast(x, x, ids, words, torch.tensor(0.1), backend="triton")
