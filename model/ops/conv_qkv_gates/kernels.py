"""Triton kernels of `conv_qkv_gates`.

A thread holds whole blocks of 4 channels, so the 4 x 4 maps of keys and values are plain multiplications in
registers: a tile (L, C) is split into the four tiles (L, C / 4) of the channels with the same place in their block, and no
program waits for shared memory. Gates are linear in the convolved input a and in x, gates_r = a_r A + x X (README.md), and
are products for the tensor cores, as are the gradients of the weights.

Kernels go through the batch from its end or from its start, whichever the kernel before has done last: that is in the cache.

Shape letters: R directions, B batch, S frames, I inner channels, C channels of a tile, L frames of a tile, G gate columns,
padded. Weights of maps are (16, I / 4), row 4 o + i from input i to output o of a block; taps are (4, I).
"""

# ruff: noqa: RUF005 (Triton does not unpack tuples)

import triton
import triton.language as tl

from model.ops.products import dot
from model.ops.rowwise import sigmoid

TAPS = tl.constexpr(4)


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
def _tile(ptr, row, ok, stride, c):
    return tl.load(ptr + row[:, None] * stride + c[None, :], mask=ok[:, None], other=0.0)


@triton.jit
def _matrix(ptr, c, g, H: tl.constexpr, I: tl.constexpr):
    """Tile (C, G) of A or X, which are (G, I), zero in columns that are no gates."""
    return tl.load(ptr + g[None, :] * I + c[:, None], mask=(g < 2 * H)[None, :], other=0.0)


