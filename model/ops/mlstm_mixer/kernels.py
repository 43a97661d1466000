"""Triton kernels of `mlstm_mixer`: weights as the kernels of `conv_qkv_gates` read them, and back.

Shape letters: I inner channels, G gate columns, padded, K tile of blocks of 4 channels.
Prepared weights are (12 + 2 G, I): 4 rows of taps, 2 times 4 rows of the maps of keys, W_q^T W_k, and of values (16, I / 4),
then A and X (G, I).
"""

# ruff: noqa: RUF005 (Triton does not unpack tuples)

import triton
import triton.language as tl


@triton.jit
def _blocks(I, K: tl.constexpr):
    """Blocks (K,) of this program, and which of them exist."""
    n = tl.program_id(0) * K + tl.arange(0, K)
    return n, n < I // 4


@triton.jit
def _gate_weights(gate_ptr, g, n, ok, part, I, USED: tl.constexpr, ACC: tl.constexpr):
    """Weights (G, K) of each of the four outputs of every block, in one third of the gates' weights (USED, 3 I)."""
    at = g[:, None] * (3 * I) + part * I + 4 * n[None, :]
    there = (g < USED)[:, None] & ok[None, :]
    weights = ()
    for o in tl.static_range(4):
        weights = weights + (tl.load(gate_ptr + at + o, mask=there, other=0.0).to(ACC),)
    return weights


@triton.jit
def _map_weights(w_ptr, n, ok, ACC: tl.constexpr):
    """The 16 weights (1, K) of every block of a map (I / 4, 4, 4), number 4 o + i from input i to output o."""
    weights = ()
    for place in tl.static_range(16):
        weights = weights + (tl.load(w_ptr + 16 * n + place, mask=ok, other=0.0).to(ACC)[None, :],)
    return weights


@triton.jit
def _turned(ptr, rows, columns, row_stride, column_stride, ok):
    """Tile (rows, columns) of a matrix, to be written with its strides exchanged."""
    at = rows[:, None] * row_stride + columns[None, :] * column_stride
    return tl.load(ptr + at, mask=ok[None, :], other=0.0)


@triton.jit
def prepare_kernel(
    taps_ptr, wq_ptr, wk_ptr, wv_ptr, gate_ptr, out_ptr, I, G: tl.constexpr, USED: tl.constexpr, K: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """Prepared weights of K blocks, from taps (I, 4), maps (I / 4, 4, 4) and gate weights (USED, 3 I). Axis: blocks."""
    n, ok = _blocks(I, K)
    g, place, tap = tl.arange(0, G), tl.arange(0, 16), tl.arange(0, 4)
    c = tl.program_id(0) * (4 * K) + tl.arange(0, 4 * K)
    # All loads come first: none may pass a store, and each would wait for the one before.
    taps = _turned(taps_ptr, tap, c, 1, 4, c < I)
    v = _turned(wv_ptr, place, n, 1, 16, ok)
    wq, wk, wv = _map_weights(wq_ptr, n, ok, ACC), _map_weights(wk_ptr, n, ok, ACC), _map_weights(wv_ptr, n, ok, ACC)
    on_q = _gate_weights(gate_ptr, g, n, ok, 0, I, USED, ACC)
    on_k = _gate_weights(gate_ptr, g, n, ok, 1, I, USED, ACC)
    on_v = _gate_weights(gate_ptr, g, n, ok, 2, I, USED, ACC)
    tl.store(out_ptr + tap[:, None] * I + c[None, :], taps, (c < I)[None, :])
    tl.store(out_ptr + 8 * I + place[:, None] * (I // 4) + n[None, :], v, ok[None, :])
    for i in tl.static_range(4):
        for j in tl.static_range(4):
            key = wq[i] * wk[j] + wq[4 + i] * wk[4 + j] + wq[8 + i] * wk[8 + j] + wq[12 + i] * wk[12 + j]
            tl.store(out_ptr + 4 * I + (4 * i + j) * (I // 4) + n[None, :], key, ok[None, :])
        on_a = tl.zeros((G, K), ACC)
        on_x = tl.zeros((G, K), ACC)
        for o in tl.static_range(4):
            on_a += on_q[o] * wq[4 * o + i] + on_k[o] * wk[4 * o + i]
            on_x += on_v[o] * wv[4 * o + i]
        at = (12 + g)[:, None] * I + (4 * n + i)[None, :]
        tl.store(out_ptr + at, on_a, ok[None, :])
        tl.store(out_ptr + at + G * I, on_x, ok[None, :])


@triton.jit
def prepare_grad_kernel(
    wq_ptr, wk_ptr, wv_ptr, gate_ptr, dtaps_ptr, dmaps_ptr, don_ptr, dtaps_out_ptr, dw_ptr, dgate_ptr, I,
    G: tl.constexpr, USED: tl.constexpr, K: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """From gradients of taps (4, I), the maps of keys and values (2, 16 I / 4), A and X (2, I, G) those of the weights themselves.

    Program axes: 0 blocks, 1 which of W_q, W_k and W_v, the last one with the taps.
    """
    n, ok = _blocks(I, K)
    g = tl.arange(0, G)
    part = tl.program_id(1)
    w_ptr, other_ptr = wq_ptr, wk_ptr
    if part == 1:
        w_ptr, other_ptr = wk_ptr, wq_ptr
    if part == 2:
        w_ptr = wv_ptr
        dmaps_ptr += 4 * I
        don_ptr += I * G
        tap = tl.arange(0, 4)
        c = tl.program_id(0) * (4 * K) + tl.arange(0, 4 * K)
        dtaps = _turned(dtaps_ptr, tap, c, I, 1, c < I)
        tl.store(dtaps_out_ptr + tap[:, None] + 4 * c[None, :], dtaps, (c < I)[None, :])
    dw_ptr += part * 4 * I
    gate = _gate_weights(gate_ptr, g, n, ok, part, I, USED, ACC)
    w = _map_weights(w_ptr, n, ok, ACC)
    other = _map_weights(other_ptr, n, ok, ACC)
    don = ()
    for i in tl.static_range(4):
        at = (4 * n + i)[None, :] * g.shape[0] + g[:, None]
        don = don + (tl.load(don_ptr + at, mask=ok[None, :], other=0.0),)
    # Of M = W_q^T W_k: dW_q[o, i] = sum_j dM[i, j] W_k[o, j], dW_k[o, i] = sum_j dM[j, i] W_q[o, j]; W_v is its map itself.
    for i in tl.static_range(4):
        dmap = ()
        for j in tl.static_range(4):
            place = tl.where(part == 0, 4 * i + j, 4 * j + i)
            dmap = dmap + (tl.load(dmaps_ptr + 16 * n + place, mask=ok, other=0.0)[None, :],)
        for o in tl.static_range(4):
            dw = (
                dmap[0] * other[4 * o]
                + dmap[1] * other[4 * o + 1]
                + dmap[2] * other[4 * o + 2]
                + dmap[3] * other[4 * o + 3]
            )
            dw = tl.where(part == 2, dmap[o], dw) + tl.sum(don[i] * gate[o], 0, keep_dims=True)
            tl.store(dw_ptr + 16 * n[None, :] + 4 * o + i, dw, ok[None, :])
    for o in tl.static_range(4):
        dgate = tl.zeros((g.shape[0], n.shape[0]), ACC)
        for i in tl.static_range(4):
            dgate += don[i] * w[4 * o + i]
        at = g[:, None] * (3 * I) + part * I + 4 * n[None, :] + o
        tl.store(dgate_ptr + at, dgate, (g < USED)[:, None] & ok[None, :])
