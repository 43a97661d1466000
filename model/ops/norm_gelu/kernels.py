"""Triton kernels of `norm_gelu` and `linear_norm_gelu`: large tensors are read and written once.

Shape letters: N rows, S rows of a window, L rows of a tile, D channels, C inputs of a row. Program axis: (run of) tiles of rows.
"""

import triton
import triton.language as tl

from model.ops.products import dot
from model.ops.rowwise import gaussian, normalise, normalise_grad, rows_of_tile


@triton.jit
def _vector(ptr, D: tl.constexpr, ACC: tl.constexpr):
    return tl.load(ptr + tl.arange(0, D)).to(ACC)[None, :]


@triton.jit
def _input(x_ptr, early_ptr, offset, at, ok, n, S, D: tl.constexpr, EARLY: tl.constexpr, ACC: tl.constexpr):
    """What is normalised (L, D): x, and with EARLY the row before it of `early` and an offset."""
    x = tl.load(x_ptr + at, mask=ok, other=0.0).to(ACC)
    if EARLY:
        x += tl.load(early_ptr + at - D, mask=ok & (n % S != 0)[:, None], other=0.0).to(ACC) + offset
    return x


@triton.jit
def norm_gelu_kernel(
    x_ptr, early_ptr, offset_ptr, weight_ptr, bias_ptr, last_weight_ptr, last_bias_ptr, y_ptr, N, S, D: tl.constexpr,
    L: tl.constexpr, EARLY: tl.constexpr, LAST: tl.constexpr, eps: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Output of one tile."""
    n, at, ok = rows_of_tile(tl.program_id(0), N, D, L)
    offset = _vector(offset_ptr, D, ACC) if EARLY else 0.0
    x = _input(x_ptr, early_ptr, offset, at, ok, n, S, D, EARLY, ACC)
    unit, _inverse = normalise(x, D, eps)
    normed = unit * _vector(weight_ptr, D, ACC) + _vector(bias_ptr, D, ACC)
    below, _density = gaussian(normed)
    y = normed * below
    if LAST:
        unit, _inverse = normalise(y, D, eps)
        y = unit * _vector(last_weight_ptr, D, ACC) + _vector(last_bias_ptr, D, ACC)
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), ok)


@triton.jit
def norm_gelu_grad_kernel(
    x_ptr, early_ptr, offset_ptr, weight_ptr, bias_ptr, last_weight_ptr, dy_ptr, dx_ptr, dearly_ptr, shares_ptr, N, S, tiles,
    D: tl.constexpr, L: tl.constexpr, EARLY: tl.constexpr, LAST: tl.constexpr, STAGES: tl.constexpr, eps: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """Gradients of x and early of `tiles` tiles, and the program's share (5, D) of those of the vectors.

    These are: weight, bias, offset, last weight, last bias; without EARLY or LAST theirs are left as they are.
    """
    weight = _vector(weight_ptr, D, ACC)
    bias = _vector(bias_ptr, D, ACC)
    offset = _vector(offset_ptr, D, ACC) if EARLY else 0.0
    # Sums over rows stay in their threads until the end.
    dweight = tl.zeros((L, D), ACC)
    dbias = tl.zeros((L, D), ACC)
    doffset = tl.zeros((L, D), ACC)
    dlast_weight = tl.zeros((L, D), ACC)
    dlast_bias = tl.zeros((L, D), ACC)
    for step in tl.range(tiles, num_stages=STAGES):
        n, at, ok = rows_of_tile(tl.program_id(0) * tiles + step, N, D, L)
        dy = tl.load(dy_ptr + at, mask=ok, other=0.0).to(ACC)
        x = _input(x_ptr, early_ptr, offset, at, ok, n, S, D, EARLY, ACC)
        unit, inverse = normalise(x, D, eps)
        normed = unit * weight + bias
        below, density = gaussian(normed)
        if LAST:
            outer, scale = normalise(normed * below, D, eps)
            dlast_weight += dy * outer
            dlast_bias += dy
            dy = normalise_grad(dy * _vector(last_weight_ptr, D, ACC), outer, scale, D)
        dnormed = dy * (below + normed * density)
        dweight += dnormed * unit
        dbias += dnormed
        dx = normalise_grad(dnormed * weight, unit, inverse, D)
        tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), ok)
        if EARLY:
            doffset += dx
            first = (n % S == 0)[:, None]
            tl.store(dearly_ptr + at - D, dx.to(dx_ptr.dtype.element_ty), ok & ~first)
            # Nothing follows the last row of a window, and there the place of the first row's is free.
            tl.store(dearly_ptr + at + (S - 1) * D, tl.zeros((L, D), dx_ptr.dtype.element_ty), ok & first)
    share = shares_ptr + tl.program_id(0) * (5 * D) + tl.arange(0, D)
    tl.store(share, tl.sum(dweight, 0))
    tl.store(share + D, tl.sum(dbias, 0))
    if EARLY:
        tl.store(share + 2 * D, tl.sum(doffset, 0))
    if LAST:
        tl.store(share + 3 * D, tl.sum(dlast_weight, 0))
        tl.store(share + 4 * D, tl.sum(dlast_bias, 0))


@triton.jit
def _linear(x_ptr, map, tile, N, D: tl.constexpr, C: tl.constexpr, L: tl.constexpr, ACC: tl.constexpr):
    """Input (L, C) of a tile, and the linear map of it (L, D)."""
    _n, at, ok = rows_of_tile(tile, N, C, L)
    x = tl.load(x_ptr + at, mask=ok, other=0.0)
    return x, dot(x, map, tl.zeros((L, D), ACC))


@triton.jit
def linear_norm_gelu_kernel(
    x_ptr, map_ptr, weight_ptr, bias_ptr, y_ptr, N, D: tl.constexpr, C: tl.constexpr, L: tl.constexpr,
    eps: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Output of one tile. The map is (C, D)."""
    map = tl.load(map_ptr + tl.arange(0, C)[:, None] * D + tl.arange(0, D)[None, :])
    _x, h = _linear(x_ptr, map, tl.program_id(0), N, D, C, L, ACC)
    unit, _inverse = normalise(h, D, eps)
    normed = unit * _vector(weight_ptr, D, ACC) + _vector(bias_ptr, D, ACC)
    below, _density = gaussian(normed)
    _n, at, ok = rows_of_tile(tl.program_id(0), N, D, L)
    tl.store(y_ptr + at, (normed * below).to(y_ptr.dtype.element_ty), ok)


@triton.jit
def linear_norm_gelu_grad_kernel(
    x_ptr, map_ptr, weight_ptr, bias_ptr, dy_ptr, dx_ptr, shares_ptr, N, tiles, D: tl.constexpr, C: tl.constexpr,
    L: tl.constexpr, INPUT: tl.constexpr, eps: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The share (2 + C, D) of `tiles` tiles of the gradients of weight, bias and map; with INPUT the gradient of x too."""
    map = tl.load(map_ptr + tl.arange(0, C)[:, None] * D + tl.arange(0, D)[None, :])
    weight = _vector(weight_ptr, D, ACC)
    bias = _vector(bias_ptr, D, ACC)
    dweight = tl.zeros((L, D), ACC)
    dbias = tl.zeros((L, D), ACC)
    dmap = tl.zeros((C, D), ACC)
    for step in range(tiles):
        tile = tl.program_id(0) * tiles + step
        _n, at, ok = rows_of_tile(tile, N, D, L)
        dy = tl.load(dy_ptr + at, mask=ok, other=0.0).to(ACC)
        x, h = _linear(x_ptr, map, tile, N, D, C, L, ACC)
        unit, inverse = normalise(h, D, eps)
        normed = unit * weight + bias
        below, density = gaussian(normed)
        dnormed = dy * (below + normed * density)
        dweight += dnormed * unit
        dbias += dnormed
        dh = normalise_grad(dnormed * weight, unit, inverse, D).to(map.dtype)
        dmap = dot(tl.trans(x), dh, dmap)
        if INPUT:
            _n, at, ok = rows_of_tile(tile, N, C, L)
            dx = dot(dh, tl.trans(map), tl.zeros((L, C), ACC))
            tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), ok)
    share = shares_ptr + tl.program_id(0) * ((2 + C) * D) + tl.arange(0, D)
    tl.store(share, tl.sum(dweight, 0))
    tl.store(share + D, tl.sum(dbias, 0))
    at = tl.arange(0, C)[:, None] * D + tl.arange(0, D)[None, :]
    tl.store(shares_ptr + tl.program_id(0) * ((2 + C) * D) + 2 * D + at, dmap)
