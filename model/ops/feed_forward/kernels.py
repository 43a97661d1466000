"""Triton kernels of `feed_forward`: a program does a tile of frames from the residual sum to the next one, and hidden channels never leave it.

Random bits are made where they are used, and never stored; a call serves eight channels side by side.

Shape letters: N frames, L frames of a tile, D channels, F hidden channels, P hidden channels of a piece.
"""

import triton
import triton.language as tl

from model.ops.products import dot
from model.ops.rowwise import gaussian, kept_scale, normalise_grad

SPARE = tl.constexpr(8)
"""Columns beside a, the first of them 1, so that its product with dout has the gradient of b2 too."""


@triton.jit
def _vector(ptr, at, size, ACC: tl.constexpr):
    return tl.load(ptr + at, mask=at < size, other=0.0).to(ACC)[None, :]


@triton.jit
def _normed(r, gamma, beta, D: tl.constexpr, eps: tl.constexpr):
    """The norm of rows r (L, D), their mean and their inverse deviation (L, 1)."""
    mean = tl.sum(r, 1, keep_dims=True) / D
    r -= mean
    inverse = 1.0 / tl.sqrt(tl.sum(r * r, 1, keep_dims=True) / D + eps)
    return r * inverse * gamma + beta, mean, inverse


@triton.jit
def _reloaded(ptr, x, ok):
    """x, by way of memory: products read it where they need it, and after one it is back in threads as rows are best written."""
    tl.store(ptr, x, ok)
    # What one thread has written another one may read.
    tl.debug_barrier()
    return tl.load(ptr, mask=ok, other=0.0)


@triton.jit
def _piece(w_ptr, f, d, F: tl.constexpr, D: tl.constexpr):
    """Tile (P, D) of weights (F, D)."""
    return tl.load(w_ptr + f[:, None] * D + d[None, :], mask=(f < F)[:, None], other=0.0)


