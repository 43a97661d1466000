"""Triton kernels of `mix`: weights as the kernels of `project` read them, and the way back through the cap of the gates.

Shape letters: R directions, N = B S rows, I inner channels, H heads, G gate columns, padded, K tile of blocks of 4 channels.
Prepared weights are (16 + 2 G, I): 4 rows of taps, 3 times 4 rows of the maps (16, I / 4), then A and X (G, I).
"""

import triton
import triton.language as tl


@triton.jit
def _blocks(I, K: tl.constexpr):
    """Blocks (K,) of this program, and which of them exist."""
    n = tl.program_id(0) * K + tl.arange(0, K)
    return n, n < I // 4


@triton.jit
def _gate(gate_ptr, g, n, o, part, ok, I, USED: tl.constexpr):
    """Weights (G, K) of output o of every block in one third of the gates' weights (2 H, 3 I)."""
    at = g[:, None] * (3 * I) + part * I + 4 * n[None, :] + o
    return at, (g < USED)[:, None] & ok[None, :]


@triton.jit
def _through(w_ptr, gate_ptr, g, n, i, part, ok, I, USED: tl.constexpr, ACC: tl.constexpr):
    """What input i of every block does to the gates (G, K), through a map and its third of the gates' weights."""
    out = tl.zeros((g.shape[0], n.shape[0]), ACC)
    for o in tl.static_range(4):
        w = tl.load(w_ptr + 16 * n + 4 * o + i, mask=ok, other=0.0).to(ACC)
        at, there = _gate(gate_ptr, g, n, o, part, ok, I, USED)
        out += tl.load(gate_ptr + at, mask=there, other=0.0).to(ACC) * w[None, :]
    return out


@triton.jit
def _turn_map(w_ptr, out_ptr, n, ok, I):
    for place in tl.static_range(16):
        tl.store(out_ptr + place * (I // 4) + n, tl.load(w_ptr + 16 * n + place, mask=ok, other=0.0), ok)


@triton.jit
def prepare_kernel(
    taps_ptr, wq_ptr, wk_ptr, wv_ptr, gate_ptr, out_ptr, I, G: tl.constexpr, USED: tl.constexpr, K: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """Prepared weights of K blocks, from taps (I, 4), maps (I / 4, 4, 4) and gate weights (USED, 3 I). Axis: blocks."""
    n, ok = _blocks(I, K)
    g = tl.arange(0, G)
    for i in tl.static_range(4):
        c = 4 * n + i
        for j in tl.static_range(4):
            tl.store(out_ptr + j * I + c, tl.load(taps_ptr + 4 * c + j, mask=ok, other=0.0), ok)
        on_a = _through(wq_ptr, gate_ptr, g, n, i, 0, ok, I, USED, ACC)
        on_a += _through(wk_ptr, gate_ptr, g, n, i, 1, ok, I, USED, ACC)
        on_x = _through(wv_ptr, gate_ptr, g, n, i, 2, ok, I, USED, ACC)
        at = (16 + g)[:, None] * I + c[None, :]
        tl.store(out_ptr + at, on_a, ok[None, :])
        tl.store(out_ptr + at + G * I, on_x, ok[None, :])
    _turn_map(wq_ptr, out_ptr + 4 * I, n, ok, I)
    _turn_map(wk_ptr, out_ptr + 8 * I, n, ok, I)
    _turn_map(wv_ptr, out_ptr + 12 * I, n, ok, I)


@triton.jit
def _through_grad(
    w_ptr, gate_ptr, don_ptr, dmap_ptr, dw_ptr, dgate_ptr, g, n, part, ok, I, USED: tl.constexpr, ACC: tl.constexpr
):  # fmt: skip
    """Gradients of a map, its own and that through the gates, and of its third of the gates' weights."""
    for o in tl.static_range(4):
        at, there = _gate(gate_ptr, g, n, o, part, ok, I, USED)
        gate = tl.load(gate_ptr + at, mask=there, other=0.0).to(ACC)
        dgate = tl.zeros((g.shape[0], n.shape[0]), ACC)
        for i in tl.static_range(4):
            don = tl.load(don_ptr + (4 * n + i)[None, :] * g.shape[0] + g[:, None], mask=there, other=0.0)
            place = 16 * n + 4 * o + i
            dgate += don * tl.load(w_ptr + place, mask=ok, other=0.0).to(ACC)[None, :]
            dw = tl.load(dmap_ptr + place, mask=ok, other=0.0) + tl.sum(don * gate, 0)
            tl.store(dw_ptr + place, dw, ok)
        tl.store(dgate_ptr + at, dgate, there)


@triton.jit
def prepare_grad_kernel(
    wq_ptr, wk_ptr, wv_ptr, gate_ptr, dtaps_ptr, dmaps_ptr, don_ptr, dtaps_out_ptr, dw_ptr, dgate_ptr, I,
    G: tl.constexpr, USED: tl.constexpr, K: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """From gradients of taps (4, I), maps (3, I / 4, 4, 4), A and X (2, I, G) those of the weights themselves."""
    n, ok = _blocks(I, K)
    g = tl.arange(0, G)
    for i in tl.static_range(4):
        c = 4 * n + i
        for j in tl.static_range(4):
            tl.store(dtaps_out_ptr + 4 * c + j, tl.load(dtaps_ptr + j * I + c, mask=ok, other=0.0), ok)
    _through_grad(wq_ptr, gate_ptr, don_ptr, dmaps_ptr, dw_ptr, dgate_ptr, g, n, 0, ok, I, USED, ACC)
    _through_grad(wk_ptr, gate_ptr, don_ptr, dmaps_ptr + 4 * I, dw_ptr + 4 * I, dgate_ptr, g, n, 1, ok, I, USED, ACC)
    on_x, v = don_ptr + I * G, 8 * I
    _through_grad(wv_ptr, gate_ptr, on_x, dmaps_ptr + v, dw_ptr + v, dgate_ptr, g, n, 2, ok, I, USED, ACC)


@triton.jit
def cap_grad_kernel(
    gates_ptr, di_ptr, df_ptr, dgates_ptr, dbias_ptr, N, tiles, H: tl.constexpr, G: tl.constexpr, CAP: tl.constexpr,
    L: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Gradients (N, G) of the gates before their cap, 0 in the padding, and each program's share of that of their bias (G,).

    Gates are (2, N, H), N rows of all directions; di and df (N, H). Program axis: run of `tiles` tiles.
    """
    g = tl.arange(0, G)
    total = tl.zeros((L, G), ACC)
    for step in range(tiles):
        row = (tl.program_id(0) * tiles + step).to(tl.int64) * L + tl.arange(0, L)
        at = row[:, None] * H + (g % H)[None, :]
        ok = (row < N)[:, None]
        forget = (g >= H) & (g < 2 * H)
        dgate = tl.load(di_ptr + at, mask=ok & (g < H)[None, :], other=0.0)
        dgate += tl.load(df_ptr + at, mask=ok & forget[None, :], other=0.0)
        if CAP > 0:
            kind = tl.where(forget, tl.cast(N, tl.int64) * H, 0)
            gate = tl.load(gates_ptr + at + kind[None, :], mask=ok & (g < 2 * H)[None, :], other=0.0) / CAP
            dgate *= 1.0 - gate * gate
        tl.store(dgates_ptr + row[:, None] * G + g[None, :], dgate, ok)
        total += dgate
    tl.store(dbias_ptr + tl.program_id(0) * G + g, tl.sum(total, 0))
