"""What can be checked of `add_norm` without a GPU: its values in the interpreter, that it compiles, and its shapes."""

import pytest
import torch

triton = pytest.importorskip("triton")
from offline import SHARED_MEMORY, compile_kernel, run_interpreted  # noqa: E402

from model.ops.add_norm import add_norm, fused, kernels  # noqa: E402


@pytest.mark.slow
def test_add_norm_in_the_interpreter():
    run_interpreted("interpreted_add_norm.py")


@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("width", [128, 512])
@pytest.mark.parametrize(("add", "dropout"), [(False, 0.0), (True, 0.0), (True, 0.1)])
@pytest.mark.parametrize("name", ["add_norm", "add_norm_grad"])
def test_add_norm_kernels_compile(name, add, dropout, width, capability):
    _rows, _tiles, constants = fused.launched(torch.empty(1, 64, width, dtype=torch.bfloat16), dropout)
    constants = {key: value for key, value in constants.items() if key != "num_warps"}
    constants |= {"ADD": add, "eps": 1e-5} if name == "add_norm" else {"STAGES": fused.STAGES}
    types = {"seed": "i64"} | dict.fromkeys(("weight", "bias", "shares", "moments"), "fp32")
    kernel = getattr(kernels, f"{name}_kernel")
    compiled = compile_kernel(kernel, capability, constants, lambda arg: types.get(arg, "bf16"))
    assert compiled.metadata.shared <= SHARED_MEMORY


@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("add", [False, True])
def test_the_kernel_of_add_dropped_compiles(add, capability):
    _rows, _tiles, constants = fused.launched(torch.empty(1, 64, 256, dtype=torch.bfloat16), 0.1)
    constants = {key: value for key, value in constants.items() if key != "num_warps"} | {"ADD": add}
    types = {"seed": "i64"}
    compile_kernel(kernels.add_dropped_kernel, capability, constants, lambda arg: types.get(arg, "bf16"))


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
