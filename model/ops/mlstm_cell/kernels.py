"""Triton kernels of the mLSTM cell that treat all chunks at once: gates, hidden states, and their gradients.

Both time directions run in one launch. A program of direction 1 reads memory in the same order as one of direction 0;
only "earlier" and "later" are exchanged: the causal mask, the scans over gates and the order p of the chunks n
(p = n forward, N - 1 - n backward). Tensors are contiguous; names and equations are those of README.md.

Shape letters: R directions, B batch, S frames, H heads, E channels of a head, N chunks, L frames of a chunk.
States are numbered by the chunk p that they enter: slot p - 1 of (R, B, H, N - 1, ...); the first chunk has none.

Log weights (fade, write, peak, start, top) are logarithms to base 2: a power of 2 is one instruction, one of e five.
"""

# ruff: noqa: SIM102 (a condition on a constant must stand alone, else the compiler keeps the branch)

import triton
import triton.language as tl

from model.ops.products import dot
from model.ops.rowwise import LOG2E, exp, sigmoid

NEVER = tl.constexpr(-1e30)


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b)


@triton.jit
def _log_sigmoid(x):
    small = exp(-tl.abs(x))
    more = 1.0 + small
    log1p = tl.where(more == 1.0, small, tl.log(more) * (small / tl.where(more == 1.0, 1.0, more - 1.0)))
    return tl.minimum(x, 0.0) - log1p


@triton.jit
def _rows(n, S, L: tl.constexpr):
    """Frames (L,) of chunk n, and which of them exist."""
    t = n * L + tl.arange(0, L)
    return t, (t >= 0) & (t < S)


@triton.jit
def _load(ptr, rows, ok, stride, e0, E: tl.constexpr, BE: tl.constexpr):
    e = e0 + tl.arange(0, BE)
    return tl.load(ptr + rows[:, None] * stride + e[None, :], mask=ok[:, None] & (e[None, :] < E), other=0.0)


@triton.jit
def _store(ptr, x, rows, ok, stride, e0, E: tl.constexpr, BE: tl.constexpr):
    e = e0 + tl.arange(0, BE)
    mask = ok[:, None] & (e[None, :] < E)
    tl.store(ptr + rows[:, None] * stride + e[None, :], x.to(ptr.dtype.element_ty), mask=mask)


@triton.jit
def _load_state(ptr, e0, f0, there, E: tl.constexpr, BE: tl.constexpr):
    """Tile (BE, BE) of a state matrix (E, E); zeros where there is no state."""
    e = e0 + tl.arange(0, BE)
    return _load(ptr, e, (e < E) & there, E, f0, E, BE)


@triton.jit
def _load_norm(ptr, e0, there, E: tl.constexpr, BE: tl.constexpr):
    e = e0 + tl.arange(0, BE)
    return tl.load(ptr + e, mask=(e < E) & there, other=0.0)


@triton.jit
def _head(r, b, h, B, S, H, E: tl.constexpr):
    """Offset of a head in (R, B, S, H, E), and its running number (r B + b) H + h."""
    row = tl.cast(r, tl.int64) * B + b
    return (row * S * H + h) * E, row * H + h


@triton.jit
def _stabilisers(fade_ptr, write_ptr, peak_ptr, start_ptr, gate, ok, slot, has_past):
    """Log scale of the state at the chunk's start, log writes, log scales m - fade (L,), and floors 2^-m.

    A query that does not exist gets an infinite scale: nothing reaches it.
    """
    start = tl.load(start_ptr + slot, mask=has_past, other=NEVER)
    write = tl.load(write_ptr + gate, mask=ok, other=NEVER)
    top = tl.where(ok, tl.maximum(start, tl.load(peak_ptr + gate, mask=ok, other=NEVER)), -NEVER)
    floor = tl.exp2(-(tl.load(fade_ptr + gate, mask=ok, other=NEVER) + top))
    return start, write, top, floor


@triton.jit
def _decay(write, top, r, L: tl.constexpr, log_scale):
    """Weights 2^(write_j - top_t + log_scale) (query t, key j), 0 where key j is later than query t."""
    t = tl.arange(0, L)
    ahead = (t[:, None] - t[None, :]) * (1 - 2 * r)
    return tl.exp2(tl.where(ahead >= 0, write[None, :] - (top - log_scale)[:, None], NEVER))


