"""Triton kernels of `project`.

A thread holds one block of 4 channels of P consecutive frames, so the 4 x 4 maps of queries, keys and values are plain
multiplications in registers, no program waits for shared memory, and weights and the neighbours that the convolution reads
are loaded once for P frames. The P frames are P tiles (L, C / 4, 4), in tuples. Gates are linear in the convolved input a
and in x, gates_r = a_r A + x X (README.md), and are products for the tensor cores, in kernels of their own.

Shape letters: R directions, B batch, S frames, I inner channels, C channels of a tile, L P frames of a tile, G gate columns,
padded. Weights of maps are (I / 4, 4 out, 4 in); taps are (4, I).
"""

import triton
import triton.language as tl

TAPS = tl.constexpr(4)


@triton.jit
def _dot(a, b, acc):
    return tl.dot(a, b, acc, input_precision="ieee", out_dtype=acc.dtype)


@triton.jit
def _exact(x, ACC: tl.constexpr):
    """x in the dtype of sums. Of a pair of bfloat16 the compiler takes two instructions for the upper one, this takes one."""
    if x.dtype == tl.bfloat16:
        return (x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    else:
        return x.to(ACC)


@triton.jit
def _sigmoid(x):
    """1 / (1 + exp(-x)); tl.exp and a division cost three more instructions each, for denormal and huge numbers."""
    root = tl.rsqrt(1.0 + tl.exp2(x * -1.4426950408889634))
    return root * root


@triton.jit
def _blocks(n):
    """Channels (C / 4, 4) of blocks n."""
    return n[:, None] * 4 + tl.arange(0, 4)[None, :]


@triton.jit
def _at(frame, stride, c):
    """Offsets (L, C / 4, 4) of channels c of some frames."""
    return frame[:, None, None] * stride + c[None]


@triton.jit
def _read(ptr, ok, ACC: tl.constexpr):
    return _exact(tl.load(ptr, mask=ok[:, None, None], other=0.0), ACC)


@triton.jit
def _always(s):
    return tl.full(s.shape, True, tl.int1)


@triton.jit
def _frames(ptr, s, S, stride, below: tl.constexpr, P: tl.constexpr, above: tl.constexpr, WHOLE: tl.constexpr):
    """Tiles (L, C / 4, 4) of frames s - below to s + P - 1 + above; zero outside of the window. ptr is where frames s are."""
    out = ()
    for p in tl.static_range(below + P + above):
        at = s + (p - below)
        ok = _always(s)
        if p < below:
            ok &= at >= 0
        if p >= below + P or not WHOLE:
            ok &= at < S
        out += (tl.load(ptr + (p - below) * stride, mask=ok[:, None, None], other=0.0),)
    return out


@triton.jit
def _quarters(x):
    """The tiles (L, C / 4) of the four places in a block, for a tile (L, C / 4, 4)."""
    even, odd = tl.split(tl.reshape(x, (x.shape[0], x.shape[1], 2, 2)))
    x0, x2 = tl.split(even)
    x1, x3 = tl.split(odd)
    return x0, x1, x2, x3


@triton.jit
def _add_transposed(y, dy, w):
    """y + W^T dy, for the rows w of W."""
    d = _quarters(dy)
    for o in tl.static_range(4):
        y += d[o][:, :, None] * w[o]
    return y


@triton.jit
def _weights(ptr, c, rows: tl.constexpr, stride: tl.constexpr, ACC: tl.constexpr):
    """Weights (1, C / 4, 4) of channels c, as many as there are rows."""
    out = ()
    for j in tl.static_range(rows):
        out += (tl.load(ptr + j * stride + c).to(ACC)[None],)
    return out


@triton.jit
def _convolve(xs, taps, bias, here: tl.constexpr, side: tl.constexpr, ACC: tl.constexpr):
    """Convolution of the frames xs over the past (side -1) or the future (side 1) of frame xs[here]."""
    out = bias
    for j in tl.static_range(TAPS):
        out += taps[j] * _exact(xs[here + side * (TAPS - 1 - j)], ACC)
    return out


@triton.jit
def _map(x, w):
    """W x in every block, for the rows w of W."""
    x0, x1, x2, x3 = _quarters(x)
    out = ()
    for o in tl.static_range(4):
        w0, w1, w2, w3 = _quarters(w[o])
        out += (x0 * w0 + x1 * w1 + x2 * w2 + x3 * w3,)
    return tl.reshape(tl.join(tl.join(out[0], out[2]), tl.join(out[1], out[3])), x.shape)


@triton.jit
def project_kernel(
    x_ptr, w_ptr, bias_ptr, wq_ptr, wk_ptr, wv_ptr, a_ptr, q_ptr, k_ptr, v_ptr, B, S, stride, I: tl.constexpr,
    R: tl.constexpr, FIRST: tl.constexpr, C: tl.constexpr, L: tl.constexpr, P: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Convolved input, queries, keys and values of one tile of L P frames.

    Program axes: 0 tile of channels, 1 frames, 2 batch row.
    """
    BELOW: tl.constexpr = (TAPS - 1) * (1 - FIRST)
    ABOVE: tl.constexpr = (TAPS - 1) * (FIRST + R - 1)
    n = tl.program_id(0) * (C // 4) + tl.arange(0, C // 4)
    c = _blocks(n)
    wc = n[:, None] * 16 + tl.arange(0, 4)[None, :]
    dtype = x_ptr.dtype.element_ty
    s = tl.program_id(1) * (L * P) + P * tl.arange(0, L)
    row = tl.program_id(2).to(tl.int64) * S + s
    at = _at(row, I, c)
    turn = tl.cast(B, tl.int64) * S * I
    xs = _frames(x_ptr + _at(row, stride, c), s, S, stride, BELOW, P, ABOVE, False)
    wv = _weights(wv_ptr, wc, 4, 4, ACC)
    wq = _weights(wq_ptr, wc, 4, 4, ACC)
    wk = _weights(wk_ptr, wc, 4, 4, ACC)
    taps = _weights(w_ptr, c, TAPS, I, ACC)
    bias = tl.load(bias_ptr + c).to(ACC)[None]
    for p in tl.static_range(P):
        ok = (s + p < S)[:, None, None]
        tl.store(v_ptr + at + p * I, _map(_exact(xs[BELOW + p], ACC), wv).to(dtype), ok)
        for r in tl.static_range(R):
            conv = _convolve(xs, taps, bias, BELOW + p, 2 * (r + FIRST) - 1, ACC)
            a = conv * _sigmoid(conv)
            tl.store(a_ptr + r * turn + at + p * I, a.to(dtype), ok)
            tl.store(q_ptr + r * turn + at + p * I, _map(a, wq).to(dtype), ok)
            tl.store(k_ptr + r * turn + at + p * I, _map(a, wk).to(dtype), ok)


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
        on_a = _matrix(on_a_ptr, c, g, I)
        both = _dot(_tile(x_ptr, row, ok, stride, c), _matrix(on_x_ptr, c, g, I), both)
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
    # One product for one accumulator: with two in the loop Triton 3.6 gives garbage on Hopper.
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
    """dy_o x_i (L, C / 4, 4, 4) within every block, for tiles (L, C / 4, 4)."""
    rows: tl.constexpr = x.shape[0]
    blocks: tl.constexpr = x.shape[1]
    return tl.reshape(dy, (rows, blocks, 4, 1)) * tl.reshape(x, (rows, blocks, 1, 4))


@triton.jit
def project_grad_kernel(
    x_ptr, w_ptr, bias_ptr, wq_ptr, wk_ptr, wv_ptr, on_a_ptr, on_x_ptr, da_ptr, dq_ptr, dk_ptr, dv_ptr, dgates_ptr,
    dconv_ptr, dx_ptr, dw_ptr, B, S, stride, tiles, I: tl.constexpr, R: tl.constexpr, FIRST: tl.constexpr,
    C: tl.constexpr, L: tl.constexpr, P: tl.constexpr, G: tl.constexpr, USED: tl.constexpr, WHOLE: tl.constexpr,
    SHARED: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Gradients before SiLU, that of x through values and gates, and each program's share of those of maps (3, I / 4, 4, 4).

    Program axes: 0 tile of channels, 1 run of `tiles` tiles of L P frames of the whole batch. USED of the G gates are real.
    WHOLE: S is a multiple of L P. SHARED: both directions have the same da.
    """
    BELOW: tl.constexpr = (TAPS - 1) * (1 - FIRST)
    ABOVE: tl.constexpr = (TAPS - 1) * (FIRST + R - 1)
    n = tl.program_id(0) * (C // 4) + tl.arange(0, C // 4)
    c = _blocks(n)
    wc = n[:, None] * 16 + tl.arange(0, 4)[None, :]
    dtype = x_ptr.dtype.element_ty
    dwq = tl.zeros((L, C // 4, 4, 4), ACC)
    dwk = tl.zeros((L, C // 4, 4, 4), ACC)
    dwv = tl.zeros((L, C // 4, 4, 4), ACC)
    per_row = tl.cdiv(S, L * P)
    first = tl.program_id(1) * tiles
    turn = tl.cast(B, tl.int64) * S
    for tile in range(first, tl.minimum(first + tiles, B * per_row)):
        b = (tile // per_row).to(tl.int64)
        s = (tile % per_row) * (L * P) + P * tl.arange(0, L)
        row = b * S + s
        at = _at(row, I, c)
        xs = _frames(x_ptr + _at(row, stride, c), s, S, stride, BELOW, P, ABOVE, WHOLE)
        oks = ()
        for p in tl.static_range(P):
            oks += ((_always(s) if WHOLE else s + p < S),)

        das = ()
        for r in tl.static_range(R):
            for p in tl.static_range(P):
                if r == 1 and SHARED:
                    das += (das[p],)
                else:
                    das += (_read(da_ptr + r * turn * I + at + p * I, oks[p], ACC),)
        dxs = ()
        wv = _weights(wv_ptr, wc, 4, 4, ACC)
        for p in tl.static_range(P):
            dv = _read(dv_ptr + at + p * I, oks[p], ACC)
            dwv += _outer(dv, _exact(xs[BELOW + p], ACC))
            dxs += (_add_transposed(tl.zeros_like(dv), dv, wv),)

        gate_at = tl.broadcast_to(_at(row, G, tl.arange(0, 4)[None, :]), (L, C // 4, 4))
        for quad in tl.static_range((USED + 3) // 4):
            gates = ()
            for r in tl.static_range(R):
                for p in tl.static_range(P):
                    gates += (_quarters(_read(dgates_ptr + r * turn * G + gate_at + (p * G + quad * 4), oks[p], ACC)),)
            for j in tl.static_range(4):
                if quad * 4 + j < USED:
                    on_a = _exact(tl.load(on_a_ptr + (quad * 4 + j) * I + c), ACC)[None]
                    on_x = _exact(tl.load(on_x_ptr + (quad * 4 + j) * I + c), ACC)[None]
                    new = ()
                    for r in tl.static_range(R):
                        for p in tl.static_range(P):
                            new += (das[r * P + p] + gates[r * P + p][j][:, :, None] * on_a,)
                    das = new
                    new = ()
                    for p in tl.static_range(P):
                        both = gates[p][j]
                        if R == 2:
                            both += gates[P + p][j]
                        new += (dxs[p] + both[:, :, None] * on_x,)
                    dxs = new

        wq = _weights(wq_ptr, wc, 4, 4, ACC)
        wk = _weights(wk_ptr, wc, 4, 4, ACC)
        taps = _weights(w_ptr, c, TAPS, I, ACC)
        bias = tl.load(bias_ptr + c).to(ACC)[None]
        dcs = ()
        for r in tl.static_range(R):
            for p in tl.static_range(P):
                conv = _convolve(xs, taps, bias, BELOW + p, 2 * (r + FIRST) - 1, ACC)
                gate = _sigmoid(conv)
                a = conv * gate
                dq = _read(dq_ptr + r * turn * I + at + p * I, oks[p], ACC)
                dwq += _outer(dq, a)
                da = _add_transposed(das[r * P + p], dq, wq)
                dk = _read(dk_ptr + r * turn * I + at + p * I, oks[p], ACC)
                dwk += _outer(dk, a)
                da = _add_transposed(da, dk, wk)
                dcs += ((da * (gate + a - a * gate)).to(dtype),)
        for p in tl.static_range(P):
            for r in tl.static_range(R):
                tl.store(dconv_ptr + r * turn * I + at + p * I, dcs[r * P + p], oks[p][:, None, None])
            tl.store(dx_ptr + at + p * I, dxs[p].to(dtype), oks[p][:, None, None])
    o = tl.arange(0, 4)
    out = dw_ptr + tl.program_id(1).to(tl.int64) * 12 * I
    out += n[:, None, None] * 16 + o[None, :, None] * 4 + o[None, None, :]
    tl.store(out, tl.sum(dwq, 0))
    tl.store(out + 4 * I, tl.sum(dwk, 0))
    tl.store(out + 8 * I, tl.sum(dwv, 0))


@triton.jit
def convolve_grad_kernel(
    x_ptr, w_ptr, dconv_ptr, dxv_ptr, dx_ptr, dw_ptr, B, S, stride, tiles, I: tl.constexpr, R: tl.constexpr,
    FIRST: tl.constexpr, C: tl.constexpr, L: tl.constexpr, P: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Gradient of x through values and convolutions, and each program's share of those of taps and bias (5, I).

    Program axes as above. Both gradients take the same frames of dconv: those that read x at s.
    """
    c = _blocks(tl.program_id(0) * (C // 4) + tl.arange(0, C // 4))
    # Sums over frames stay in their threads until the end.
    dw0 = tl.zeros((L, C // 4, 4), ACC)
    dw1 = tl.zeros((L, C // 4, 4), ACC)
    dw2 = tl.zeros((L, C // 4, 4), ACC)
    dw3 = tl.zeros((L, C // 4, 4), ACC)
    dbias = tl.zeros((L, C // 4, 4), ACC)
    taps = _weights(w_ptr, c, TAPS, I, ACC)
    per_row = tl.cdiv(S, L * P)
    first = tl.program_id(1) * tiles
    turn = tl.cast(B, tl.int64) * S * I
    for tile in range(first, tl.minimum(first + tiles, B * per_row)):
        s = (tile % per_row) * (L * P) + P * tl.arange(0, L)
        row = (tile // per_row).to(tl.int64) * S + s
        at = _at(row, I, c)
        xs = _frames(x_ptr + _at(row, stride, c), s, S, stride, 0, P, 0, False)
        dxs = _frames(dxv_ptr + at, s, S, I, 0, P, 0, False)
        ds = ()
        for r in tl.static_range(R):
            ds += (
                _frames(
                    dconv_ptr + r * turn + at, s, S, I, (TAPS - 1) * (r + FIRST), P, (TAPS - 1) * (1 - r - FIRST), False
                ),
            )
        for p in tl.static_range(P):
            x = _exact(xs[p], ACC)
            dx = _exact(dxs[p], ACC)
            for r in tl.static_range(R):
                for j in tl.static_range(TAPS):
                    d = _exact(ds[r][p + (TAPS - 1 - j if r + FIRST == 0 else j)], ACC)
                    dx += taps[j] * d
                    if j == 0:
                        dw0 += x * d
                    elif j == 1:
                        dw1 += x * d
                    elif j == 2:
                        dw2 += x * d
                    else:
                        dw3 += x * d
                        dbias += d
            tl.store(dx_ptr + at + p * I, dx.to(dx_ptr.dtype.element_ty), (s + p < S)[:, None, None])
    out = dw_ptr + tl.program_id(1).to(tl.int64) * 5 * I + c
    tl.store(out, tl.sum(dw0, 0))
    tl.store(out + I, tl.sum(dw1, 0))
    tl.store(out + 2 * I, tl.sum(dw2, 0))
    tl.store(out + 3 * I, tl.sum(dw3, 0))
    tl.store(out + 4 * I, tl.sum(dbias, 0))
