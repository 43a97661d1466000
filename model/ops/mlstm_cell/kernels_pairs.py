"""Triton kernels of the mLSTM cell for sequences of few chunks: over all pairs of frames, with no state between chunks.

A program holds a chunk of queries (or of keys) and goes through the chunks of keys (or of queries) that it meets, as
kernels of attention do: first its own, then the others from the nearest on. (If a loop that may have no step came
first, ptxas would run the matrix products of the next loop one by one: its remark C7515.) The scale `top` of every query
is known beforehand, so nothing is rescaled on the way. Between chunks a key fades by the log fading of whole chunks: of
all from its own to the one before the query's.

Program axes: 0 chunk x direction x tile of channels, 1 head, 2 batch row: those that read the same run side by side.
With several tiles each program does all scores again. Names are those of README.md, letters and places p those of kernels.py.
"""

import triton
import triton.language as tl

from model.ops.mlstm_cell.kernels import NEVER, _head, _load, _overlap_grad, _rows, _store
from model.ops.products import dot


@triton.jit
def _program(R: tl.constexpr, E: tl.constexpr, BE: tl.constexpr):
    """Chunk and direction of this program, and the first channel of its tile."""
    tiles: tl.constexpr = (E + BE - 1) // BE
    rest = tl.program_id(0) // tiles
    return rest // R, rest % R, (tl.program_id(0) % tiles) * BE


@triton.jit
def _turn(p, r, N):
    """Chunk at place p in the order of direction r; the same formula turns a chunk into its place."""
    return tl.where(r == 0, p, N - 1 - p)


@triton.jit
def _last(p, r, S, N, L: tl.constexpr):
    """The frame that direction r reads last in the chunk at place p: there `fade` is the whole chunk's."""
    n = _turn(p, r, N)
    return tl.where(r == 0, tl.minimum(n * L + L, S) - 1, n * L)


@triton.jit
def _start(fade_ptr, peak_ptr, p, r, S, N, MOST: tl.constexpr, L: tl.constexpr, ACC: tl.constexpr):
    """Log scale m that the chunk at place p < MOST begins with. The pointers are those of the head."""
    start = tl.full((), NEVER, ACC)
    for earlier in tl.static_range(MOST - 1):
        last = _last(earlier, r, S, N, L)
        peak = tl.load(peak_ptr + last, mask=earlier < p, other=NEVER)
        start = tl.load(fade_ptr + last, mask=earlier < p, other=0.0) + tl.maximum(start, peak)
    return start


@triton.jit
def _scales(fade_ptr, peak_ptr, start, gate, ok):
    """Log scales m - fade (L,) of queries, infinite where there is no query, so that nothing reaches it; floors 2^-m."""
    top = tl.where(ok, tl.maximum(start, tl.load(peak_ptr + gate, mask=ok, other=NEVER)), -NEVER)
    return top, tl.exp2(-(tl.load(fade_ptr + gate, mask=ok, other=NEVER) + top))


@triton.jit
def _decay(log_weight, query, key, r):
    """2^(log weight), 0 where the key is later than the query in direction r; all broadcast."""
    return tl.exp2(tl.where((query - key) * (1 - 2 * r) >= 0, log_weight, NEVER))


@triton.jit
def _product(a, a_ptr, a_rows, a_ok, b_ptr, b_rows, b_ok, stride, E: tl.constexpr, BE: tl.constexpr, ACC: tl.constexpr):
    """a b^T over all channels, and the last tile of b: all of it, if one tile holds it. `a` is the first tile of a."""
    out = tl.zeros((a_rows.shape[0], b_rows.shape[0]), ACC)
    for e0 in tl.static_range(0, E, BE):
        if e0 > 0:
            a = _load(a_ptr, a_rows, a_ok, stride, e0, E, BE)
        b = _load(b_ptr, b_rows, b_ok, stride, e0, E, BE)
        out = dot(a, tl.trans(b), out)
    return out, b