@triton.jit
def _cap(gate, bias_ptr, h, there, CAP: tl.constexpr):
    """Gates (L, HP) with their bias (H,), as CAP tanh(gate / CAP) if there is a cap."""
    gate += tl.load(bias_ptr + h, mask=there, other=0.0).to(gate.dtype)[None, :]
    if CAP > 0:
        gate = CAP * (2.0 * sigmoid(gate * (2.0 / CAP)) - 1.0)
    return gate


@triton.jit
def gates_kernel(
    i_ptr, f_ptr, bias_ptr, gates_ptr, fade_ptr, write_ptr, peak_ptr, share, B, S, H, N, NR, SHARES: tl.constexpr,
    CAP: tl.constexpr, L: tl.constexpr, HP: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Of one chunk: log fading since its start, write = log input gate - fade, and the largest write so far; (R, B, H, S).

    With SHARES above 0 gates come in so many shares, `share` elements apart, and without their bias (2 H,); the gates
    themselves, capped, are then written to (2, R, B, S, H), NR of them of each kind. Program axes: chunk, direction and batch row.
    """
    n, r_b = tl.program_id(0), tl.program_id(1)
    rows, ok = _rows(n, S, L)
    h = tl.arange(0, HP)
    row = r_b.to(tl.int64) * S + rows
    at = row[:, None] * H + h[None, :]
    there = ok[:, None] & (h < H)[None, :]
    log_i = tl.load(i_ptr + at, mask=there, other=0.0).to(ACC)
    f = tl.load(f_ptr + at, mask=there, other=0.0).to(ACC)
    if SHARES > 0:
        for number in tl.static_range(1, SHARES):
            log_i += tl.load(i_ptr + number * share + at, mask=there, other=0.0)
            f += tl.load(f_ptr + number * share + at, mask=there, other=0.0)
        log_i = _cap(log_i, bias_ptr, h, h < H, CAP)
        f = _cap(f, bias_ptr + H, h, h < H, CAP)
        tl.store(gates_ptr + at, log_i, there)
        tl.store(gates_ptr + NR + at, f, there)
    log_i = tl.where(there, log_i * LOG2E, NEVER)
    log_f = tl.where(there, _log_sigmoid(f) * LOG2E, 0.0)
    out = (r_b.to(tl.int64) * H + h)[None, :] * S + rows[:, None]
    if r_b < B:
        fade = tl.cumsum(log_f, 0)
        tl.store(peak_ptr + out, tl.associative_scan(log_i - fade, 0, _larger), there)
    else:
        fade = tl.cumsum(log_f, 0, reverse=True)
        tl.store(peak_ptr + out, tl.associative_scan(log_i - fade, 0, _larger, reverse=True), there)
    tl.store(fade_ptr + out, fade, there)
    tl.store(write_ptr + out, log_i - fade, there)


@triton.jit
def hidden_of_chunk(
    q, k, v, memory, norm, start, write, top, floor, r, L: tl.constexpr, log_scale: tl.constexpr, eps: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """Hidden states (L, E) of a chunk, and overlaps n.q (L,); memory and norm are 0 where no state came in."""
    weight = dot(q, tl.trans(k), tl.zeros((L, L), ACC)) * _decay(write, top, r, L, log_scale)
    carried = tl.exp2(start - top + log_scale)
    overlap = tl.sum(q.to(ACC) * norm[None, :], 1) * carried + tl.sum(weight, 1)
    inverse = 1.0 / (tl.maximum(tl.abs(overlap), floor) + eps)
    out = dot(q, memory, tl.zeros(q.shape, ACC)) * carried[:, None]
    return dot(weight.to(v.dtype), v, out) * inverse[:, None], overlap


@triton.jit
def hidden_kernel(
    q_ptr, k_ptr, v_ptr, fade_ptr, write_ptr, peak_ptr, memory_ptr, norm_ptr, start_ptr, h_ptr, overlap_ptr, B, S, H,
    N, R: tl.constexpr, SHARED: tl.constexpr, ONE_CHUNK: tl.constexpr, log_scale: tl.constexpr, eps: tl.constexpr,
    E: tl.constexpr, L: tl.constexpr, BE: tl.constexpr, EARLY: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Hidden states of one chunk, and the signed overlap n.q that their denominator came from.

    With EARLY, for heads of one tile, everything is asked for before anything is waited for.
    """
    n, r, h, b = tl.program_id(0) // R, tl.program_id(0) % R, tl.program_id(1), tl.program_id(2)
    base, head = _head(r, b, h, B, S, H, E)
    v_base = b.to(tl.int64) * S * H * E + h * E if SHARED else base
    p = tl.where(r == 0, n, N - 1 - n)
    slot = head * (N - 1) + p - 1
    rows, ok = _rows(n, S, L)
    gate = head * S + rows

    has_past = p > 0
    few: tl.constexpr = E <= BE

    start, write, top, floor = _stabilisers(fade_ptr, write_ptr, peak_ptr, start_ptr, gate, ok, slot, has_past)
    weight = tl.zeros((L, L), ACC)
    overlap = tl.zeros((L,), ACC)
    for e0 in tl.static_range(0, E, BE):
        q = _load(q_ptr + base, rows, ok, H * E, e0, E, BE)
        k = _load(k_ptr + base, rows, ok, H * E, e0, E, BE)
        if EARLY:
            v = _load(v_ptr + v_base, rows, ok, H * E, 0, E, BE)
            if not ONE_CHUNK:
                memory = _load_state(memory_ptr + slot * E * E, 0, 0, has_past, E, BE)
        if not ONE_CHUNK:
            overlap += tl.sum(q.to(ACC) * _load_norm(norm_ptr + slot * E, e0, has_past, E, BE)[None, :], 1)
        weight = dot(q, tl.trans(k), weight)
    weight *= _decay(write, top, r, L, log_scale)
    carried = tl.exp2(start - top + log_scale)
    overlap = overlap * carried + tl.sum(weight, 1)
    inverse = 1.0 / (tl.maximum(tl.abs(overlap), floor) + eps)
    tl.store(overlap_ptr + gate, overlap, ok)

    for f0 in tl.static_range(0, E, BE):
        if not EARLY:
            v = _load(v_ptr + v_base, rows, ok, H * E, f0, E, BE)
        out = tl.zeros((L, BE), ACC)
        if not ONE_CHUNK:
            if True if EARLY else has_past:
                for e0 in tl.static_range(0, E, BE):
                    if not few:
                        q = _load(q_ptr + base, rows, ok, H * E, e0, E, BE)
                    if not EARLY:
                        memory = _load_state(memory_ptr + slot * E * E, e0, f0, has_past, E, BE)
                    out = dot(q, memory, out)
                out = out * carried[:, None]
        out = dot(weight.to(v.dtype), v, out) * inverse[:, None]
        _store(h_ptr + base, out, rows, ok, H * E, f0, E, BE)


@triton.jit
def _overlap_grad(rho, overlap, inverse, floor):
    """Gradient of the overlap, from rho = dh.h; zero where the floor 2^-m was the larger."""
    return tl.where(tl.abs(overlap) > floor, tl.where(overlap > 0.0, -rho, rho), 0.0) * inverse


@triton.jit
def grad_kernel(
    q_ptr, k_ptr, v_ptr, fade_ptr, write_ptr, peak_ptr, memory_ptr, norm_ptr, start_ptr, overlap_ptr, doverlap_ptr,
    dh_ptr, dmemory_ptr, dnorm_ptr, dq_ptr, dk_ptr, dv_ptr, inside_ptr, column_ptr, future_ptr, across_ptr, r, B, S, H,
    N, SHARED: tl.constexpr, ADD: tl.constexpr, ONE_CHUNK: tl.constexpr, log_scale: tl.constexpr, eps: tl.constexpr,
    E: tl.constexpr, L: tl.constexpr, BE: tl.constexpr, EARLY: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Gradients of one chunk's queries, keys and values in direction r, and sums of dlog for the gates.

    With ADD the gradient of the values is added to what the direction before has left there. EARLY as above.
    """
    n, h = tl.program_id(0), tl.program_id(1)
    # Direction 1 begins where direction 0 has ended: that is still in the cache.
    b = tl.where(r == 0, B - 1 - tl.program_id(2), tl.program_id(2))
    base, head = _head(r, b, h, B, S, H, E)
    v_base = b.to(tl.int64) * S * H * E + h * E if SHARED else base
    p = tl.where(r == 0, n, N - 1 - n)
    before = head * (N - 1) + p - 1
    after = before + 1
    has_past, has_future = p > 0, p < N - 1
    rows, ok = _rows(n, S, L)
    gate = head * S + rows
    few: tl.constexpr = E <= BE
    early: tl.constexpr = EARLY and not ONE_CHUNK
    reach_past = True if early else has_past
    reach_future = True if early else has_future

    start, write, top, floor = _stabilisers(fade_ptr, write_ptr, peak_ptr, start_ptr, gate, ok, before, has_past)
    overlap = tl.load(overlap_ptr + gate, mask=ok, other=0.0)
    if not ONE_CHUNK:
        doverlap = tl.load(doverlap_ptr + gate, mask=ok, other=0.0)
    weight = tl.zeros((L, L), ACC)
    dweight = tl.zeros((L, L), ACC)
    for e0 in tl.static_range(0, E, BE):
        q = _load(q_ptr + base, rows, ok, H * E, e0, E, BE)
        k = _load(k_ptr + base, rows, ok, H * E, e0, E, BE)
        dh = _load(dh_ptr + base, rows, ok, H * E, e0, E, BE)
        v = _load(v_ptr + v_base, rows, ok, H * E, e0, E, BE)
        if early:
            memory = _load_state(memory_ptr + before * E * E, e0, 0, has_past, E, BE)
            dmemory = _load_state(dmemory_ptr + after * E * E, e0, 0, has_future, E, BE)
            norm = _load_norm(norm_ptr + before * E, e0, has_past, E, BE)
            dnorm = _load_norm(dnorm_ptr + after * E, e0, has_future, E, BE)
        weight = dot(q, tl.trans(k), weight)
        dweight = dot(dh, tl.trans(v), dweight)
    decay = _decay(write, top, r, L, log_scale)
    weight *= decay
    inverse = 1.0 / (tl.maximum(tl.abs(overlap), floor) + eps)
    if ONE_CHUNK:
        doverlap = _overlap_grad(tl.sum(weight * dweight, 1) * inverse, overlap, inverse, floor)
    dweight = dweight * inverse[:, None] + doverlap[:, None]
    inside, column = tl.zeros((L,), ACC), tl.zeros((L,), ACC)
    if ONE_CHUNK:
        dlog = weight * dweight
        inside, column = tl.sum(dlog, 1), tl.sum(dlog, 0)
    dscore = (dweight * decay).to(q_ptr.dtype.element_ty)
    weight = (weight * inverse[:, None]).to(q_ptr.dtype.element_ty)
    last_top = tl.maximum(start, tl.max(write, 0))
    written = tl.exp2(write - last_top)
    carried = tl.exp2(start - top + log_scale)

    for f0 in tl.static_range(0, E, BE):
        dv = tl.zeros((L, BE), ACC)
        if not ONE_CHUNK:
            if reach_future:
                for e0 in tl.static_range(0, E, BE):
                    if not few:
                        k = _load(k_ptr + base, rows, ok, H * E, e0, E, BE)
                    if not early:
                        dmemory = _load_state(dmemory_ptr + after * E * E, e0, f0, has_future, E, BE)
                    dv = dot(k, dmemory, dv)
                dv *= written[:, None]
        if not few:
            dh = _load(dh_ptr + base, rows, ok, H * E, f0, E, BE)
        dv = dot(tl.trans(weight), dh, dv)
        if ADD:
            dv += _load(dv_ptr + v_base, rows, ok, H * E, f0, E, BE).to(ACC)
        _store(dv_ptr + v_base, dv, rows, ok, H * E, f0, E, BE)

    future = tl.zeros((L,), ACC)
    across = tl.zeros((BE,), ACC)
    for e0 in tl.static_range(0, E, BE):
        if not few:
            q = _load(q_ptr + base, rows, ok, H * E, e0, E, BE)
            k = _load(k_ptr + base, rows, ok, H * E, e0, E, BE)
        dq = tl.zeros((L, BE), ACC)
        if not ONE_CHUNK:
            if reach_past:
                for f0 in tl.static_range(0, E, BE):
                    if not few:
                        dh = _load(dh_ptr + base, rows, ok, H * E, f0, E, BE)
                    if not early:
                        memory = _load_state(memory_ptr + before * E * E, e0, f0, has_past, E, BE)
                    dq = dot(dh, tl.trans(memory), dq)
                if not early:
                    norm = _load_norm(norm_ptr + before * E, e0, has_past, E, BE)
                dq = (dq * inverse[:, None] + doverlap[:, None] * norm[None, :]) * carried[:, None]
        dq = dot(dscore, k, dq)
        if not ONE_CHUNK:
            inside += tl.sum(q.to(ACC) * dq, 1)
        _store(dq_ptr + base, dq, rows, ok, H * E, e0, E, BE)
        dk = tl.zeros((L, BE), ACC)
        if not ONE_CHUNK:
            if reach_future:
                for f0 in tl.static_range(0, E, BE):
                    if not few:
                        v = _load(v_ptr + v_base, rows, ok, H * E, f0, E, BE)
                    if not early:
                        dmemory = _load_state(dmemory_ptr + after * E * E, e0, f0, has_future, E, BE)
                    dk = dot(v, tl.trans(dmemory), dk)
                    if reach_past:
                        if not early:
                            memory = _load_state(memory_ptr + before * E * E, e0, f0, has_past, E, BE)
                        across += tl.sum(memory.to(ACC) * dmemory.to(ACC), 1)
                if not early:
                    dnorm = _load_norm(dnorm_ptr + after * E, e0, has_future, E, BE)
                dk = (dk + dnorm[None, :]) * written[:, None]
                future += tl.sum(k.to(ACC) * dk, 1)
                if reach_past:
                    if not early:
                        norm = _load_norm(norm_ptr + before * E, e0, has_past, E, BE)
                    across += norm * dnorm
        dk = dot(tl.trans(dscore), q, dk)
        if not ONE_CHUNK:
            column += tl.sum(k.to(ACC) * dk, 1)
        _store(dk_ptr + base, dk, rows, ok, H * E, e0, E, BE)
    column -= future
    tl.store(inside_ptr + gate, inside - column, ok)
    tl.store(column_ptr + gate, column, ok)
    tl.store(future_ptr + gate, future, ok)
    tl.store(across_ptr + head * N + n, tl.sum(across, 0) * tl.exp2(start - last_top))


@triton.jit
def _uncap_grad(dgate, gate, CAP: tl.constexpr):
    """Gradient of a gate before its cap, given that of what the cap has left of it."""
    if CAP > 0:
        gate = gate / CAP
        dgate *= 1.0 - gate * gate
    return dgate


@triton.jit
def gates_grad_kernel(
    i_ptr, f_ptr, inside_ptr, column_ptr, future_ptr, across_ptr, di_ptr, df_ptr, B, S, H, N, stride, CAP: tl.constexpr,
    L: tl.constexpr, HP: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Gradients of both gates of one chunk, before their cap: dlog f_s sums dlog over all pairs with j < s <= t.

    di and df (R, B, S, H) have a row stride. Program axes: chunk, direction and batch row.
    """
    n, r_b = tl.program_id(0), tl.program_id(1)
    rows, ok = _rows(n, S, L)
    h = tl.arange(0, HP)
    there = ok[:, None] & (h < H)[None, :]
    head = r_b.to(tl.int64) * H + h
    gate = head[None, :] * S + rows[:, None]
    column = tl.load(column_ptr + gate, mask=there, other=0.0)
    future = tl.load(future_ptr + gate, mask=there, other=0.0)
    inside = tl.load(inside_ptr + gate, mask=there, other=0.0)
    row = (r_b.to(tl.int64) * S + rows)[:, None]
    f = tl.load(f_ptr + row * H + h[None, :], mask=there, other=0.0).to(ACC)
    di = column + future
    dlog_f = tl.load(across_ptr + head * N + n, mask=h < H, other=0.0)[None, :] - future
    if r_b < B:
        dlog_f += tl.cumsum(inside, 0, reverse=True) + tl.cumsum(future, 0)
    else:
        dlog_f += tl.cumsum(inside, 0) + tl.cumsum(future, 0, reverse=True)
    df = dlog_f * sigmoid(-f)
    if CAP > 0:
        di = _uncap_grad(di, tl.load(i_ptr + row * H + h[None, :], mask=there, other=0.0), CAP)
        df = _uncap_grad(df, f, CAP)
    tl.store(di_ptr + row * stride + h[None, :], di, there)
    tl.store(df_ptr + row * stride + h[None, :], df, there)
