"""Triton kernels of `project`.

A thread holds whole blocks of 4 channels, so the 4 x 4 maps of queries, keys and values are plain multiplications in
registers: a tile (L, C) is split into the four tiles (L, C / 4) of the channels with the same place in their block, and no
program waits for shared memory. Gates are linear in the convolved input a and in x, gates_r = a_r A + x X (README.md), and
are products for the tensor cores, in kernels of their own.

Shape letters: R directions, B batch, S frames, I inner channels, C channels of a tile, L frames of a tile, G gate columns,
padded. Weights of maps are (16, I / 4), row 4 o + i from input i to output o of a block; taps are (4, I).
"""

import triton
import triton.language as tl

TAPS = tl.constexpr(4)


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
def _tap(w_ptr, c, j, I: tl.constexpr, ACC: tl.constexpr):
    return tl.load(w_ptr + j * I + c).to(ACC)[None, :]


@triton.jit
def _convolve(x_ptr, w_ptr, bias_ptr, b, s, S, stride, c, side, I: tl.constexpr, ACC: tl.constexpr):
    """Convolution (L, C) over the past (side -1) or the future (side 1)."""
    out = tl.zeros((s.shape[0], c.shape[0]), ACC) + tl.load(bias_ptr + c).to(ACC)[None, :]
    for j in tl.static_range(TAPS):
        x = _rows_at(x_ptr, b, s, S, stride, c, side * (TAPS - 1 - j))
        out += _tap(w_ptr, c, j, I, ACC) * x.to(ACC)
    return out