@triton.jit
def hidden_pairs_kernel(
    q_ptr, k_ptr, v_ptr, fade_ptr, write_ptr, peak_ptr, start_ptr, h_ptr, overlap_ptr, B, S, H, N, R: tl.constexpr,
    SHARED: tl.constexpr, log_scale: tl.constexpr, eps: tl.constexpr, E: tl.constexpr, L: tl.constexpr, BE: tl.constexpr,
    PART: tl.constexpr, MOST: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Hidden states of one chunk of queries, the overlap of their denominator, and the log scale that the chunk starts from."""
    PARTS: tl.constexpr = L // PART
    n, r, f0 = _program(R, E, BE)
    h, b = tl.program_id(1), tl.program_id(2)
    base, head = _head(r, b, h, B, S, H, E)
    v_base = b.to(tl.int64) * S * H * E + h * E if SHARED else base
    fade, write, first = fade_ptr + head * S, write_ptr + head * S, f0 == 0
    p = _turn(n, r, N)
    rows, ok = _rows(n, S, L)
    q = _load(q_ptr + base, rows, ok, H * E, 0, E, BE)
    start = _start(fade, peak_ptr + head * S, p, r, S, N, MOST, L, ACC)
    top, floor = _scales(fade, peak_ptr + head * S, start, rows, ok)
    carried = tl.exp2(start - top + log_scale)

    out, overlap, faded = tl.zeros((L, BE), ACC), tl.zeros((L,), ACC), -start
    for part in range(PARTS):
        keys, there = _rows(n * PARTS + part, S, PART)
        written = tl.load(write + keys, mask=there, other=NEVER)
        score, _k = _product(q, q_ptr + base, rows, ok, k_ptr + base, keys, there, H * E, E, BE, ACC)
        v = _load(v_ptr + v_base, keys, there, H * E, f0, E, BE)
        weight = score * _decay(written[None, :] - (top - log_scale)[:, None], rows[:, None], keys[None, :], r)
        overlap += tl.sum(weight, 1)
        out = dot(weight.to(v.dtype), v, out)

    for number in range(p * PARTS):
        earlier, part = p - 1 - number // PARTS, number % PARTS
        keys, there = _rows(_turn(earlier, r, N) * PARTS + part, S, PART)
        faded += tl.load(fade + _last(earlier, r, S, N, L), mask=part == 0, other=0.0)
        written = tl.load(write + keys, mask=there, other=NEVER) + faded
        score, _k = _product(q, q_ptr + base, rows, ok, k_ptr + base, keys, there, H * E, E, BE, ACC)
        v = _load(v_ptr + v_base, keys, there, H * E, f0, E, BE)
        weight = score * carried[:, None] * tl.exp2(written)[None, :]
        overlap += tl.sum(weight, 1)
        out = dot(weight.to(v.dtype), v, out)

    inverse = 1.0 / (tl.maximum(tl.abs(overlap), floor) + eps)
    _store(h_ptr + base, out * inverse[:, None], rows, ok, H * E, f0, E, BE)
    tl.store(overlap_ptr + head * S + rows, overlap, ok & first)
    tl.store(start_ptr + head * (N - 1) + p - 1, start, (p > 0) & first)


@triton.jit
def queries_grad_kernel(
    q_ptr, k_ptr, v_ptr, fade_ptr, write_ptr, peak_ptr, start_ptr, overlap_ptr, h_ptr, dh_ptr, rho_ptr, top_ptr,
    inverse_ptr, doverlap_ptr, far_inverse_ptr, far_doverlap_ptr, along_ptr, across_ptr, dq_ptr, B, S, H, N,
    R: tl.constexpr, RHO: tl.constexpr, SHARED: tl.constexpr, log_scale: tl.constexpr, eps: tl.constexpr, E: tl.constexpr, L: tl.constexpr,
    BE: tl.constexpr, PART: tl.constexpr, MOST: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Gradient of one chunk of queries, their sums of dlog over all keys, and what `keys_grad_kernel` needs of each query.

    That is the log scale, 1 / denominator and the gradient of the overlap; the latter two also on the scale of `start`.
    With RHO the sums of dh h are given, else they are made from h. Of `across` it writes, into (N, R, B, H, N), what the pairs with its queries add.
    """
    PARTS: tl.constexpr = L // PART
    n, r, f0 = _program(R, E, BE)
    h, b = tl.program_id(1), tl.program_id(2)
    base, head = _head(r, b, h, B, S, H, E)
    v_base = b.to(tl.int64) * S * H * E + h * E if SHARED else base
    few: tl.constexpr = E <= BE
    fade, write = fade_ptr + head * S, write_ptr + head * S
    p = _turn(n, r, N)
    rows, ok = _rows(n, S, L)
    gate = head * S + rows
    start = tl.load(start_ptr + head * (N - 1) + p - 1, mask=p > 0, other=NEVER)
    overlap = tl.load(overlap_ptr + gate, mask=ok, other=0.0)
    q = _load(q_ptr + base, rows, ok, H * E, 0, E, BE)
    dh = _load(dh_ptr + base, rows, ok, H * E, 0, E, BE)
    if RHO:
        rho = tl.load(rho_ptr + gate, mask=ok, other=0.0)
    else:
        rho = tl.sum(dh.to(ACC) * _load(h_ptr + base, rows, ok, H * E, 0, E, BE).to(ACC), 1)
        for e0 in tl.static_range(BE, E, BE):
            more = _load(dh_ptr + base, rows, ok, H * E, e0, E, BE).to(ACC)
            rho += tl.sum(more * _load(h_ptr + base, rows, ok, H * E, e0, E, BE).to(ACC), 1)
    top, floor = _scales(fade, peak_ptr + head * S, start, rows, ok)
    inverse = 1.0 / (tl.maximum(tl.abs(overlap), floor) + eps)
    doverlap = _overlap_grad(rho, overlap, inverse, floor)
    carried = tl.exp2(start - top + log_scale)
    far_inverse, far_doverlap = inverse * carried, doverlap * carried

    dq, along, faded = tl.zeros((L, BE), ACC), tl.zeros((L,), ACC), -start
    places = tl.arange(0, MOST)
    across = tl.zeros((L, MOST), ACC)
    for part in range(PARTS):
        keys, there = _rows(n * PARTS + part, S, PART)
        written = tl.load(write + keys, mask=there, other=NEVER)
        dweight, _v = _product(dh, dh_ptr + base, rows, ok, v_ptr + v_base, keys, there, H * E, E, BE, ACC)
        score, k = _product(q, q_ptr + base, rows, ok, k_ptr + base, keys, there, H * E, E, BE, ACC)
        if not few:
            k = _load(k_ptr + base, keys, there, H * E, f0, E, BE)
        decay = _decay(written[None, :] - (top - log_scale)[:, None], rows[:, None], keys[None, :], r)
        dscore = (dweight * inverse[:, None] + doverlap[:, None]) * decay
        along += tl.sum(score * dscore, 1)
        dq = dot(dscore.to(k.dtype), k, dq)

    for number in range(p * PARTS):
        earlier, part = p - 1 - number // PARTS, number % PARTS
        keys, there = _rows(_turn(earlier, r, N) * PARTS + part, S, PART)
        faded += tl.load(fade + _last(earlier, r, S, N, L), mask=part == 0, other=0.0)
        written = tl.load(write + keys, mask=there, other=NEVER) + faded
        dweight, _v = _product(dh, dh_ptr + base, rows, ok, v_ptr + v_base, keys, there, H * E, E, BE, ACC)
        score, k = _product(q, q_ptr + base, rows, ok, k_ptr + base, keys, there, H * E, E, BE, ACC)
        if not few:
            k = _load(k_ptr + base, keys, there, H * E, f0, E, BE)
        dscore = (dweight * far_inverse[:, None] + far_doverlap[:, None]) * tl.exp2(written)[None, :]
        dlog = tl.sum(score * dscore, 1)
        along += dlog
        across += tl.where((places > earlier) & (places < p), 1.0, 0.0)[None, :] * dlog[:, None]
        dq = dot(dscore.to(k.dtype), k, dq)

    _store(dq_ptr + base, dq, rows, ok, H * E, f0, E, BE)
    first = ok & (f0 == 0)
    tl.store(top_ptr + gate, top, first)
    tl.store(inverse_ptr + gate, inverse, first)
    tl.store(doverlap_ptr + gate, doverlap, first)
    tl.store(far_inverse_ptr + gate, far_inverse, first)
    tl.store(far_doverlap_ptr + gate, far_doverlap, first)
    tl.store(along_ptr + gate, along, first)
    share = (tl.cast(n, tl.int64) * R * B * H + head) * N + _turn(places, r, N)
    tl.store(across_ptr + share, tl.sum(across, 0), (places < N) & (f0 == 0))


@triton.jit
def keys_grad_kernel(
    q_ptr, k_ptr, v_ptr, fade_ptr, write_ptr, start_ptr, top_ptr, inverse_ptr, doverlap_ptr, far_inverse_ptr,
    far_doverlap_ptr, along_ptr, dh_ptr, dk_ptr, dv_ptr, inside_ptr, column_ptr, future_ptr, B, S, H, N,
    R: tl.constexpr, SHARED: tl.constexpr, log_scale: tl.constexpr, E: tl.constexpr, L: tl.constexpr, BE: tl.constexpr,
    PART: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Gradients of one chunk of keys and of values, and sums of dlog for the gates.

    Where values are shared, a program does both directions: all programs have the same work, and dv stays in registers.
    Queries come PART at a time: with two sums (L, BE) there are registers for no more. Scores are held as (keys,
    queries): so they are in the registers that the products after them take them from.
    """
    TURNS: tl.constexpr = R if SHARED else 1
    PARTS: tl.constexpr = L // PART
    n, own, f0 = _program(R // TURNS, E, BE)
    h, b = tl.program_id(1), tl.program_id(2)
    few: tl.constexpr = E <= BE
    keys, ok = _rows(n, S, L)
    v_base, _row = _head(own, b, h, B, S, H, E)
    v = _load(v_ptr + v_base, keys, ok, H * E, 0, E, BE)

    dv = tl.zeros((L, BE), ACC)
    for turn in range(TURNS):
        r = own + turn
        p = _turn(n, r, N)
        base, head = _head(r, b, h, B, S, H, E)
        gate = head * S + keys
        k = _load(k_ptr + base, keys, ok, H * E, 0, E, BE)
        write = tl.load(write_ptr + gate, mask=ok, other=NEVER)
        dk = tl.zeros((L, BE), ACC)
        column, future, faded = tl.zeros((L,), ACC), tl.zeros((L,), ACC), tl.zeros((), ACC)

        for part in range(PARTS):
            rows, there = _rows(n * PARTS + part, S, PART)
            at = head * S + rows
            score, q = _product(k, k_ptr + base, keys, ok, q_ptr + base, rows, there, H * E, E, BE, ACC)
            dweight, dh = _product(v, v_ptr + v_base, keys, ok, dh_ptr + base, rows, there, H * E, E, BE, ACC)
            if not few:
                q = _load(q_ptr + base, rows, there, H * E, f0, E, BE)
                dh = _load(dh_ptr + base, rows, there, H * E, f0, E, BE)
            top = tl.load(top_ptr + at, mask=there, other=-NEVER)
            inverse = tl.load(inverse_ptr + at, mask=there, other=0.0)
            doverlap = tl.load(doverlap_ptr + at, mask=there, other=0.0)
            decay = _decay(write[:, None] - (top - log_scale)[None, :], rows[None, :], keys[:, None], r)
            dv = dot((score * decay * inverse[None, :]).to(dh.dtype), dh, dv)
            dscore = (dweight * inverse[None, :] + doverlap[None, :]) * decay
            column += tl.sum(score * dscore, 1)
            dk = dot(dscore.to(q.dtype), q, dk)

        for number in range((N - p - 1) * PARTS):
            later, part = p + 1 + number // PARTS, number % PARTS
            rows, there = _rows(_turn(later, r, N) * PARTS + part, S, PART)
            at = head * S + rows
            faded += tl.load(fade_ptr + head * S + _last(later - 1, r, S, N, L), mask=part == 0, other=0.0)
            score, q = _product(k, k_ptr + base, keys, ok, q_ptr + base, rows, there, H * E, E, BE, ACC)
            dweight, dh = _product(v, v_ptr + v_base, keys, ok, dh_ptr + base, rows, there, H * E, E, BE, ACC)
            if not few:
                q = _load(q_ptr + base, rows, there, H * E, f0, E, BE)
                dh = _load(dh_ptr + base, rows, there, H * E, f0, E, BE)
            written = tl.exp2(write + faded - tl.load(start_ptr + head * (N - 1) + later - 1))
            inverse = tl.load(far_inverse_ptr + at, mask=there, other=0.0)
            doverlap = tl.load(far_doverlap_ptr + at, mask=there, other=0.0)
            dv = dot((score * inverse[None, :] * written[:, None]).to(dh.dtype), dh, dv)
            dscore = (dweight * inverse[None, :] + doverlap[None, :]) * written[:, None]
            future += tl.sum(score * dscore, 1)
            dk = dot(dscore.to(q.dtype), q, dk)

        along = tl.load(along_ptr + gate, mask=ok, other=0.0)
        _store(dk_ptr + base, dk, keys, ok, H * E, f0, E, BE)
        first = ok & (f0 == 0)
        tl.store(inside_ptr + gate, along - column, first)
        tl.store(column_ptr + gate, column, first)
        tl.store(future_ptr + gate, future, first)
    _store(dv_ptr + v_base, dv, keys, ok, H * E, f0, E, BE)
