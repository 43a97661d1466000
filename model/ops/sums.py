"""The sum over programs of what each of them has added up by itself: no atomics, so the same bits every time."""

import torch
import triton
import triton.language as tl

from model.ops.device import require_gpu


@triton.jit
def sum_kernel(parts_ptr, out_ptr, runs, N, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Sum over the rows of (runs, N). Program axis: tile of columns."""
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((ROWS, BLOCK), parts_ptr.dtype.element_ty)
    for first in range(0, runs, ROWS):
        row = first + tl.arange(0, ROWS)
        at = row[:, None].to(tl.int64) * N + n[None, :]
        total += tl.load(parts_ptr + at, mask=(row < runs)[:, None] & (n < N)[None, :], other=0.0)
    tl.store(out_ptr + n, tl.sum(total, 0), n < N)


def sum_parts(parts: torch.Tensor) -> torch.Tensor:
    """Returns the sum over the first dimension of contiguous `parts` (runs, ...)."""
    require_gpu(parts)
    out = parts.new_empty(parts.shape[1:])
    # Few programs with many rows each would wait for memory one row after the other.
    rows = 128 if len(parts) <= 512 else 512
    sum_kernel[(triton.cdiv(out.numel(), 16),)](
        parts, out, len(parts), out.numel(), ROWS=rows, BLOCK=16, num_warps=rows // 32
    )
    return out