@triton.jit
def feed_forward_kernel(
    x_ptr, update_ptr, gamma_ptr, beta_ptr, w1_ptr, b1_ptr, w2_ptr, b2_ptr, seeds_ptr, r_ptr, y_ptr, N, D: tl.constexpr,
    F: tl.constexpr, L: tl.constexpr, P: tl.constexpr, BELOW: tl.constexpr, eps: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Residual sum r and output y of L frames. w1 and the transpose of w2 are (F, D), in the dtype of x."""
    row = tl.program_id(0) * L + tl.arange(0, L)
    ok = (row < N)[:, None]
    d = tl.arange(0, D)
    at = row.to(tl.int64)[:, None] * D + d[None, :]
    dtype = y_ptr.dtype.element_ty
    x, update = tl.load(x_ptr + at, mask=ok, other=0.0), tl.load(update_ptr + at, mask=ok, other=0.0).to(ACC)
    gamma, beta, b2 = _vector(gamma_ptr, d, D, ACC), _vector(beta_ptr, d, D, ACC), _vector(b2_ptr, d, D, ACC)
    b1 = _vector(b1_ptr, tl.arange(0, P), F, ACC)
    if BELOW > 0:
        update *= kept_scale(tl.load(seeds_ptr), row, D, BELOW, ACC)
    r = (x.to(ACC) + update).to(dtype)
    tl.store(r_ptr + at, r, ok)
    normed, _mean, _inverse = _normed(r.to(ACC), gamma, beta, D, eps)
    normed = _reloaded(y_ptr + at, normed.to(dtype), ok)
    out = tl.zeros((L, D), ACC)
    for f0 in range(0, F, P):
        f = f0 + tl.arange(0, P)
        h = dot(normed, tl.trans(_piece(w1_ptr, f, d, F, D)), tl.zeros((L, P), ACC)) + b1
        # Products would wait for what is loaded where it is used.
        b1 = _vector(b1_ptr, f + P, F, ACC)
        below, _density = gaussian(h)
        out = dot((h * below).to(dtype), _piece(w2_ptr, f, d, F, D), out)
    r = tl.load(r_ptr + at, mask=ok, other=0.0)
    tl.debug_barrier()
    out = _reloaded(y_ptr + at, out.to(dtype), ok).to(ACC) + b2
    if BELOW > 0:
        out *= kept_scale(tl.load(seeds_ptr + 1), row, D, BELOW, ACC)
    tl.store(y_ptr + at, (r.to(ACC) + out).to(dtype), ok)


@triton.jit
def feed_forward_grad_kernel(
    r_ptr, gamma_ptr, beta_ptr, w1_ptr, b1_ptr, w2_ptr, seeds_ptr, dy_ptr, dx_ptr, dupdate_ptr, normed_ptr, a_ptr, dh_ptr,
    dout_ptr, shares_ptr, N, D: tl.constexpr, F: tl.constexpr, L: tl.constexpr, P: tl.constexpr, BELOW: tl.constexpr,
    eps: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Gradients of x and update of L frames, and what those of the weights are products of.

    Those are: dh (N, F) and normed (N, D) for w1, a (N, F + 8) and dout (N, D) for w2 and b2. With it the program's share
    (2, D) of the gradients of gamma and beta. Without dropout dout is dy, and not written.
    """
    row = tl.program_id(0) * L + tl.arange(0, L)
    ok = (row < N)[:, None]
    d = tl.arange(0, D)
    at = row.to(tl.int64)[:, None] * D + d[None, :]
    dtype = dy_ptr.dtype.element_ty
    r, dy = tl.load(r_ptr + at, mask=ok, other=0.0).to(ACC), tl.load(dy_ptr + at, mask=ok, other=0.0)
    gamma, beta = _vector(gamma_ptr, d, D, ACC), _vector(beta_ptr, d, D, ACC)
    b1 = _vector(b1_ptr, tl.arange(0, P), F, ACC)
    normed, mean, inverse = _normed(r, gamma, beta, D, eps)
    tl.store(normed_ptr + at, normed.to(dtype), ok)
    spare = tl.arange(0, SPARE)[None, :]
    one = tl.where(spare == 0, 1.0, 0.0).to(dtype).broadcast_to((L, SPARE))
    tl.store(a_ptr + row.to(tl.int64)[:, None] * (F + SPARE) + F + spare, one, ok)
    if BELOW > 0:
        dout = dy.to(ACC) * kept_scale(tl.load(seeds_ptr + 1), row, D, BELOW, ACC)
        tl.store(dout_ptr + at, dout.to(dtype), ok)
    tl.debug_barrier()
    normed = tl.load(normed_ptr + at, mask=ok, other=0.0)
    dout = tl.load(dout_ptr + at, mask=ok, other=0.0)
    dnormed = tl.zeros((L, D), ACC)
    for f0 in range(0, F, P):
        f = f0 + tl.arange(0, P)
        w1 = _piece(w1_ptr, f, d, F, D)
        h = dot(normed, tl.trans(w1), tl.zeros((L, P), ACC)) + b1
        b1 = _vector(b1_ptr, f + P, F, ACC)
        da = dot(dout, tl.trans(_piece(w2_ptr, f, d, F, D)), tl.zeros((L, P), ACC))
        below, density = gaussian(h)
        dh = (da * (below + h * density)).to(dtype)
        there = ok & (f < F)[None, :]
        tl.store(a_ptr + row.to(tl.int64)[:, None] * (F + SPARE) + f[None, :], (h * below).to(dtype), there)
        tl.store(dh_ptr + row.to(tl.int64)[:, None] * F + f[None, :], dh, there)
        dnormed = dot(dh, w1, dnormed)
    r, dy = tl.load(r_ptr + at, mask=ok, other=0.0), tl.load(dy_ptr + at, mask=ok, other=0.0)
    dnormed = _reloaded(dupdate_ptr + at, dnormed.to(dtype), ok).to(ACC)
    unit = (r.to(ACC) - mean) * inverse
    share = shares_ptr + tl.program_id(0).to(tl.int64) * (2 * D) + d
    tl.store(share, tl.sum(dnormed * unit, 0))
    tl.store(share + D, tl.sum(dnormed, 0))
    dx = dy.to(ACC) + normalise_grad(dnormed * gamma, unit, inverse, D)
    tl.store(dx_ptr + at, dx.to(dtype), ok)
    if BELOW > 0:
        dx *= kept_scale(tl.load(seeds_ptr), row, D, BELOW, ACC)
    tl.debug_barrier()
    tl.store(dupdate_ptr + at, dx.to(dtype), ok)


@triton.jit
def weights_grad_kernel(
    dh_ptr, normed_ptr, a_ptr, dout_ptr, shares_ptr, N, tiles, D: tl.constexpr, F: tl.constexpr, W: tl.constexpr,
    L: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Each program's shares of dh^T normed and of (a, 1)^T dout (F + 8, D), and behind each those of the left one's sums (F + 8,).

    Program axes: 0 run of `tiles` tiles of frames, 1 tile of hidden channels, 2 which of the products.
    """
    which = tl.program_id(2)
    left_ptr, right_ptr = dh_ptr, normed_ptr
    if which == 1:
        left_ptr, right_ptr = a_ptr, dout_ptr
    f = tl.program_id(1) * W + tl.arange(0, W)
    d = tl.arange(0, D)
    columns = F + SPARE * which
    ones = tl.full((L, 16), 1.0, left_ptr.dtype.element_ty)
    product = tl.zeros((W, D), ACC)
    sums = tl.zeros((W, 16), ACC)
    for step in range(tiles):
        # The frames that were written last come first: they may still be in the cache.
        row = ((tiles - 1 - step) * tl.num_programs(0) + tl.program_id(0)) * L + tl.arange(0, L)
        ok = (row < N)[:, None]
        row = row.to(tl.int64)[:, None]
        left = tl.load(left_ptr + row * columns + f[None, :], mask=ok & (f < columns)[None, :], other=0.0)
        right = tl.load(right_ptr + row * D + d[None, :], mask=ok, other=0.0)
        product = dot(tl.trans(left), right, product)
        sums = dot(tl.trans(left), ones, sums)
    there = f < F + SPARE
    share = shares_ptr + (tl.program_id(0).to(tl.int64) * 2 + which) * ((F + SPARE) * (D + 1))
    tl.store(share + f[:, None] * D + d[None, :], product, there[:, None])
    # All columns are the same.
    tl.store(share + (F + SPARE) * D + f, tl.sum(sums, 1) / 16, there)
