"""The sum over programs of what each of them has added up by itself: no atomics, so the same bits every time."""

import torch
import triton
import triton.language as tl

from model.ops.device import require_gpu

MOST = 5
"""Tensors that one launch sums."""


@triton.jit
def _sum(parts_ptr, out_ptr, runs, N, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Sum over the rows of (runs, N), a tile of columns. Program axis: tile."""
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((ROWS, BLOCK), parts_ptr.dtype.element_ty)
    for first in range(0, runs, ROWS):
        row = first + tl.arange(0, ROWS)
        at = row[:, None].to(tl.int64) * N + n[None, :]
        total += tl.load(parts_ptr + at, mask=(row < runs)[:, None] & (n < N)[None, :], other=0.0)
    tl.store(out_ptr + n, tl.sum(total, 0), n < N)


@triton.jit
def sum_kernel(
    p0_ptr, p1_ptr, p2_ptr, p3_ptr, p4_ptr, out_ptr, r0, r1, r2, r3, r4, n0, n1, n2, n3, n4, ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Sums of up to five tensors p (r, n), one behind the other in `out`. Program axes: 0 tile of columns, 1 tensor."""
    which = tl.program_id(1)
    if which == 0:
        _sum(p0_ptr, out_ptr, r0, n0, ROWS, BLOCK)
    elif which == 1:
        _sum(p1_ptr, out_ptr + n0, r1, n1, ROWS, BLOCK)
    elif which == 2:
        _sum(p2_ptr, out_ptr + n0 + n1, r2, n2, ROWS, BLOCK)
    elif which == 3:
        _sum(p3_ptr, out_ptr + n0 + n1 + n2, r3, n3, ROWS, BLOCK)
    else:
        _sum(p4_ptr, out_ptr + n0 + n1 + n2 + n3, r4, n4, ROWS, BLOCK)


def sum_each(*parts: torch.Tensor) -> torch.Tensor:
    """Returns the sums over the first dimension of contiguous tensors (runs, ...), flat and one behind the other, by one launch."""
    require_gpu(parts[0])
    runs, sizes = [len(part) for part in parts], [part[0].numel() for part in parts]
    out = parts[0].new_empty(sum(sizes))
    # Few programs with many rows each would wait for memory one row after the other.
    rows, block = (32, 64) if max(runs) <= 128 else (128, 16) if max(runs) <= 512 else (512, 16)
    spare = MOST - len(parts)
    tensors = (*parts, *[parts[0]] * spare)
    sum_kernel[(triton.cdiv(max(sizes), block), len(parts))](
        *tensors, out, *runs, *[0] * spare, *sizes, *[0] * spare, ROWS=rows, BLOCK=block, num_warps=max(4, rows // 32)
    )
    return out


def sum_parts(parts: torch.Tensor) -> torch.Tensor:
    """Returns the sum over the first dimension of contiguous `parts` (runs, ...)."""
    return sum_each(parts).view(parts.shape[1:])