@triton.jit
def _split(x):
    """The tiles (L, C / 4) of the four places in a block."""
    even, odd = tl.split(tl.reshape(x, (x.shape[0], x.shape[1] // 4, 2, 2)))
    x0, x2 = tl.split(even)
    x1, x3 = tl.split(odd)
    return x0, x1, x2, x3


@triton.jit
def _weigh(x0, x1, x2, x3, w_ptr, first, step, n, I: tl.constexpr):
    """Sum of the four places with the weights of rows first, first + step, ..."""
    w = w_ptr + first * (I // 4) + n
    hop: tl.constexpr = step * (I // 4)
    out = x0 * tl.load(w).to(x0.dtype)[None, :]
    out += x1 * tl.load(w + hop).to(x0.dtype)[None, :]
    out += x2 * tl.load(w + 2 * hop).to(x0.dtype)[None, :]
    out += x3 * tl.load(w + 3 * hop).to(x0.dtype)[None, :]
    return out


@triton.jit
def _map(x0, x1, x2, x3, w_ptr, n, I: tl.constexpr, BACK: tl.constexpr):
    """Block-diagonal map (L, C) of a split tile, or its transpose."""
    row: tl.constexpr = 1 if BACK else 4
    step: tl.constexpr = 4 if BACK else 1
    y0 = _weigh(x0, x1, x2, x3, w_ptr, 0, step, n, I)
    y1 = _weigh(x0, x1, x2, x3, w_ptr, row, step, n, I)
    y2 = _weigh(x0, x1, x2, x3, w_ptr, 2 * row, step, n, I)
    y3 = _weigh(x0, x1, x2, x3, w_ptr, 3 * row, step, n, I)
    return tl.reshape(tl.join(tl.join(y0, y2), tl.join(y1, y3)), (x0.shape[0], x0.shape[1] * 4))


@triton.jit
def project_kernel(
    x_ptr, w_ptr, bias_ptr, wq_ptr, wk_ptr, wv_ptr, a_ptr, q_ptr, k_ptr, v_ptr, B, S, stride, I: tl.constexpr,
    R: tl.constexpr, FIRST: tl.constexpr, C: tl.constexpr, L: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Convolved input, queries, keys and values of one tile. Program axes: 0 tile of channels, 1 frames, 2 batch row."""
    b = tl.program_id(2)
    s = tl.program_id(1) * L + tl.arange(0, L)
    ok = s < S
    c = tl.program_id(0) * C + tl.arange(0, C)
    n = tl.program_id(0) * (C // 4) + tl.arange(0, C // 4)
    row = b.to(tl.int64) * S + s
    x = _rows_at(x_ptr, b, s, S, stride, c, 0)
    x0, x1, x2, x3 = _split(x.to(ACC))
    v = _map(x0, x1, x2, x3, wv_ptr, n, I, False)
    tl.store(v_ptr + row[:, None] * I + c[None, :], v.to(x.dtype), ok[:, None])
    for r in tl.static_range(R):
        side = 2 * (r + FIRST) - 1
        conv = _convolve(x_ptr, w_ptr, bias_ptr, b, s, S, stride, c, side, I, ACC)
        a = conv / (1.0 + tl.exp(-conv))
        at = (row + r * tl.cast(B, tl.int64) * S)[:, None] * I + c[None, :]
        tl.store(a_ptr + at, a.to(x.dtype), ok[:, None])
        a0, a1, a2, a3 = _split(a)
        tl.store(q_ptr + at, _map(a0, a1, a2, a3, wq_ptr, n, I, False).to(x.dtype), ok[:, None])
        tl.store(k_ptr + at, _map(a0, a1, a2, a3, wk_ptr, n, I, False).to(x.dtype), ok[:, None])


@triton.jit
def _tile(ptr, row, ok, stride, c):
    return tl.load(ptr + row[:, None] * stride + c[None, :], mask=ok[:, None], other=0.0)


@triton.jit
def _matrix(ptr, c, g, I: tl.constexpr):
    """Tile (C, G) of A or X, which are (G, I)."""
    return tl.load(ptr + g[None, :] * I + c[:, None])


@triton.jit
def gates_kernel(
    x_ptr, a_ptr, on_a_ptr, on_x_ptr, gates_ptr, N, stride, I: tl.constexpr, R: tl.constexpr, C: tl.constexpr,
    L: tl.constexpr, G: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Gates (R, N, G) of L of the N = B S frames. Program axis: frames."""
    row = tl.program_id(0).to(tl.int64) * L + tl.arange(0, L)
    ok = row < N
    g = tl.arange(0, G)
    gates0 = tl.zeros((L, G), ACC)
    gates1 = tl.zeros((L, G), ACC)
    both = tl.zeros((L, G), ACC)
    turn = tl.cast(N, tl.int64) * I
    for c0 in range(0, I, C):
        c = c0 + tl.arange(0, C)
        on_a = _matrix(on_a_ptr, c, g, I).to(a_ptr.dtype.element_ty)
        x = _tile(x_ptr, row, ok, stride, c)
        both = _dot(x, _matrix(on_x_ptr, c, g, I).to(x.dtype), both)
        gates0 = _dot(_tile(a_ptr, row, ok, I, c), on_a, gates0)
        if R == 2:
            gates1 = _dot(_tile(a_ptr + turn, row, ok, I, c), on_a, gates1)
    at = row[:, None] * G + g[None, :]
    tl.store(gates_ptr + at, gates0 + both, ok[:, None])
    if R == 2:
        tl.store(gates_ptr + tl.cast(N, tl.int64) * G + at, gates1 + both, ok[:, None])


@triton.jit
def gates_grad_kernel(
    y_ptr, dgates_ptr, dw_ptr, N, stride, turn, dw_stride, tiles, I: tl.constexpr, R: tl.constexpr, C: tl.constexpr, L: tl.constexpr,
    G: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Each program's share of the gradient (I, G) of A, for y = a, or of X, for y = x, which all directions share (turn 0).

    Program axes: 0 tile of channels, 1 run of `tiles` tiles of frames.
    """
    c = tl.program_id(0) * C + tl.arange(0, C)
    g = tl.arange(0, G)
    # One accumulator: with a second one in the loop Triton 3.6 fills that with garbage on Hopper.
    dw = tl.zeros((C, G), ACC)
    for step in range(tiles):
        row = (tl.program_id(1) * tiles + step).to(tl.int64) * L + tl.arange(0, L)
        ok = row < N
        for r in tl.static_range(R):
            y = _tile(y_ptr + r * tl.cast(turn, tl.int64), row, ok, stride, c)
            dgates = _tile(dgates_ptr + r * tl.cast(N, tl.int64) * G, row, ok, G, g)
            dw = _dot(tl.trans(y), dgates.to(y.dtype), dw)
    tl.store(dw_ptr + tl.program_id(1).to(tl.int64) * dw_stride + c[:, None] * G + g[None, :], dw)


@triton.jit
def _outer(dy, x):
    """dy_o x_i (L, C / 4, 4, 4) within every block, for tiles (L, C)."""
    rows: tl.constexpr = x.shape[0]
    blocks: tl.constexpr = x.shape[1] // 4
    return tl.reshape(dy, (rows, blocks, 4, 1)) * tl.reshape(x, (rows, blocks, 1, 4))


@triton.jit
def project_grad_kernel(
    x_ptr, w_ptr, bias_ptr, wq_ptr, wk_ptr, wv_ptr, on_a_ptr, on_x_ptr, da_ptr, dq_ptr, dk_ptr, dv_ptr, dgates_ptr,
    dconv_ptr, dx_ptr, dw_ptr, B, S, stride, tiles, da_turn, I: tl.constexpr, R: tl.constexpr, FIRST: tl.constexpr,
    C: tl.constexpr, L: tl.constexpr, G: tl.constexpr, USED: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Gradients before SiLU, that of x through values and gates, and each program's share of those of maps (3, I / 4, 4, 4).

    Program axes: 0 tile of channels, 1 run of `tiles` tiles of frames of the whole batch. USED of the G gates are real.
    """
    c = tl.program_id(0) * C + tl.arange(0, C)
    n = tl.program_id(0) * (C // 4) + tl.arange(0, C // 4)
    dwq = tl.zeros((L, C // 4, 4, 4), ACC)
    dwk = tl.zeros((L, C // 4, 4, 4), ACC)
    dwv = tl.zeros((L, C // 4, 4, 4), ACC)
    per_row = tl.cdiv(S, L)
    for step in range(tiles):
        tile = tl.program_id(1) * tiles + step
        b = tile // per_row
        s = (tile % per_row) * L + tl.arange(0, L)
        ok = (s < S) & (b < B)
        s = tl.where(ok, s, S + TAPS)
        row = b.to(tl.int64) * S + s
        x = _rows_at(x_ptr, b, s, S, stride, c, 0).to(ACC)
        dv = _tile(dv_ptr, row, ok, I, c).to(ACC)
        dwv += _outer(dv, x)
        v0, v1, v2, v3 = _split(dv)
        dx = _map(v0, v1, v2, v3, wv_ptr, n, I, True)
        for r in tl.static_range(R):
            side = 2 * (r + FIRST) - 1
            turn = r * tl.cast(B, tl.int64) * S
            conv = _convolve(x_ptr, w_ptr, bias_ptr, b, s, S, stride, c, side, I, ACC)
            gate = 1.0 / (1.0 + tl.exp(-conv))
            a = conv * gate
            da = _tile(da_ptr + r * tl.cast(da_turn, tl.int64), row, ok, I, c).to(ACC)
            for j in tl.static_range(USED):
                dgate = tl.load(dgates_ptr + (row + turn) * G + j, mask=ok, other=0.0)[:, None]
                da += dgate * tl.load(on_a_ptr + j * I + c).to(ACC)[None, :]
                dx += dgate * tl.load(on_x_ptr + j * I + c).to(ACC)[None, :]
            dq = _tile(dq_ptr, row + turn, ok, I, c).to(ACC)
            dwq += _outer(dq, a)
            q0, q1, q2, q3 = _split(dq)
            da += _map(q0, q1, q2, q3, wq_ptr, n, I, True)
            dk = _tile(dk_ptr, row + turn, ok, I, c).to(ACC)
            dwk += _outer(dk, a)
            k0, k1, k2, k3 = _split(dk)
            da += _map(k0, k1, k2, k3, wk_ptr, n, I, True)
            dconv = da * gate * (1.0 + conv * (1.0 - gate))
            tl.store(dconv_ptr + (row + turn)[:, None] * I + c[None, :], dconv.to(x_ptr.dtype.element_ty), ok[:, None])
        tl.store(dx_ptr + row[:, None] * I + c[None, :], dx.to(x_ptr.dtype.element_ty), ok[:, None])
    o = tl.arange(0, 4)
    out = dw_ptr + tl.program_id(1).to(tl.int64) * 12 * I
    out += n[:, None, None] * 16 + o[None, :, None] * 4 + o[None, None, :]
    tl.store(out, tl.sum(dwq, 0))
    tl.store(out + 4 * I, tl.sum(dwk, 0))
    tl.store(out + 8 * I, tl.sum(dwv, 0))


@triton.jit
def convolve_grad_kernel(
    x_ptr, w_ptr, dconv_ptr, dxv_ptr, dx_ptr, dw_ptr, B, S, stride, tiles, I: tl.constexpr, R: tl.constexpr,
    FIRST: tl.constexpr, C: tl.constexpr, L: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Gradient of x through values and convolutions, and each program's share of those of taps and bias (5, I).

    Program axes as above.
    """
    c = tl.program_id(0) * C + tl.arange(0, C)
    per_row = tl.cdiv(S, L)
    # Sums over frames stay in their threads until the end.
    dw0 = tl.zeros((L, C), ACC)
    dw1 = tl.zeros((L, C), ACC)
    dw2 = tl.zeros((L, C), ACC)
    dw3 = tl.zeros((L, C), ACC)
    dbias = tl.zeros((L, C), ACC)
    for step in range(tiles):
        tile = tl.program_id(1) * tiles + step
        b = tile // per_row
        s = (tile % per_row) * L + tl.arange(0, L)
        ok = (s < S) & (b < B)
        s = tl.where(ok, s, S + TAPS)
        at = (b.to(tl.int64) * S + s)[:, None] * I + c[None, :]
        dx = tl.load(dxv_ptr + at, mask=ok[:, None], other=0.0).to(ACC)
        for r in tl.static_range(R):
            side = 2 * (r + FIRST) - 1
            dconv_r = dconv_ptr + r * tl.cast(B, tl.int64) * S * I
            here = _rows_at(dconv_r, b, s, S, I, c, 0).to(ACC)
            dbias += here
            for j in tl.static_range(TAPS):
                shift = side * (TAPS - 1 - j)
                there = here if j == TAPS - 1 else _rows_at(dconv_r, b, s, S, I, c, -shift).to(ACC)
                dx += _tap(w_ptr, c, j, I, ACC) * there
                share = here * _rows_at(x_ptr, b, s, S, stride, c, shift).to(ACC)
                if j == 0:
                    dw0 += share
                elif j == 1:
                    dw1 += share
                elif j == 2:
                    dw2 += share
                else:
                    dw3 += share
        tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), ok[:, None])
    out = dw_ptr + tl.program_id(1).to(tl.int64) * 5 * I + c
    tl.store(out, tl.sum(dw0, 0))
    tl.store(out + I, tl.sum(dw1, 0))
    tl.store(out + 2 * I, tl.sum(dw2, 0))
    tl.store(out + 3 * I, tl.sum(dw3, 0))
    tl.store(out + 4 * I, tl.sum(dbias, 0))
