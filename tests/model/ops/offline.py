"""Kernels on a machine without a GPU: run in Triton's interpreter, or compiled for GPUs that are not there."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

SHARED_MEMORY = 101_376
"""Bytes that a program may use on the smallest of the targets (sm_86 and sm_89)."""


def most_shared(capability: int) -> int:
    """Bytes that a program may use on GPUs that run what is compiled for a capability: sm_90 and sm_100 have 227 KB."""
    return SHARED_MEMORY if capability == 80 else 232_448


def run_interpreted(name: str) -> None:
    """Runs the tests of a file beside this one in a process with TRITON_INTERPRET=1, and fails as they do."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__).with_name(name))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


def compile_kernel(kernel, capability: int, constants: dict, type_of: Callable[[str], str], warps=4, stages=1):
    """The compiled kernel, as Triton would build it on a GPU of that compute capability.

    Args:
        type_of: element type of the tensor behind an argument, by the argument's name without `_ptr`.
    """
    signature, values, attributes = {}, {}, {}
    for position, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name], values[(position,)] = "constexpr", constants[name]
        elif name.endswith("_ptr"):
            signature[name] = "*" + type_of(name.removesuffix("_ptr"))
            attributes[(position,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "i32"
    source = ASTSource(fn=kernel, signature=signature, constexprs=values, attrs=attributes)
    options = {"num_warps": warps, "num_stages": stages}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
