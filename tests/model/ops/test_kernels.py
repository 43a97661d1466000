"""What can be checked of the kernels without a GPU: their values in the interpreter, and that they compile for one."""

import pytest
import torch

triton = pytest.importorskip("triton")
import offline  # noqa: E402
import triton.language as tl  # noqa: E402
from offline import SHARED_MEMORY, run_interpreted  # noqa: E402

from model.ops.combine import kernels as combine_kernels  # noqa: E402
from model.ops.mlstm import kernels, kernels_states, mlstm  # noqa: E402
from model.ops.mlstm.fused import GATE_WARPS, ROOMY, plan  # noqa: E402
from model.ops.project import kernels as project_kernels  # noqa: E402

FLOATS = "rho fade write peak start overlap doverlap norm dnorm inside column future across gates dgates on_a on_x bias taps skip weight"
"""Names of arguments that are in fp32 while the rest is in bfloat16; so are all of the 0 states and weight gradients."""


@pytest.mark.slow
def test_kernels_in_the_interpreter():
    run_interpreted("interpreted.py")


def compile_kernel(kernel, capability, constants, warps=4, stages=1, element="bf16"):
    """The compiled kernel for tensors of `element`."""

    def type_of(name):
        exact = name.endswith("0") or name.startswith(("dw", "dbias", "dmaps", "don", "dskip", "dweight"))
        return "fp32" if exact or name in FLOATS.split() else element

    return offline.compile_kernel(kernel, capability, constants, type_of, warps, stages)


CELL = {
    "ACC": tl.float32,
    "L": 64,
    "SHARED": True,
    "R": 2,
    "r": 1,
    "ADD": True,
    "ENDS": False,
    "eps": 1e-6,
    "log_scale": -3.0,
}
PROJECT = {"ACC": tl.float32, "I": 256, "R": 2, "FIRST": 0, "C": 32, "L": 16, "G": 16, "USED": 8, "H": 4, "FOLD": 8}
COMBINE = {"ACC": tl.float32, "I": 256, "E": 64, "R": 2, "L": 8, "EP": 64, "STAGES": 2, "eps": 1e-5}


@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize(("name", "shares", "cap"), [("gates", 0, 0.0), ("gates", 4, 15.0), ("gates_grad", 0, 15.0)])
def test_gate_kernels_compile(name, shares, cap, capability):
    constants = CELL | {"HP": 4, "SHARES": shares, "CAP": cap}
    compiled = compile_kernel(getattr(kernels, f"{name}_kernel"), capability, constants, GATE_WARPS)
    assert compiled.metadata.shared <= SHARED_MEMORY


@pytest.mark.parametrize("dim", [64, 128, 256])
@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize(
    ("name", "rho"),
    [("hidden", False), ("states", False), ("states_grad", False), ("states_grad", True), ("grad", False)],
)
def test_cell_kernels_compile_and_fit(name, rho, capability, dim):
    kernel = getattr(kernels_states if "states" in name else kernels, f"{name}_kernel")
    launch = getattr(plan(512, 1024, dim, 2, SHARED_MEMORY), name)
    constants = CELL | {"E": dim, "BE": launch.tile, "ONE_CHUNK": False, "EARLY": launch.early, "RHO": rho}
    assert compile_kernel(kernel, capability, constants, launch.warps, launch.stages).metadata.shared <= SHARED_MEMORY


def test_the_gradient_in_fp32_fits_small_gpus():
    launch = plan(512, 1024, 64, 4, SHARED_MEMORY).grad
    constants = CELL | {"E": 64, "BE": launch.tile, "ONE_CHUNK": False, "EARLY": launch.early}
    assert compile_kernel(kernels.grad_kernel, 80, constants, element="fp32").metadata.shared <= SHARED_MEMORY


@pytest.mark.parametrize("element_size", [2, 4, 8])
@pytest.mark.parametrize("dim", [1, 16, 24, 64, 100, 128, 256])
def test_tiles_are_wide_enough_for_a_product_and_hold_an_early_head(dim, element_size):
    for room in (SHARED_MEMORY, ROOMY):
        cut = plan(512, 1024, dim, element_size, room)
        for launch in (cut.hidden, cut.grad, cut.states, cut.states_grad):
            assert launch.tile >= 16
            assert launch.tile >= dim or not launch.early


def test_the_gradient_of_wide_heads_has_room_on_large_gpus():
    constants = CELL | {"E": 128, "BE": plan(512, 256, 128).grad.tile, "ONE_CHUNK": False, "EARLY": False}
    used = [compile_kernel(kernels.grad_kernel, capability, constants).metadata.shared for capability in (80, 90, 100)]
    assert SHARED_MEMORY < max(used) <= ROOMY


@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize(
    ("name", "queries"),
    [
        ("project", False),
        ("project_grad", False),
        ("project_grad", True),
        ("weights_grad", False),
        ("convolve_grad", False),
    ],
)
def test_project_kernels_compile(name, queries, capability):
    kernel = getattr(project_kernels, f"{name}_kernel")
    constants = {key: value for key, value in (PROJECT | {"QUERIES": queries}).items() if key in kernel.arg_names}
    assert compile_kernel(kernel, capability, constants).metadata.shared <= SHARED_MEMORY


@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize(("name", "rho"), [("combine", False), ("combine_grad", False), ("combine_grad", True)])
def test_combine_kernels_compile(name, rho, capability):
    kernel = getattr(combine_kernels, f"{name}_kernel")
    constants = {key: value for key, value in (COMBINE | {"RHO": rho}).items() if key in kernel.arg_names}
    assert compile_kernel(kernel, capability, constants).metadata.shared <= SHARED_MEMORY


@pytest.mark.parametrize(("length", "dim"), [(100, 64), (200, 128)])
def test_shapes_are_known_before_anything_runs(length, dim):
    """By chunks with states, and over all pairs."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        q = torch.empty(2, 3, length, 4, dim, dtype=torch.bfloat16, requires_grad=True)
        gate = torch.empty(2, 3, length, 4, requires_grad=True)
        h = mlstm(q, q, q[:1], gate, gate, backend="triton")
        assert h.shape == q.shape
        assert h.dtype == torch.bfloat16
        dq, dgate = torch.autograd.grad(h.sum(), (q, gate))
        assert dq.shape == q.shape
        assert dgate.shape == gate.shape


def test_a_cpu_tensor_is_refused_with_advice():
    x = torch.zeros(1, 1, 3, 1, 16)
    with pytest.raises(ValueError, match="use backend='torch'"):
        mlstm(x, x, x, x[..., 0], x[..., 0], backend="triton")
