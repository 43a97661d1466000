"""Triton kernels of `project`.

A thread holds whole blocks of 4 channels, so the 4 x 4 maps of queries, keys and values are plain multiplications in
registers: a tile (L, C) is split into the four tiles (L, C / 4) of the channels with the same place in their block, and no
program waits for shared memory. Gates are linear in the convolved input a and in x, gates_r = a_r A + x X (README.md), and
are products for the tensor cores, in kernels of their own.

Shape letters: R directions, B batch, S frames, I inner channels, C channels of a tile, L frames of a tile, G gate columns,
padded. Weights of maps are (16, I / 4), row 4 o + i from input i to output o of a block; taps are (4, I).
"""

# ruff: noqa: RUF005 (Triton does not unpack tuples)

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
def _store_gates(gates_ptr, gates, r, row, ok, N, H: tl.constexpr, R: tl.constexpr, CAP: tl.constexpr):
    """Writes gates (L, G) of direction r, capped, to (2, R, N, H)."""
    if CAP > 0:
        gates = CAP * (1.0 - 2.0 / (tl.exp(gates * (2.0 / CAP)) + 1.0))
    g = tl.arange(0, gates.shape[1])
    kind = (g // H) * tl.cast(N, tl.int64) * (R * H) + g % H
    at = (row + r * tl.cast(N, tl.int64))[:, None] * H + kind[None, :]
    tl.store(gates_ptr + at, gates, ok[:, None] & (g < 2 * H)[None, :])


@triton.jit
def gates_kernel(
    x_ptr, a_ptr, on_a_ptr, on_x_ptr, bias_ptr, gates_ptr, N, stride, I: tl.constexpr, R: tl.constexpr, C: tl.constexpr,
    L: tl.constexpr, G: tl.constexpr, H: tl.constexpr, CAP: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Input and forget gates (2, R, N, H) of L of the N = B S frames, as CAP tanh(gate / CAP) if there is one. Axis: frames."""
    row = tl.program_id(0).to(tl.int64) * L + tl.arange(0, L)
    ok = row < N
    g = tl.arange(0, G)
    gates0 = tl.zeros((L, G), ACC)
    gates1 = tl.zeros((L, G), ACC)
    both = tl.zeros((L, G), ACC) + tl.load(bias_ptr + g, mask=g < 2 * H, other=0.0).to(ACC)[None, :]
    turn = tl.cast(N, tl.int64) * I
    for c0 in range(0, I, C):
        c = c0 + tl.arange(0, C)
        on_a = _matrix(on_a_ptr, c, g, I).to(a_ptr.dtype.element_ty)
        x = _tile(x_ptr, row, ok, stride, c)
        both = _dot(x, _matrix(on_x_ptr, c, g, I).to(x.dtype), both)
        gates0 = _dot(_tile(a_ptr, row, ok, I, c), on_a, gates0)
        if R == 2:
            gates1 = _dot(_tile(a_ptr + turn, row, ok, I, c), on_a, gates1)
    _store_gates(gates_ptr, gates0 + both, 0, row, ok, N, H, R, CAP)
    if R == 2:
        _store_gates(gates_ptr, gates1 + both, 1, row, ok, N, H, R, CAP)


@triton.jit
def gates_grad_kernel(
    a_ptr, x_ptr, dgates_ptr, dw_ptr, N, stride, tiles, I: tl.constexpr, R: tl.constexpr, C: tl.constexpr, L: tl.constexpr,
    G: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Each program's share of the gradients (2, I, G) of A and of X, whose input x all directions share.

    Program axes: 0 which of the two, 1 tile of channels, 2 run of `tiles` tiles of frames.
    """
    of_x = tl.program_id(0) == 1
    y_ptr = a_ptr
    if of_x:
        y_ptr = x_ptr
    hop = tl.where(of_x, stride, I)
    turn = tl.where(of_x, 0, tl.cast(N, tl.int64) * I)
    c = tl.program_id(1) * C + tl.arange(0, C)
    g = tl.arange(0, G)
    # One accumulator: with a second one in the loop Triton 3.6 fills that with garbage on Hopper.
    dw = tl.zeros((C, G), ACC)
    for step in range(tiles):
        row = (tl.program_id(2) * tiles + step).to(tl.int64) * L + tl.arange(0, L)
        ok = row < N
        for r in tl.static_range(R):
            y = _tile(y_ptr + r * turn, row, ok, hop, c)
            dgates = _tile(dgates_ptr + r * tl.cast(N, tl.int64) * G, row, ok, G, g)
            dw = _dot(tl.trans(y), dgates.to(y.dtype), dw)
    share = tl.program_id(2).to(tl.int64) * 2 + tl.program_id(0)
    tl.store(dw_ptr + share * (I * G) + c[:, None] * G + g[None, :], dw)


@triton.jit
def _map_back(y, w):
    """Transposed block-diagonal map (L, C) of a tile, with the 16 weights w of every block."""
    y0, y1, y2, y3 = _split(y)
    x0 = y0 * w[0] + y1 * w[4] + y2 * w[8] + y3 * w[12]
    x1 = y0 * w[1] + y1 * w[5] + y2 * w[9] + y3 * w[13]
    x2 = y0 * w[2] + y1 * w[6] + y2 * w[10] + y3 * w[14]
    x3 = y0 * w[3] + y1 * w[7] + y2 * w[11] + y3 * w[15]
    return tl.reshape(tl.join(tl.join(x0, x2), tl.join(x1, x3)), (y.shape[0], y.shape[1]))


@triton.jit
def _weights(w_ptr, n, I: tl.constexpr, ACC: tl.constexpr):
    """The 16 weights (1, C / 4) of every block."""
    w = ()
    for row in tl.static_range(16):
        w = w + (tl.load(w_ptr + row * (I // 4) + n).to(ACC)[None, :],)
    return w


@triton.jit
def project_grad_kernel(
    x_ptr, w_ptr, bias_ptr, wq_ptr, wk_ptr, wv_ptr, on_a_ptr, on_x_ptr, da_ptr, dq_ptr, dk_ptr, dv_ptr, dgates_ptr,
    dconv_ptr, dx_ptr, B, S, stride, tiles, da_turn, I: tl.constexpr, R: tl.constexpr, FIRST: tl.constexpr,
    C: tl.constexpr, L: tl.constexpr, G: tl.constexpr, USED: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Gradients before SiLU, and that of x through values and gates.

    Program axes: 0 tile of channels, 1 run of `tiles` tiles of frames of the whole batch. USED of the G gates are real.
    """
    # Four channels a thread and access, one block: with more frames a thread, loaded weights serve them all.
    c = tl.max_contiguous(tl.program_id(0) * C + tl.arange(0, C), 4)
    n = tl.program_id(0) * (C // 4) + tl.arange(0, C // 4)
    per_row = tl.cdiv(S, L)
    turn = tl.cast(B, tl.int64) * S
    for step in range(tiles):
        tile = tl.program_id(1) * tiles + step
        b = tile // per_row
        s = (tile % per_row) * L + tl.arange(0, L)
        ok = (s < S) & (b < B)
        s = tl.where(ok, s, S + TAPS)
        row = b.to(tl.int64) * S + s
        # Every load from memory first, every store last: no load moves in front of a store.
        here = _rows_at(x_ptr, b, s, S, stride, c, 0)
        near = ()
        da = ()
        dq = ()
        dk = ()
        dgates = ()
        for r in tl.static_range(R):
            side = 2 * (r + FIRST) - 1
            for j in tl.static_range(TAPS - 1):
                near = near + (_rows_at(x_ptr, b, s, S, stride, c, side * (TAPS - 1 - j)),)
            da = da + (_tile(da_ptr + r * tl.cast(da_turn, tl.int64), row, ok, I, c),)
            dq = dq + (_tile(dq_ptr, row + r * turn, ok, I, c),)
            dk = dk + (_tile(dk_ptr, row + r * turn, ok, I, c),)
        dv = _tile(dv_ptr, row, ok, I, c)
        for r in tl.static_range(R):
            for j in tl.static_range(USED):
                dgates = dgates + (tl.load(dgates_ptr + (row + r * turn) * G + j, mask=ok, other=0.0)[:, None],)

        dx = _map_back(dv.to(ACC), _weights(wv_ptr, n, I, ACC))
        wq = _weights(wq_ptr, n, I, ACC)
        da0 = da[0].to(ACC) + _map_back(dq[0].to(ACC), wq)
        if R == 2:
            da1 = da[1].to(ACC) + _map_back(dq[1].to(ACC), wq)
        wk = _weights(wk_ptr, n, I, ACC)
        da0 += _map_back(dk[0].to(ACC), wk)
        if R == 2:
            da1 += _map_back(dk[1].to(ACC), wk)
        for j in tl.static_range(USED):
            on_a = tl.load(on_a_ptr + j * I + c).to(ACC)[None, :]
            on_x = tl.load(on_x_ptr + j * I + c).to(ACC)[None, :]
            da0 += dgates[j] * on_a
            if R == 2:
                da1 += dgates[USED + j] * on_a
                dx += (dgates[j] + dgates[USED + j]) * on_x
            else:
                dx += dgates[j] * on_x
        conv0 = tl.load(bias_ptr + c).to(ACC)[None, :] + _tap(w_ptr, c, TAPS - 1, I, ACC) * here.to(ACC)
        conv1 = conv0
        for j in tl.static_range(TAPS - 1):
            tap = _tap(w_ptr, c, j, I, ACC)
            conv0 += tap * near[j].to(ACC)
            if R == 2:
                conv1 += tap * near[TAPS - 1 + j].to(ACC)
        at = row[:, None] * I + c[None, :]
        tl.store(dx_ptr + at, dx.to(here.dtype), ok[:, None])
        gate = 1.0 / (1.0 + tl.exp(-conv0))
        dconv0 = da0 * gate * (1.0 + conv0 * (1.0 - gate))
        tl.store(dconv_ptr + at, dconv0.to(here.dtype), ok[:, None])
        if R == 2:
            gate = 1.0 / (1.0 + tl.exp(-conv1))
            dconv1 = da1 * gate * (1.0 + conv1 * (1.0 - gate))
            tl.store(dconv_ptr + turn * I + at, dconv1.to(here.dtype), ok[:, None])


@triton.jit
def maps_grad_kernel(
    dq_ptr, dk_ptr, dv_ptr, a_ptr, x_ptr, dw_ptr, N, stride, tiles, value_tiles, I: tl.constexpr, R: tl.constexpr,
    C: tl.constexpr, L: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Each program's share of the gradients (3, I / 4, 4, 4) of the maps of queries, keys and values.

    Program axes: 0 map, so that programs side by side read the same tiles of a, 1 tile of channels, 2 run of `tiles` tiles of
    the R N frames of all directions, or of `value_tiles` tiles of N frames. The product has all pairs of the tile's channels,
    of which those within a block are kept.
    """
    which = tl.program_id(0)
    rows = tl.where(which == 2, N, R * N)
    hop = tl.where(which == 2, stride, I)
    count = tl.where(which == 2, value_tiles, tiles)
    dy_ptr = dq_ptr
    y_ptr = a_ptr
    if which == 1:
        dy_ptr = dk_ptr
    if which == 2:
        dy_ptr = dv_ptr
        y_ptr = x_ptr
    c = tl.program_id(1) * C + tl.arange(0, C)
    # One product in the loop: with a second one Triton 3.6 fills that with garbage on Hopper.
    dw = tl.zeros((C, C), ACC)
    for step in range(count):
        row = (tl.program_id(2) * count + step).to(tl.int64) * L + tl.arange(0, L)
        ok = row < rows
        dw = _dot(tl.trans(_tile(dy_ptr, row, ok, I, c)), _tile(y_ptr, row, ok, hop, c), dw)
    block = tl.arange(0, C // 4)
    same = block[:, None, None, None] == block[None, None, :, None]
    dw = tl.sum(tl.where(same, tl.reshape(dw, (C // 4, 4, C // 4, 4)), 0.0), 2)
    o = tl.arange(0, 4)
    n = tl.program_id(1) * (C // 4) + block
    at = n[:, None, None] * 16 + o[None, :, None] * 4 + o[None, None, :]
    tl.store(dw_ptr + (tl.program_id(2).to(tl.int64) * 3 + which) * 4 * I + at, dw)


@triton.jit
def convolve_grad_kernel(
    x_ptr, w_ptr, dconv_ptr, dxv_ptr, dx_ptr, dw_ptr, B, S, stride, tiles, dx_stride, I: tl.constexpr, R: tl.constexpr,
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
        row = b.to(tl.int64) * S + s
        dx = _tile(dxv_ptr, row, ok, I, c).to(ACC)
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
        tl.store(dx_ptr + row[:, None] * dx_stride + c[None, :], dx.to(dx_ptr.dtype.element_ty), ok[:, None])
    out = dw_ptr + tl.program_id(1).to(tl.int64) * 5 * I + c
    tl.store(out, tl.sum(dw0, 0))
    tl.store(out + I, tl.sum(dw1, 0))
    tl.store(out + 2 * I, tl.sum(dw2, 0))
    tl.store(out + 3 * I, tl.sum(dw3, 0))
    tl.store(out + 4 * I, tl.sum(dbias, 0))