@triton.jit
def _store_gates(gates_ptr, gates, r, row, ok, N, H: tl.constexpr, R: tl.constexpr):
    """Writes shares of the gates (L, G) of direction r to (2, R, N, H)."""
    g = tl.arange(0, gates.shape[1])
    kind = (g // H) * tl.cast(N, tl.int64) * (R * H) + g % H
    at = (row + r * tl.cast(N, tl.int64))[:, None] * H + kind[None, :]
    tl.store(gates_ptr + at, gates, ok[:, None] & (g < 2 * H)[None, :])


@triton.jit
def conv_qkv_gates_kernel(
    x_ptr, w_ptr, bias_ptr, wk_ptr, wv_ptr, on_a_ptr, on_x_ptr, a_ptr, k_ptr, v_ptr, gates_ptr, B, S, stride,
    I: tl.constexpr, R: tl.constexpr, FIRST: tl.constexpr, C: tl.constexpr, L: tl.constexpr, G: tl.constexpr,
    H: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Convolved input, keys and values of one tile, and its channels' share of the gates.

    Program axes: 0 tile of channels, 1 frames, 2 batch row.
    """
    b = B - 1 - tl.program_id(2)
    s = (tl.num_programs(1) - 1 - tl.program_id(1)) * L + tl.arange(0, L)
    ok = s < S
    c = tl.program_id(0) * C + tl.arange(0, C)
    n = tl.program_id(0) * (C // 4) + tl.arange(0, C // 4)
    row = b.to(tl.int64) * S + s
    rows = tl.cast(B, tl.int64) * S
    x = _rows_at(x_ptr, b, s, S, stride, c, 0)
    x0, x1, x2, x3 = _split(x.to(ACC))
    v = _map(x0, x1, x2, x3, wv_ptr, n, I, False)
    tl.store(v_ptr + row[:, None] * I + c[None, :], v.to(x.dtype), ok[:, None])
    for r in tl.static_range(R):
        side = 2 * (r + FIRST) - 1
        conv = _convolve(x_ptr, w_ptr, bias_ptr, b, s, S, stride, c, side, I, ACC)
        a = conv * sigmoid(conv)
        at = (row + r * rows)[:, None] * I + c[None, :]
        tl.store(a_ptr + at, a.to(x.dtype), ok[:, None])
        a0, a1, a2, a3 = _split(a)
        tl.store(k_ptr + at, _map(a0, a1, a2, a3, wk_ptr, n, I, False).to(x.dtype), ok[:, None])
    # Products for the tensor cores: their layout would spread to all of the above if they took the registers it has filled.
    tl.debug_barrier()
    g = tl.arange(0, G)
    on_x = _matrix(on_x_ptr, c, g, H, I).to(x.dtype)
    on_a = _matrix(on_a_ptr, c, g, H, I).to(x.dtype)
    shared = dot(_tile(x_ptr, row, ok, stride, c), on_x, tl.zeros((L, G), ACC))
    share = gates_ptr + tl.program_id(0) * rows * (2 * R * H)
    for r in tl.static_range(R):
        _store_gates(share, dot(_tile(a_ptr, row + r * rows, ok, I, c), on_a, shared), r, row, ok, rows, H, R)


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
def _fold(x, FOLD: tl.constexpr):
    """Sums (FOLD, C) of the frames of a tile (L, C) that a thread holds."""
    return tl.sum(tl.reshape(x, (x.shape[0] // FOLD, FOLD, x.shape[1])), 0)


@triton.jit
def conv_qkv_gates_grad_kernel(
    x_ptr, w_ptr, bias_ptr, wk_ptr, on_a_ptr, da_ptr, dq_ptr, dk_ptr, dgates_ptr, dconv_ptr, dw_ptr, B, S, stride, tiles,
    da_turn, QUERIES: tl.constexpr, I: tl.constexpr, R: tl.constexpr, FIRST: tl.constexpr, C: tl.constexpr,
    L: tl.constexpr, FOLD: tl.constexpr, G: tl.constexpr, USED: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Gradients before SiLU, and each program's share of those of taps and bias (5, I).

    With QUERIES gradients of a come in two parts, da and dq, else da is all.

    Program axes: 0 tile of channels, 1 run of `tiles` tiles of frames of the whole batch. USED of the G gates are real.
    """
    # Four channels a thread and access, one block: with more frames a thread, loaded weights serve them all.
    c = tl.max_contiguous(tl.program_id(0) * C + tl.arange(0, C), 4)
    n = tl.program_id(0) * (C // 4) + tl.arange(0, C // 4)
    per_row = tl.cdiv(S, L)
    turn = tl.cast(B, tl.int64) * S
    # Sums over frames stay in their threads until the end.
    dw0 = tl.zeros((FOLD, C), ACC)
    dw1 = tl.zeros((FOLD, C), ACC)
    dw2 = tl.zeros((FOLD, C), ACC)
    dw3 = tl.zeros((FOLD, C), ACC)
    dbias = tl.zeros((FOLD, C), ACC)
    for step in range(tiles):
        tile = (tiles - 1 - step) * tl.num_programs(1) + tl.program_id(1)
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
            if QUERIES:
                dq = dq + (_tile(dq_ptr, row + r * turn, ok, I, c),)
            dk = dk + (_tile(dk_ptr, row + r * turn, ok, I, c),)
        for r in tl.static_range(R):
            for j in tl.static_range(USED):
                dgates = dgates + (tl.load(dgates_ptr + (row + r * turn) * G + j, mask=ok, other=0.0)[:, None],)

        wk = _weights(wk_ptr, n, I, ACC)
        da0 = da[0].to(ACC) + _map_back(dk[0].to(ACC), wk)
        if QUERIES:
            da0 += dq[0].to(ACC)
        if R == 2:
            da1 = da[1].to(ACC) + _map_back(dk[1].to(ACC), wk)
            if QUERIES:
                da1 += dq[1].to(ACC)
        for j in tl.static_range(USED):
            on_a = tl.load(on_a_ptr + j * I + c).to(ACC)[None, :]
            da0 += dgates[j] * on_a
            if R == 2:
                da1 += dgates[USED + j] * on_a
        conv0 = tl.load(bias_ptr + c).to(ACC)[None, :] + _tap(w_ptr, c, TAPS - 1, I, ACC) * here.to(ACC)
        conv1 = conv0
        for j in tl.static_range(TAPS - 1):
            tap = _tap(w_ptr, c, j, I, ACC)
            conv0 += tap * near[j].to(ACC)
            if R == 2:
                conv1 += tap * near[TAPS - 1 + j].to(ACC)
        at = row[:, None] * I + c[None, :]
        gate = sigmoid(conv0)
        dconv0 = da0 * gate * (1.0 + conv0 * (1.0 - gate))
        both = dconv0
        if R == 2:
            gate = sigmoid(conv1)
            dconv1 = da1 * gate * (1.0 + conv1 * (1.0 - gate))
            both += dconv1
            dw0 += _fold(dconv0 * near[0].to(ACC) + dconv1 * near[TAPS - 1].to(ACC), FOLD)
            dw1 += _fold(dconv0 * near[1].to(ACC) + dconv1 * near[TAPS].to(ACC), FOLD)
            dw2 += _fold(dconv0 * near[2].to(ACC) + dconv1 * near[TAPS + 1].to(ACC), FOLD)
        else:
            dw0 += _fold(dconv0 * near[0].to(ACC), FOLD)
            dw1 += _fold(dconv0 * near[1].to(ACC), FOLD)
            dw2 += _fold(dconv0 * near[2].to(ACC), FOLD)
        dw3 += _fold(both * here.to(ACC), FOLD)
        dbias += _fold(both, FOLD)
        tl.store(dconv_ptr + at, dconv0.to(here.dtype), ok[:, None])
        if R == 2:
            tl.store(dconv_ptr + turn * I + at, dconv1.to(here.dtype), ok[:, None])
    out = dw_ptr + tl.program_id(1).to(tl.int64) * 5 * I + c
    tl.store(out, tl.sum(dw0, 0))
    tl.store(out + I, tl.sum(dw1, 0))
    tl.store(out + 2 * I, tl.sum(dw2, 0))
    tl.store(out + 3 * I, tl.sum(dw3, 0))
    tl.store(out + 4 * I, tl.sum(dbias, 0))


@triton.jit
def _within_blocks(dw, C: tl.constexpr):
    """The pairs (C / 4, 4, 4) of channels of a block, out of all pairs (C, C) of a tile's channels."""
    block = tl.arange(0, C // 4)
    same = block[:, None, None, None] == block[None, None, :, None]
    return tl.sum(tl.where(same, tl.reshape(dw, (C // 4, 4, C // 4, 4)), 0.0), 2)


@triton.jit
def weights_grad_kernel(
    dk_ptr, dv_ptr, dgates_ptr, a_ptr, x_ptr, dmaps_ptr, don_ptr, dbias_ptr, N, stride, tiles, x_tiles,
    I: tl.constexpr, R: tl.constexpr, C: tl.constexpr, L: tl.constexpr, G: tl.constexpr, USED: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Each program's share of the gradients of the maps (2, I / 4, 4, 4), of A and X (2, I, G), or of the gates' bias (G,).

    Program axes: 0 weights, so that programs side by side read the same tiles: map of keys and A, which take
    `tiles` tiles of the R N frames of all directions, map of values and X, which take `x_tiles` tiles of N frames;
    1 tile of channels; 2 run. A map's product has all pairs of the tile's channels, of which those within a block are kept.
    """
    which = tl.program_id(0)
    of_x = which >= 2
    of_gates = which % 2 == 1
    y_ptr = a_ptr
    dy_ptr = dk_ptr
    rows = R * N
    hop = I
    count = tiles
    if of_x:
        y_ptr = x_ptr
        dy_ptr = dv_ptr
        rows = N
        hop = stride
        count = x_tiles
    c = tl.program_id(1) * C + tl.arange(0, C)
    run = tl.program_id(2).to(tl.int64)
    # One product in a loop: with a second one Triton 3.6 fills that with garbage on Hopper.
    if of_gates:
        g = tl.arange(0, G)
        don = tl.zeros((C, G), ACC)
        dbias = tl.zeros((L, G), ACC)
        for step in range(count):
            row = (step * tl.num_programs(2) + run) * L + tl.arange(0, L)
            ok = row < rows
            there = ok[:, None] & (g < USED)[None, :]
            at = dgates_ptr + row[:, None] * G + g[None, :]
            dgates = tl.load(at, mask=there, other=0.0)
            if R == 2:
                dgates += tl.load(at + tl.cast(N, tl.int64) * G, mask=there & of_x, other=0.0)
            dbias += dgates
            y = _tile(y_ptr, row, ok, hop, c)
            don = dot(tl.trans(y), dgates.to(y.dtype), don)
        share = don_ptr + (run * 2 + which // 2) * (I * G)
        tl.store(share + c[:, None] * G + g[None, :], don)
        if (tl.program_id(1) == 0) & of_x:
            tl.store(dbias_ptr + run * G + g, tl.sum(dbias, 0))
    else:
        dw = tl.zeros((C, C), ACC)
        for step in range(count):
            row = (step * tl.num_programs(2) + run) * L + tl.arange(0, L)
            ok = row < rows
            dw = dot(tl.trans(_tile(dy_ptr, row, ok, I, c)), _tile(y_ptr, row, ok, hop, c), dw)
        o = tl.arange(0, 4)
        n = tl.program_id(1) * (C // 4) + tl.arange(0, C // 4)
        at = n[:, None, None] * 16 + o[None, :, None] * 4 + o[None, None, :]
        share = dmaps_ptr + (run * 2 + which // 2) * (4 * I)
        tl.store(share + at, _within_blocks(dw, C))


@triton.jit
def convolve_grad_kernel(
    w_ptr, wv_ptr, on_x_ptr, dconv_ptr, dv_ptr, dgates_ptr, dx_ptr, B, S, tiles, dx_stride, I: tl.constexpr,
    R: tl.constexpr, FIRST: tl.constexpr, C: tl.constexpr, L: tl.constexpr, G: tl.constexpr, USED: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """Gradient of x. Program axes as above."""
    c = tl.program_id(0) * C + tl.arange(0, C)
    n = tl.program_id(0) * (C // 4) + tl.arange(0, C // 4)
    per_row = tl.cdiv(S, L)
    turn = tl.cast(B, tl.int64) * S
    for step in range(tiles):
        tile = (tiles - 1 - step) * tl.num_programs(1) + tl.program_id(1)
        b = tile // per_row
        s = (tile % per_row) * L + tl.arange(0, L)
        ok = (s < S) & (b < B)
        s = tl.where(ok, s, S + TAPS)
        row = b.to(tl.int64) * S + s
        dx = _map_back(_tile(dv_ptr, row, ok, I, c).to(ACC), _weights(wv_ptr, n, I, ACC))
        for j in tl.static_range(USED):
            dgate = tl.load(dgates_ptr + row * G + j, mask=ok, other=0.0)
            if R == 2:
                dgate += tl.load(dgates_ptr + (row + turn) * G + j, mask=ok, other=0.0)
            dx += dgate[:, None] * tl.load(on_x_ptr + j * I + c).to(ACC)[None, :]
        for r in tl.static_range(R):
            side = 2 * (r + FIRST) - 1
            for j in tl.static_range(TAPS):
                there = _rows_at(dconv_ptr + r * turn * I, b, s, S, I, c, -side * (TAPS - 1 - j))
                dx += _tap(w_ptr, c, j, I, ACC) * there.to(ACC)
        tl.store(dx_ptr + row[:, None] * dx_stride + c[None, :], dx.to(dx_ptr.dtype.element_ty), ok[:, None])
