"""Triton kernels of `project`. A program reads a tile of x once and makes all that the cell needs of it.

The 4 x 4 blocks of queries, keys and values are laid out in dense tiles of C x C, which tensor cores multiply at no
cost that shows. Gates are linear in the convolved input a and in x: gates_r = a_r A + x X (README.md).

Shape letters: R directions, B batch, S frames, I inner channels, K taps, C channels of a tile, L frames of a tile,
G gate columns, padded.
"""

import triton
import triton.language as tl


@triton.jit
def _dot(a, b, acc):
    return tl.dot(a, b, acc, input_precision="ieee", out_dtype=acc.dtype)


@triton.jit
def _rows_at(ptr, b, s, S, stride, c, shift):
    """Tile (L, C) of frames s + shift of batch row b; zero outside of the window."""
    at = s + shift
    ok = (at >= 0) & (at < S)
    return tl.load(ptr + (b.to(tl.int64) * S + at)[:, None] * stride + c[None, :], mask=ok[:, None], other=0.0)


@triton.jit
def _convolve(x_ptr, w_ptr, bias_ptr, b, s, S, stride, c, side, K: tl.constexpr, ACC: tl.constexpr):
    """Convolution (L, C) over the past (side -1) or the future (side 1)."""
    out = tl.zeros((s.shape[0], c.shape[0]), ACC) + tl.load(bias_ptr + c).to(ACC)[None, :]
    for j in tl.static_range(K):
        x = _rows_at(x_ptr, b, s, S, stride, c, side * (K - 1 - j))
        out += tl.load(w_ptr + c * K + j).to(ACC)[None, :] * x.to(ACC)
    return out


@triton.jit
def _matrix(ptr, rows, columns, stride):
    return tl.load(ptr + rows[:, None] * stride + columns[None, :])


