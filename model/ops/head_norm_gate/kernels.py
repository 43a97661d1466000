"""Triton kernels of `head_norm_gate`: every tensor is read and written once, from the end of the batch, which is still in the cache.

Shape letters: R directions, B batch, S frames, H heads, E channels of a head, I = H E inner channels, N = B S rows,
L rows of a tile. Program axes: 0 (run of) tiles of rows, 1 head.
"""

# ruff: noqa: RUF005 (Triton does not unpack tuples)

import triton
import triton.language as tl

from model.ops.rowwise import sigmoid


@triton.jit
def _tile(tile, h, N, z_stride, I: tl.constexpr, E: tl.constexpr, L: tl.constexpr, EP: tl.constexpr):
    """Offsets (L, EP) into (N, I) and into rows of another stride, and which of them exist."""
    n = tile.to(tl.int64) * L + tl.arange(0, L)
    e = tl.arange(0, EP)
    c = h * E + e
    return n[:, None] * I + c[None, :], n[:, None] * z_stride + c[None, :], (n < N)[:, None] & (e < E)[None, :]


@triton.jit
def normalise_head(x, ok, E: tl.constexpr, eps: tl.constexpr):
    """Normalised rows of x (L, EP) and the inverse of their deviation (L, 1)."""
    x = tl.where(ok, x - tl.sum(x, 1, keep_dims=True) / E, 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(x * x, 1, keep_dims=True) / E + eps)
    return x * inverse, inverse


@triton.jit
def head_norm_gate_kernel(
    h_ptr, conv_ptr, z_ptr, weight_ptr, skip_ptr, y_ptr, N, z_stride, I: tl.constexpr, E: tl.constexpr,
    R: tl.constexpr, L: tl.constexpr, EP: tl.constexpr, eps: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Gated sum of one tile of one head."""
    h = tl.program_id(1)
    at, z_at, ok = _tile(tl.num_programs(0) - 1 - tl.program_id(0), h, N, z_stride, I, E, L, EP)
    e = tl.arange(0, EP)
    weight = 1.0 + tl.load(weight_ptr + h * E + e, mask=e < E, other=0.0).to(ACC)
    skip = tl.load(skip_ptr + h * E + e, mask=e < E, other=0.0).to(ACC)
    total = tl.zeros((L, EP), ACC)
    # What is read here nothing reads before the way back: it need not push y from the cache.
    for r in tl.static_range(R):
        turn = tl.cast(N, tl.int64) * I * r
        hidden = tl.load(h_ptr + turn + at, mask=ok, other=0.0, eviction_policy="evict_first")
        conv = tl.load(conv_ptr + turn + at, mask=ok, other=0.0, eviction_policy="evict_first").to(ACC)
        normed, _inverse = normalise_head(hidden.to(ACC), ok, E, eps)
        total += normed * weight[None, :] + conv * skip[None, :]
    z = tl.load(z_ptr + z_at, mask=ok, other=0.0, eviction_policy="evict_first").to(ACC)
    tl.store(y_ptr + at, (total * z * sigmoid(z)).to(y_ptr.dtype.element_ty), ok)


@triton.jit
def head_norm_gate_grad_kernel(
    h_ptr, conv_ptr, z_ptr, weight_ptr, skip_ptr, dy_ptr, dh_ptr, dconv_ptr, dz_ptr, rho_ptr, dweights_ptr, N, S,
    z_stride, dz_stride, tiles, I: tl.constexpr, E: tl.constexpr, R: tl.constexpr, L: tl.constexpr, EP: tl.constexpr,
    RHO: tl.constexpr, STAGES: tl.constexpr, eps: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Gradients of `tiles` tiles of one head; dconv is the same for all directions. Shares of those of both weights: (2, I).

    With RHO also dh.h, summed over each head's channels, (R, B, H, S).
    """
    h = tl.program_id(1)
    e = tl.arange(0, EP)
    weight = 1.0 + tl.load(weight_ptr + h * E + e, mask=e < E, other=0.0).to(ACC)
    skip = tl.load(skip_ptr + h * E + e, mask=e < E, other=0.0).to(ACC)
    # Sums over rows stay in their threads until the end.
    dweight = tl.zeros((L, EP), ACC)
    dskip = tl.zeros((L, EP), ACC)
    for step in tl.range(tiles, num_stages=STAGES):
        tile = (tiles - 1 - step) * tl.num_programs(0) + tl.program_id(0)
        at, z_at, ok = _tile(tile, h, N, z_stride, I, E, L, EP)
        # All loads come before the first store, which none of them may pass: for all that the compiler knows they overlap.
        z = tl.load(z_ptr + z_at, mask=ok, other=0.0).to(ACC)
        dy = tl.load(dy_ptr + at, mask=ok, other=0.0).to(ACC)
        hidden = ()
        conv_sum = tl.zeros((L, EP), ACC)
        for r in tl.static_range(R):
            turn = r * tl.cast(N, tl.int64) * I
            hidden = hidden + (tl.load(h_ptr + turn + at, mask=ok, other=0.0),)
            conv_sum += tl.load(conv_ptr + turn + at, mask=ok, other=0.0).to(ACC)
        gate = sigmoid(z)
        dtotal = dy * z * gate
        normed_sum = tl.zeros((L, EP), ACC)
        scaled = dtotal * weight[None, :]
        mean = tl.sum(scaled, 1, keep_dims=True) / E
        for r in tl.static_range(R):
            normed, inverse = normalise_head(hidden[r].to(ACC), ok, E, eps)
            normed_sum += normed
            along = tl.sum(scaled * normed, 1, keep_dims=True) / E
            dh = (scaled - mean - normed * along) * inverse
            dh = dh.to(dh_ptr.dtype.element_ty)
            tl.store(dh_ptr + r * tl.cast(N, tl.int64) * I + at, dh, ok)
            if RHO:
                n = tile.to(tl.int64) * L + tl.arange(0, L)
                # (r B + b) H + h rows of S frames, for the frame n = b S + s of direction r
                place = (r * tl.cast(N, tl.int64) + n - n % S) * tl.num_programs(1) + h * S + n % S
                tl.store(rho_ptr + place, tl.sum(dh.to(ACC) * hidden[r].to(ACC), 1), n < N)
        total = normed_sum * weight[None, :] + conv_sum * skip[None, :]
        _at, dz_at, _ok = _tile(tile, h, N, dz_stride, I, E, L, EP)
        tl.store(dz_ptr + dz_at, (dy * total * gate * (1.0 + z * (1.0 - gate))).to(dz_ptr.dtype.element_ty), ok)
        tl.store(dconv_ptr + at, (dtotal * skip[None, :]).to(dconv_ptr.dtype.element_ty), ok)
        dweight += dtotal * normed_sum
        dskip += dtotal * conv_sum
    out = tl.program_id(0) * 2 * I + h * E + e
    tl.store(dweights_ptr + out, tl.sum(dweight, 0), e < E)
    tl.store(dweights_ptr + out + I, tl.sum(dskip, 0), e < E)
