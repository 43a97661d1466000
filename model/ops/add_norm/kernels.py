"""Triton kernels of `add_norm` and `add_dropped`: every tensor is read and written once. Shape letters: N frames, L frames of a tile, D channels."""

import triton
import triton.language as tl

from model.ops.rowwise import kept_scale, normalise_grad, rows_of_tile


@triton.jit
def add_dropped_kernel(
    x_ptr, update_ptr, seed_ptr, y_ptr, N, D: tl.constexpr, L: tl.constexpr, ADD: tl.constexpr, BELOW: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """What dropout leaves of the update, one tile of it, and with ADD x besides. Program axis: tiles."""
    row, at, ok = rows_of_tile(tl.program_id(0), N, D, L)
    y = tl.load(update_ptr + at, mask=ok, other=0.0).to(ACC) * kept_scale(tl.load(seed_ptr), row, D, BELOW, ACC)
    if ADD:
        y += tl.load(x_ptr + at, mask=ok, other=0.0).to(ACC)
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), ok)


@triton.jit
def add_norm_kernel(
    x_ptr, update_ptr, weight_ptr, bias_ptr, seed_ptr, sum_ptr, y_ptr, moments_ptr, N, D: tl.constexpr, L: tl.constexpr,
    ADD: tl.constexpr, BELOW: tl.constexpr, eps: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The norm's output of one tile, mean and inverse deviation of its frames (2, N), and with ADD the sum. Program axis: tiles."""
    row, at, ok = rows_of_tile(tl.program_id(0), N, D, L)
    x = tl.load(x_ptr + at, mask=ok, other=0.0).to(ACC)
    if ADD:
        update = tl.load(update_ptr + at, mask=ok, other=0.0).to(ACC)
        if BELOW > 0:
            update *= kept_scale(tl.load(seed_ptr), row, D, BELOW, ACC)
        # The norm is that of the sum as it is stored.
        rounded = (x + update).to(sum_ptr.dtype.element_ty)
        tl.store(sum_ptr + at, rounded, ok)
        x = rounded.to(ACC)
    mean = tl.sum(x, 1) / D
    x -= mean[:, None]
    inverse = 1.0 / tl.sqrt(tl.sum(x * x, 1) / D + eps)
    tl.store(moments_ptr + row, mean, row < N)
    tl.store(moments_ptr + N + row, inverse, row < N)
    d = tl.arange(0, D)
    y = x * inverse[:, None] * tl.load(weight_ptr + d).to(ACC)[None, :] + tl.load(bias_ptr + d).to(ACC)[None, :]
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), ok)


@triton.jit
def add_norm_grad_kernel(
    sum_ptr, moments_ptr, weight_ptr, seed_ptr, dsum_ptr, dy_ptr, dx_ptr, dupdate_ptr, shares_ptr, N, tiles, D: tl.constexpr,
    L: tl.constexpr, BELOW: tl.constexpr, STAGES: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Gradients of x and, where it is dropped in part, of the update; the share (2, D) of those of weight and bias.

    Program axis: runs of `tiles` tiles.
    """
    weight = tl.load(weight_ptr + tl.arange(0, D)).to(ACC)[None, :]
    # Sums over frames stay in their threads until the end.
    dweight = tl.zeros((L, D), ACC)
    dbias = tl.zeros((L, D), ACC)
    for step in tl.range(tiles, num_stages=STAGES):
        row, at, ok = rows_of_tile(tl.program_id(0) * tiles + step, N, D, L)
        x = tl.load(sum_ptr + at, mask=ok, other=0.0).to(ACC)
        dy = tl.load(dy_ptr + at, mask=ok, other=0.0).to(ACC)
        dsum = tl.load(dsum_ptr + at, mask=ok, other=0.0).to(ACC)
        mean = tl.load(moments_ptr + row, mask=row < N, other=0.0)[:, None]
        inverse = tl.load(moments_ptr + N + row, mask=row < N, other=0.0)[:, None]
        unit = (x - mean) * inverse
        dweight += dy * unit
        dbias += dy
        dx = dsum + normalise_grad(dy * weight, unit, inverse, D)
        tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), ok)
        if BELOW > 0:
            dx *= kept_scale(tl.load(seed_ptr), row, D, BELOW, ACC)
            tl.store(dupdate_ptr + at, dx.to(dx_ptr.dtype.element_ty), ok)
    share = shares_ptr + tl.program_id(0) * (2 * D) + tl.arange(0, D)
    tl.store(share, tl.sum(dweight, 0))
    tl.store(share + D, tl.sum(dbias, 0))
