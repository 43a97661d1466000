"""Triton kernels of `norm_gelu`: every tensor is read and written once.

Shape letters: N rows, L rows of a tile, D channels. Program axis: (run of) tiles of rows.
"""

import triton
import triton.language as tl

from model.ops.activations import gaussian, normalise


@triton.jit
def _tile(tile, N, D: tl.constexpr, L: tl.constexpr):
    """Offsets (L, D) of a tile, and which of them exist."""
    n = tile.to(tl.int64) * L + tl.arange(0, L)
    return n[:, None] * D + tl.arange(0, D)[None, :], (n < N)[:, None]


@triton.jit
def norm_gelu_kernel(
    x_ptr, weight_ptr, bias_ptr, y_ptr, N, D: tl.constexpr, L: tl.constexpr, eps: tl.constexpr, ACC: tl.constexpr
):
    """Output of one tile."""
    at, ok = _tile(tl.program_id(0), N, D, L)
    d = tl.arange(0, D)
    unit, _inverse = normalise(tl.load(x_ptr + at, mask=ok, other=0.0).to(ACC), D, eps)
    normed = unit * tl.load(weight_ptr + d).to(ACC)[None, :] + tl.load(bias_ptr + d).to(ACC)[None, :]
    below, _density = gaussian(normed)
    tl.store(y_ptr + at, (normed * below).to(y_ptr.dtype.element_ty), ok)


@triton.jit
def norm_gelu_grad_kernel(
    x_ptr, weight_ptr, bias_ptr, dy_ptr, dx_ptr, shares_ptr, N, tiles, D: tl.constexpr, L: tl.constexpr,
    eps: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Gradient of x of `tiles` tiles, and the program's share of those of weight and bias (2, D)."""
    d = tl.arange(0, D)
    weight = tl.load(weight_ptr + d).to(ACC)[None, :]
    bias = tl.load(bias_ptr + d).to(ACC)[None, :]
    # Sums over rows stay in their threads until the end.
    dweight = tl.zeros((L, D), ACC)
    dbias = tl.zeros((L, D), ACC)
    for step in range(tiles):
        at, ok = _tile(tl.program_id(0) * tiles + step, N, D, L)
        x = tl.load(x_ptr + at, mask=ok, other=0.0).to(ACC)
        dy = tl.load(dy_ptr + at, mask=ok, other=0.0).to(ACC)
        unit, inverse = normalise(x, D, eps)
        normed = unit * weight + bias
        below, density = gaussian(normed)
        dnormed = dy * (below + normed * density)
        dweight += dnormed * unit
        dbias += dnormed
        dunit = dnormed * weight
        along = tl.sum(dunit * unit, 1, keep_dims=True) / D
        dx = inverse * (dunit - tl.sum(dunit, 1, keep_dims=True) / D - unit * along)
        tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), ok)
    share = shares_ptr + tl.program_id(0) * (2 * D) + d
    tl.store(share, tl.sum(dweight, 0))
    tl.store(share + D, tl.sum(dbias, 0))
