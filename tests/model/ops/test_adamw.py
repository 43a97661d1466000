"""What can be checked of the optimiser's kernels without a GPU: their values in the interpreter, and that they compile."""

import pytest

triton = pytest.importorskip("triton")
from offline import compile_kernel, run_interpreted  # noqa: E402

from model.ops.adamw import kernels  # noqa: E402

CONSTANTS = {
    "beta1": 0.9,
    "beta2": 0.95,
    "log_beta1": -0.1,
    "log_beta2": -0.05,
    "eps": 1e-8,
    "SIZE": 4096,
    "ALIGNED": True,
}


@pytest.mark.slow
def test_adamw_in_the_interpreter():
    run_interpreted("interpreted_adamw.py")


@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("name", ["squares", "adamw"])
def test_adamw_kernels_compile_to_wide_loads(name, capability):
    kernel = getattr(kernels, f"{name}_kernel")
    constants = {key: value for key, value in CONSTANTS.items() if key in kernel.arg_names}
    compiled = compile_kernel(kernel, capability, constants, lambda arg: "i64" if arg == "table" else "fp32")
    assert "ld.global.v4.b32" in compiled.asm["ptx"]
