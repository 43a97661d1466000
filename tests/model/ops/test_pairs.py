"""What can be checked of the kernels over all pairs of frames without a GPU: their values in the interpreter, and that they compile."""

import pytest

triton = pytest.importorskip("triton")
import triton.language as tl  # noqa: E402
from offline import SHARED_MEMORY, compile_kernel, run_interpreted  # noqa: E402

from model.ops.mlstm import kernels_pairs  # noqa: E402
from model.ops.mlstm.fused import FEW, WIDE, plan  # noqa: E402

FLOATS = (
    "rho fade write peak start overlap top inverse doverlap far_inverse far_doverlap along across inside column future"
)
"""Names of arguments that are in fp32 whatever the rest is in."""
KERNELS = {"hidden": "hidden_pairs_kernel", "queries_grad": "queries_grad_kernel", "keys_grad": "keys_grad_kernel"}


@pytest.mark.slow
def test_pairs_in_the_interpreter():
    run_interpreted("interpreted_pairs.py")


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("dim", [128, 256])
@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize(("name", "rho"), [*[(name, False) for name in KERNELS], ("queries_grad", True)])
def test_pair_kernels_compile_and_fit(name, rho, capability, dim, shared):
    cut = plan(512, 256, dim, 2, SHARED_MEMORY)
    launch = getattr(cut.pairs, name)
    constants = {
        "R": 2,
        "RHO": rho,
        "SHARED": shared,
        "log_scale": -3.0,
        "eps": 1e-6,
        "E": dim,
        "L": cut.chunk,
        "BE": launch.tile,
    }
    constants |= {"PART": launch.part, "MOST": FEW, "ACC": tl.float32}
    kernel = getattr(kernels_pairs, KERNELS[name])
    constants = {key: value for key, value in constants.items() if key in kernel.arg_names}

    def type_of(argument):
        return "fp32" if argument in FLOATS.split() else "bf16"

    compiled = compile_kernel(kernel, capability, constants, type_of, launch.warps, launch.stages)
    assert compiled.metadata.shared <= SHARED_MEMORY


def test_short_sequences_of_wide_heads_go_by_pairs():
    chunk = plan(512, 64, WIDE).chunk
    assert not plan(512, chunk, WIDE).pairs
    assert plan(512, chunk + 1, WIDE).pairs
    assert plan(512, FEW * chunk, WIDE).pairs
    assert not plan(512, FEW * chunk + 1, WIDE).pairs
    assert not plan(512, FEW * chunk, WIDE - 1).pairs
    assert not plan(512, FEW * chunk, WIDE, 4).pairs
