"""The matrix product of all kernels."""

import triton
import triton.language as tl


@triton.jit
def dot(a, b, acc):
    """acc + a b. Products of 32-bit numbers stay 32-bit (no tf32)."""
    return tl.dot(a, b, acc, input_precision="ieee", out_dtype=acc.dtype)