@triton.jit
def project_kernel(
    x_ptr, w_ptr, bias_ptr, wq_ptr, wk_ptr, wv_ptr, on_a_ptr, on_x_ptr, a_ptr, q_ptr, k_ptr, v_ptr, gates_ptr, B, S,
    stride, span, I: tl.constexpr, K: tl.constexpr, R: tl.constexpr, FIRST: tl.constexpr, C: tl.constexpr, L: tl.constexpr,
    G: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Convolved input, queries, keys, values, and a share of the gates, of L frames.

    Program axes: 0 frames, 1 batch row, 2 run of `span` channels.
    """
    b = tl.program_id(1)
    s = tl.program_id(0) * L + tl.arange(0, L)
    ok = s < S
    inner = tl.arange(0, C)
    g = tl.arange(0, G)
    gates0 = tl.zeros((L, G), ACC)
    gates1 = tl.zeros((L, G), ACC)
    c_first = tl.program_id(2) * span
    for c0 in range(c_first, tl.minimum(c_first + span, I), C):
        c = c0 + inner
        wq = _matrix(wq_ptr + c0 * C, inner, inner, C)
        wk = _matrix(wk_ptr + c0 * C, inner, inner, C)
        wv = _matrix(wv_ptr + c0 * C, inner, inner, C)
        on_a = _matrix(on_a_ptr, c, g, G)
        x = _rows_at(x_ptr, b, s, S, stride, c, 0)
        row = b.to(tl.int64) * S + s
        v = _dot(x, wv, tl.zeros((L, C), ACC))
        tl.store(v_ptr + row[:, None] * I + c[None, :], v.to(x.dtype), ok[:, None])
        from_x = _dot(x, _matrix(on_x_ptr, c, g, G), tl.zeros((L, G), ACC))
        for r in tl.static_range(R):
            side = 2 * (r + FIRST) - 1
            conv = _convolve(x_ptr, w_ptr, bias_ptr, b, s, S, stride, c, side, K, ACC)
            a = (conv / (1.0 + tl.exp(-conv))).to(x.dtype)
            at = (row + r * tl.cast(B, tl.int64) * S)[:, None] * I + c[None, :]
            tl.store(a_ptr + at, a, ok[:, None])
            tl.store(q_ptr + at, _dot(a, wq, tl.zeros((L, C), ACC)).to(x.dtype), ok[:, None])
            tl.store(k_ptr + at, _dot(a, wk, tl.zeros((L, C), ACC)).to(x.dtype), ok[:, None])
            if r == 0:
                gates0 = _dot(a, on_a, gates0 + from_x)
            else:
                gates1 = _dot(a, on_a, gates1 + from_x)
    row = (tl.program_id(2) * R * tl.cast(B, tl.int64) + b) * S + s
    tl.store(gates_ptr + row[:, None] * G + g[None, :], gates0, ok[:, None])
    if R == 2:
        tl.store(gates_ptr + (row + tl.cast(B, tl.int64) * S)[:, None] * G + g[None, :], gates1, ok[:, None])


@triton.jit
def project_grad_kernel(
    x_ptr, w_ptr, bias_ptr, wq_ptr, wk_ptr, wv_ptr, on_a_ptr, on_x_ptr, da_ptr, dq_ptr, dk_ptr, dv_ptr, dgates_ptr,
    dconv_ptr, dx_ptr, dwq_ptr, dwk_ptr, dwv_ptr, don_a_ptr, don_x_ptr, B, S, stride, tiles, da_turn, I: tl.constexpr,
    K: tl.constexpr, R: tl.constexpr, FIRST: tl.constexpr, C: tl.constexpr, L: tl.constexpr, G: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """Gradients before SiLU, that of x through the values, and each program's share of those of the weights.

    Program axes: 0 tile of channels, 1 run of `tiles` tiles of frames of the whole batch.
    """
    c0 = tl.program_id(0) * C
    inner = tl.arange(0, C)
    g = tl.arange(0, G)
    c = c0 + inner
    wq = _matrix(wq_ptr + c0 * C, inner, inner, C)
    wk = _matrix(wk_ptr + c0 * C, inner, inner, C)
    wv = _matrix(wv_ptr + c0 * C, inner, inner, C)
    on_a = _matrix(on_a_ptr, c, g, G)
    on_x = _matrix(on_x_ptr, c, g, G)
    dwq = tl.zeros((C, C), ACC)
    dwk = tl.zeros((C, C), ACC)
    dwv = tl.zeros((C, C), ACC)
    don_a = tl.zeros((C, G), ACC)
    don_x = tl.zeros((C, G), ACC)
    per_row = tl.cdiv(S, L)
    for step in range(tiles):
        tile = tl.program_id(1) * tiles + step
        b = tile // per_row
        s = (tile % per_row) * L + tl.arange(0, L)
        ok = (s < S) & (b < B)
        s = tl.where(ok, s, S + K)
        row = b.to(tl.int64) * S + s
        at = row[:, None] * I + c[None, :]
        x = _rows_at(x_ptr, b, s, S, stride, c, 0)
        dv = tl.load(dv_ptr + at, mask=ok[:, None], other=0.0)
        dwv = _dot(tl.trans(x), dv, dwv)
        dx = _dot(dv, tl.trans(wv), tl.zeros((L, C), ACC))
        dboth = tl.zeros((L, G), ACC)
        for r in tl.static_range(R):
            side = 2 * (r + FIRST) - 1
            turn = r * tl.cast(B, tl.int64) * S
            at_r = (row + turn)[:, None] * I + c[None, :]
            dgates = tl.load(dgates_ptr + (row + turn)[:, None] * G + g[None, :], mask=ok[:, None], other=0.0)
            dboth += dgates
            dgates = dgates.to(x.dtype)
            conv = _convolve(x_ptr, w_ptr, bias_ptr, b, s, S, stride, c, side, K, ACC)
            gate = 1.0 / (1.0 + tl.exp(-conv))
            a = tl.where(ok[:, None], conv * gate, 0.0).to(x.dtype)
            dq = tl.load(dq_ptr + at_r, mask=ok[:, None], other=0.0)
            dwq = _dot(tl.trans(a), dq, dwq)
            da = _dot(
                dq,
                tl.trans(wq),
                tl.load(da_ptr + r * tl.cast(da_turn, tl.int64) + at, mask=ok[:, None], other=0.0).to(ACC),
            )
            dk = tl.load(dk_ptr + at_r, mask=ok[:, None], other=0.0)
            dwk = _dot(tl.trans(a), dk, dwk)
            da = _dot(dk, tl.trans(wk), da)
            don_a = _dot(tl.trans(a), dgates, don_a)
            da = _dot(dgates, tl.trans(on_a), da)
            dconv = da * gate * (1.0 + conv * (1.0 - gate))
            tl.store(dconv_ptr + at_r, dconv.to(x.dtype), ok[:, None])
        dboth = dboth.to(x.dtype)
        don_x = _dot(tl.trans(x), dboth, don_x)
        dx = _dot(dboth, tl.trans(on_x), dx)
        tl.store(dx_ptr + at, dx.to(x.dtype), ok[:, None])
    run = tl.program_id(1).to(tl.int64) * I
    square = (run + c)[:, None] * C + inner[None, :]
    tl.store(dwq_ptr + square, dwq)
    tl.store(dwk_ptr + square, dwk)
    tl.store(dwv_ptr + square, dwv)
    thin = (run + c)[:, None] * G + g[None, :]
    tl.store(don_a_ptr + thin, don_a)
    tl.store(don_x_ptr + thin, don_x)


@triton.jit
def convolve_grad_kernel(
    x_ptr, w_ptr, dconv_ptr, dxv_ptr, dx_ptr, dw_ptr, dbias_ptr, B, S, stride, tiles, I: tl.constexpr, K: tl.constexpr,
    R: tl.constexpr, FIRST: tl.constexpr, C: tl.constexpr, L: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Gradient of x through values and convolutions, and each program's share of those of taps and bias. Axes as above."""
    inner = tl.arange(0, C)
    c = tl.program_id(0) * C + inner
    per_row = tl.cdiv(S, L)
    dw = tl.zeros((K, C), ACC)
    dbias = tl.zeros((C,), ACC)
    tap = tl.arange(0, K)
    for step in range(tiles):
        tile = tl.program_id(1) * tiles + step
        b = tile // per_row
        s = (tile % per_row) * L + tl.arange(0, L)
        ok = (s < S) & (b < B)
        s = tl.where(ok, s, S + K)
        at = (b.to(tl.int64) * S + s)[:, None] * I + c[None, :]
        dx = tl.load(dxv_ptr + at, mask=ok[:, None], other=0.0).to(ACC)
        for r in tl.static_range(R):
            side = 2 * (r + FIRST) - 1
            dconv_r = dconv_ptr + r * tl.cast(B, tl.int64) * S * I
            here = _rows_at(dconv_r, b, s, S, I, c, 0).to(ACC)
            dbias += tl.sum(here, 0)
            for j in tl.static_range(K):
                shift = side * (K - 1 - j)
                w = tl.load(w_ptr + c * K + j).to(ACC)
                dx += w[None, :] * _rows_at(dconv_r, b, s, S, I, c, -shift).to(ACC)
                share = tl.sum(here * _rows_at(x_ptr, b, s, S, stride, c, shift).to(ACC), 0)
                dw += tl.where(tap[:, None] == j, share[None, :], 0.0)
        tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), ok[:, None])
    run = tl.program_id(1) * I
    tl.store(dw_ptr + (run + c)[None, :] * K + tap[:, None], dw)
    tl.store(dbias_ptr + run + c, dbias)
