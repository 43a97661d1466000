"""Triton kernels of `ffn`: a program does a tile of frames from the residual sum to the next one, and hidden channels never leave it.

Random bits are made where they are used, and never stored; a call serves eight channels side by side.

Shape letters: N frames, L frames of a tile, D channels, F hidden channels, P hidden channels of a piece.
"""

import triton
import triton.language as tl

from model.ops.rowwise import gaussian, kept_scale

SPARE = tl.constexpr(8)
"""Columns beside the factors of the weights' gradients, the first of them 1, so that the products have the biases' too."""


@triton.jit
def _dot(a, b, acc):
    return tl.dot(a, b, acc, input_precision="ieee", out_dtype=acc.dtype)


@triton.jit
def _vector(ptr, at, size, ACC: tl.constexpr):
    return tl.load(ptr + at, mask=at < size, other=0.0).to(ACC)[None, :]


@triton.jit
def _normed(
    x_ptr, update_ptr, gamma_ptr, beta_ptr, seeds_ptr, sum_ptr, at, ok, row, D: tl.constexpr, BELOW: tl.constexpr,
    eps: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The norm's output (L, D), in the dtype of x, and mean and inverse deviation (L, 1) of the first residual sum.

    That sum is left at sum_ptr, so that it fills no registers while hidden channels are done.
    """
    d = tl.arange(0, D)
    x = tl.load(x_ptr + at, mask=ok[:, None], other=0.0).to(ACC)
    update = tl.load(update_ptr + at, mask=ok[:, None], other=0.0).to(ACC)
    if BELOW > 0:
        update *= kept_scale(tl.load(seeds_ptr), row, D, BELOW, ACC)
    x = (x + update).to(sum_ptr.dtype.element_ty)
    tl.store(sum_ptr + at, x, ok[:, None])
    x = x.to(ACC)
    mean = tl.sum(x, 1, keep_dims=True) / D
    x -= mean
    inverse = 1.0 / tl.sqrt(tl.sum(x * x, 1, keep_dims=True) / D + eps)
    normed = x * inverse * _vector(gamma_ptr, d, D, ACC) + _vector(beta_ptr, d, D, ACC)
    # What one thread has written another one may read.
    tl.debug_barrier()
    return normed.to(x_ptr.dtype.element_ty), mean, inverse


@triton.jit
def _piece(w_ptr, f, d, F: tl.constexpr, D: tl.constexpr):
    """Tile (P, D) of weights (F, D)."""
    return tl.load(w_ptr + f[:, None] * D + d[None, :], mask=(f < F)[:, None], other=0.0)


@triton.jit
def ffn_kernel(
    x_ptr, update_ptr, gamma_ptr, beta_ptr, w1_ptr, b1_ptr, w2_ptr, b2_ptr, seeds_ptr, y_ptr, N, D: tl.constexpr,
    F: tl.constexpr, L: tl.constexpr, P: tl.constexpr, BELOW: tl.constexpr, eps: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Output of L frames. w1 and the transpose of w2 are (F, D), in the dtype of x."""
    row = tl.program_id(0) * L + tl.arange(0, L)
    ok = row < N
    d = tl.arange(0, D)
    at = row.to(tl.int64)[:, None] * D + d[None, :]
    normed, _mean, _inverse = _normed(
        x_ptr, update_ptr, gamma_ptr, beta_ptr, seeds_ptr, y_ptr, at, ok, row, D, BELOW, eps, ACC
    )
    out = tl.zeros((L, D), ACC)
    for f0 in range(0, F, P):
        f = f0 + tl.arange(0, P)
        h = _dot(normed, tl.trans(_piece(w1_ptr, f, d, F, D)), tl.zeros((L, P), ACC)) + _vector(b1_ptr, f, F, ACC)
        below, _density = gaussian(h)
        out = _dot((h * below).to(normed.dtype), _piece(w2_ptr, f, d, F, D), out)
    out += _vector(b2_ptr, d, D, ACC)
    if BELOW > 0:
        out *= kept_scale(tl.load(seeds_ptr + 1), row, D, BELOW, ACC)
    out += tl.load(y_ptr + at, mask=ok[:, None], other=0.0)
    tl.store(y_ptr + at, out.to(y_ptr.dtype.element_ty), ok[:, None])


@triton.jit
def _store_spare(row_ptr, width: tl.constexpr, ok):
    """Writes 1, 0, 0, ... behind the first `width` columns of rows."""
    spare = tl.arange(0, SPARE)
    one = tl.where(spare == 0, 1.0, 0.0).to(row_ptr.dtype.element_ty)
    tl.store(row_ptr[:, None] + width + spare[None, :], one[None, :].broadcast_to((ok.shape[0], SPARE)), ok[:, None])


@triton.jit
def ffn_grad_kernel(
    x_ptr, update_ptr, gamma_ptr, beta_ptr, w1_ptr, b1_ptr, w2_ptr, seeds_ptr, dy_ptr, dx_ptr, dupdate_ptr, normed_ptr,
    a_ptr, dh_ptr, dout_ptr, shares_ptr, N, D: tl.constexpr, F: tl.constexpr, L: tl.constexpr, P: tl.constexpr,
    BELOW: tl.constexpr, eps: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Gradients of x and update of L frames, and what those of the weights are products of.

    Those are: dh (N, F) and normed (N, D + 8) for w1 and b1, a (N, F + 8) and dout (N, D) for w2 and b2. With it the program's share
    (2, D) of the gradients of gamma and beta. Without dropout dout is dy and dupdate dx, and neither is written.
    """
    row = tl.program_id(0) * L + tl.arange(0, L)
    ok = row < N
    d = tl.arange(0, D)
    at = row.to(tl.int64)[:, None] * D + d[None, :]
    dtype = dy_ptr.dtype.element_ty
    normed, mean, inverse = _normed(
        x_ptr, update_ptr, gamma_ptr, beta_ptr, seeds_ptr, dx_ptr, at, ok, row, D, BELOW, eps, ACC
    )
    _store_spare(normed_ptr + row.to(tl.int64) * (D + SPARE), D, ok)
    tl.store(normed_ptr + row.to(tl.int64)[:, None] * (D + SPARE) + d[None, :], normed, ok[:, None])
    _store_spare(a_ptr + row.to(tl.int64) * (F + SPARE), F, ok)
    dout = tl.load(dy_ptr + at, mask=ok[:, None], other=0.0)
    if BELOW > 0:
        dout = (dout.to(ACC) * kept_scale(tl.load(seeds_ptr + 1), row, D, BELOW, ACC)).to(dtype)
        tl.store(dout_ptr + at, dout, ok[:, None])
    dnormed = tl.zeros((L, D), ACC)
    for f0 in range(0, F, P):
        f = f0 + tl.arange(0, P)
        w1 = _piece(w1_ptr, f, d, F, D)
        h = _dot(normed, tl.trans(w1), tl.zeros((L, P), ACC)) + _vector(b1_ptr, f, F, ACC)
        da = _dot(dout, tl.trans(_piece(w2_ptr, f, d, F, D)), tl.zeros((L, P), ACC))
        below, density = gaussian(h)
        dh = (da * (below + h * density)).to(dtype)
        there = ok[:, None] & (f < F)[None, :]
        tl.store(a_ptr + row.to(tl.int64)[:, None] * (F + SPARE) + f[None, :], (h * below).to(dtype), there)
        tl.store(dh_ptr + row.to(tl.int64)[:, None] * F + f[None, :], dh, there)
        dnormed = _dot(dh, w1, dnormed)
    unit = (tl.load(dx_ptr + at, mask=ok[:, None], other=0.0).to(ACC) - mean) * inverse
    share = shares_ptr + tl.program_id(0).to(tl.int64) * (2 * D) + d
    tl.store(share, tl.sum(dnormed * unit, 0))
    tl.store(share + D, tl.sum(dnormed, 0))
    dunit = dnormed * _vector(gamma_ptr, d, D, ACC)
    along = tl.sum(dunit * unit, 1, keep_dims=True) / D
    dx = tl.load(dy_ptr + at, mask=ok[:, None], other=0.0).to(ACC) + inverse * (
        dunit - tl.sum(dunit, 1, keep_dims=True) / D - unit * along
    )
    tl.store(dx_ptr + at, dx.to(dtype), ok[:, None])
    if BELOW > 0:
        dx *= kept_scale(tl.load(seeds_ptr), row, D, BELOW, ACC)
        tl.store(dupdate_ptr + at, dx.to(dtype), ok[:, None])
