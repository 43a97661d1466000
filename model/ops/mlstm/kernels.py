"""Triton kernels of the mLSTM cell that treat all chunks at once, for heads of any size; the parts that all kernels share.

Every kernel handles both time directions: a program of direction 1 walks the same memory backward, so all formulas are
written in logical time. Tensors are contiguous; equations and names are those of README.md.

Shape letters: R directions, B batch, S frames, H heads, E channels of a head, N chunks, L frames of a chunk.
Program axes: 0 chunk (or tile of the state), 1 head, 2 direction and batch row.
"""
# ruff: noqa: SIM102 (a condition on a constant must stand alone, else the compiler keeps the branch)

import triton
import triton.language as tl

NEVER = tl.constexpr(-1e30)


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b)


@triton.jit
def _log_sigmoid(x):
    small = tl.exp(-tl.abs(x))
    one_more = 1.0 + small
    log1p = tl.where(
        one_more == 1.0, small, tl.log(one_more) * (small / tl.where(one_more == 1.0, 1.0, one_more - 1.0))
    )
    return tl.minimum(x, 0.0) - log1p


@triton.jit
def _rows(n, r, S, L: tl.constexpr):
    """Memory rows (L,) of chunk n of direction r, and which of them exist."""
    t = n * L + tl.arange(0, L)
    return tl.where(r == 0, t, S - 1 - t), t < S


@triton.jit
def _gates(i_ptr, f_ptr, rows, ok, H, ACC: tl.constexpr):
    """Log weights (L,): what the forget gates leave at t of the chunk's start, and g = log i - fade; logits of f."""
    log_i = tl.load(i_ptr + rows * H, mask=ok, other=NEVER).to(ACC)
    f = tl.load(f_ptr + rows * H, mask=ok, other=0.0).to(ACC)
    fade = tl.cumsum(tl.where(ok, _log_sigmoid(f), 0.0), 0)
    return fade, log_i - fade, f


@triton.jit
def _dot(a, b, acc, PRECISION: tl.constexpr):
    return tl.dot(a, b, acc, input_precision=PRECISION, out_dtype=acc.dtype)


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
def _load_state(ptr, e0, f0, E: tl.constexpr, BE: tl.constexpr):
    """Tile (BE, BE) of a state matrix (E, E)."""
    e = e0 + tl.arange(0, BE)
    return _load(ptr, e, e < E, E, f0, E, BE)


@triton.jit
def _load_norm(ptr, e0, E: tl.constexpr, BE: tl.constexpr, ACC: tl.constexpr):
    e = e0 + tl.arange(0, BE)
    return tl.load(ptr + e, mask=e < E, other=0.0).to(ACC)


@triton.jit
def _head(r_b, h, B, S, H, E: tl.constexpr):
    """Offsets of a head in (R, B, S, H, E), in (R, B, S, H), and its running number r_b * H + h."""
    row = r_b.to(tl.int64) * S * H + h
    return row * E, row, r_b.to(tl.int64) * H + h


@triton.jit
def _overlap_grad(rho, overlap, inverse, floor):
    """Gradient with respect to the overlap, from rho = dh.h; zero where the floor exp(-m) was the larger."""
    return tl.where(tl.abs(overlap) > floor, tl.where(overlap > 0.0, -rho, rho), 0.0) * inverse


@triton.jit
def hidden_kernel(
    q_ptr, k_ptr, v_ptr, i_ptr, f_ptr, memory_ptr, norm_ptr, start_ptr, h_ptr, overlap_ptr, B, S, H, N,
    v_directions: tl.constexpr,
    scale: tl.constexpr, eps: tl.constexpr,
    E: tl.constexpr, L: tl.constexpr, BE: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
    ONE_CHUNK: tl.constexpr,
):  # fmt: skip
    """Hidden states of one chunk, and the signed overlap n.q that their denominator came from."""
    n, h, r_b = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    r = r_b // B
    base, gate_base, head = _head(r_b, h, B, S, H, E)
    v_base = base if v_directions == 2 else (r_b % B).to(tl.int64) * S * H * E + h * E
    slot = head * (N - 1) + n - 1
    rows, ok = _rows(n, r, S, L)

    fade, write, _logit = _gates(i_ptr + gate_base, f_ptr + gate_base, rows, ok, H, ACC)
    start = tl.load(start_ptr + slot, mask=n > 0, other=NEVER)
    top = tl.maximum(start, tl.associative_scan(write, 0, _larger))
    carried = tl.exp(start - top) * scale

    weight = tl.zeros((L, L), ACC)
    overlap = tl.zeros((L,), ACC)
    for e0 in tl.static_range(0, E, BE):
        q = _load(q_ptr + base, rows, ok, H * E, e0, E, BE)
        k = _load(k_ptr + base, rows, ok, H * E, e0, E, BE)
        weight = _dot(q, tl.trans(k), weight, PRECISION)
        if not ONE_CHUNK:
            if n > 0:
                overlap += tl.sum(q.to(ACC) * _load_norm(norm_ptr + slot * E, e0, E, BE, ACC)[None, :], 1)
    t = tl.arange(0, L)
    causal = t[:, None] >= t[None, :]
    weight = weight * tl.exp(tl.where(causal, write[None, :] - top[:, None], NEVER)) * scale
    overlap = overlap * carried + tl.sum(weight, 1)
    denominator = tl.maximum(tl.abs(overlap), tl.exp(-(fade + top))) + eps
    tl.store(overlap_ptr + gate_base + rows * H, overlap, ok)

    for f0 in tl.static_range(0, E, BE):
        v = _load(v_ptr + v_base, rows, ok, H * E, f0, E, BE)
        out = tl.zeros((L, BE), ACC)
        if not ONE_CHUNK:
            if n > 0:
                for e0 in tl.static_range(0, E, BE):
                    q = _load(q_ptr + base, rows, ok, H * E, e0, E, BE)
                    memory = _load_state(memory_ptr + slot * E * E, e0, f0, E, BE).to(q.dtype)
                    out = _dot(q, memory, out, PRECISION)
                out = out * carried[:, None]
        out = _dot(weight.to(v.dtype), v, out, PRECISION) / denominator[:, None]
        _store(h_ptr + base, out, rows, ok, H * E, f0, E, BE)


@triton.jit
def grad_kernel(
    q_ptr, k_ptr, v_ptr, i_ptr, f_ptr, memory_ptr, norm_ptr, start_ptr, overlap_ptr, dh_ptr, dmemory_ptr, dnorm_ptr,
    doverlap_ptr, dq_ptr, dk_ptr, dv_ptr, di_ptr, df_ptr, B, S, H, N,
    v_directions: tl.constexpr,
    scale: tl.constexpr, eps: tl.constexpr,
    E: tl.constexpr, L: tl.constexpr, BE: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
    ONE_CHUNK: tl.constexpr,
):  # fmt: skip
    """Gradients of one chunk: queries, keys, values and both gates."""
    n, h, r_b = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    r = r_b // B
    base, gate_base, head = _head(r_b, h, B, S, H, E)
    v_base = base if v_directions == 2 else (r_b % B).to(tl.int64) * S * H * E + h * E
    before = head * (N - 1) + n - 1
    after = before + 1
    rows, ok = _rows(n, r, S, L)
    q_ptr, k_ptr, v_ptr, dh_ptr = q_ptr + base, k_ptr + base, v_ptr + v_base, dh_ptr + base

    fade, write, f_logit = _gates(i_ptr + gate_base, f_ptr + gate_base, rows, ok, H, ACC)
    start = tl.load(start_ptr + before, mask=n > 0, other=NEVER)
    top = tl.maximum(start, tl.associative_scan(write, 0, _larger))
    last_top = tl.max(top, 0)
    carried = tl.exp(start - top) * scale
    written = tl.exp(write - last_top)

    weight = tl.zeros((L, L), ACC)
    dweight = tl.zeros((L, L), ACC)
    for e0 in tl.static_range(0, E, BE):
        q = _load(q_ptr, rows, ok, H * E, e0, E, BE)
        k = _load(k_ptr, rows, ok, H * E, e0, E, BE)
        weight = _dot(q, tl.trans(k), weight, PRECISION)
        dh = _load(dh_ptr, rows, ok, H * E, e0, E, BE)
        v = _load(v_ptr, rows, ok, H * E, e0, E, BE)
        dweight = _dot(dh, tl.trans(v), dweight, PRECISION)
    t = tl.arange(0, L)
    decay = tl.exp(tl.where(t[:, None] >= t[None, :], write[None, :] - top[:, None], NEVER)) * scale
    weight = weight * decay
    overlap = tl.load(overlap_ptr + gate_base + rows * H, mask=ok, other=0.0)
    floor = tl.exp(-(fade + top))
    denominator = tl.maximum(tl.abs(overlap), floor) + eps
    if ONE_CHUNK:
        rho = tl.sum(weight * dweight, 1) / denominator
        doverlap = _overlap_grad(rho, overlap, 1.0 / denominator, floor)
    else:
        doverlap = tl.load(doverlap_ptr + gate_base + rows * H, mask=ok, other=0.0)
    dweight = dweight / denominator[:, None] + doverlap[:, None]
    dlog = weight * dweight
    row, column = tl.sum(dlog, 1), tl.sum(dlog, 0)
    dscore = (dweight * decay).to(q_ptr.dtype.element_ty)
    weight = (weight / denominator[:, None]).to(q_ptr.dtype.element_ty)

    for f0 in tl.static_range(0, E, BE):
        dv = tl.zeros((L, BE), ACC)
        if not ONE_CHUNK:
            if n < N - 1:
                for e0 in tl.static_range(0, E, BE):
                    k = _load(k_ptr, rows, ok, H * E, e0, E, BE)
                    dmemory = _load_state(dmemory_ptr + after * E * E, e0, f0, E, BE).to(q_ptr.dtype.element_ty)
                    dv = _dot(k, dmemory, dv, PRECISION)
                dv = dv * written[:, None]
        dh = _load(dh_ptr, rows, ok, H * E, f0, E, BE)
        dv = _dot(tl.trans(weight), dh, dv, PRECISION)
        _store(dv_ptr + base, dv, rows, ok, H * E, f0, E, BE)

    from_past = tl.zeros((L,), ACC)
    to_future = tl.zeros((L,), ACC)
    across = tl.zeros((BE,), ACC)
    for e0 in tl.static_range(0, E, BE):
        q = _load(q_ptr, rows, ok, H * E, e0, E, BE)
        k = _load(k_ptr, rows, ok, H * E, e0, E, BE)
        dq = tl.zeros((L, BE), ACC)
        if not ONE_CHUNK:
            if n > 0:
                for f0 in tl.static_range(0, E, BE):
                    dh = _load(dh_ptr, rows, ok, H * E, f0, E, BE)
                    memory = _load_state(memory_ptr + before * E * E, e0, f0, E, BE).to(q_ptr.dtype.element_ty)
                    dq = _dot(dh, tl.trans(memory), dq, PRECISION)
                norm = _load_norm(norm_ptr + before * E, e0, E, BE, ACC)
                dq = (dq / denominator[:, None] + doverlap[:, None] * norm[None, :]) * carried[:, None]
                from_past += tl.sum(q.to(ACC) * dq, 1)
        dq = _dot(dscore, k, dq, PRECISION)
        _store(dq_ptr + base, dq, rows, ok, H * E, e0, E, BE)
        dk = tl.zeros((L, BE), ACC)
        if not ONE_CHUNK:
            if n < N - 1:
                for f0 in tl.static_range(0, E, BE):
                    v = _load(v_ptr, rows, ok, H * E, f0, E, BE)
                    dmemory = _load_state(dmemory_ptr + after * E * E, e0, f0, E, BE).to(q_ptr.dtype.element_ty)
                    dk = _dot(v, tl.trans(dmemory), dk, PRECISION)
                    if n > 0:
                        memory = _load_state(memory_ptr + before * E * E, e0, f0, E, BE).to(q_ptr.dtype.element_ty)
                        across += tl.sum(memory.to(ACC) * dmemory.to(ACC), 1)
                dnorm = _load_norm(dnorm_ptr + after * E, e0, E, BE, ACC)
                dk = (dk + dnorm[None, :]) * written[:, None]
                to_future += tl.sum(k.to(ACC) * dk, 1)
                if n > 0:
                    across += _load_norm(norm_ptr + before * E, e0, E, BE, ACC) * dnorm
        dk = _dot(tl.trans(dscore), q, dk, PRECISION)
        _store(dk_ptr + base, dk, rows, ok, H * E, e0, E, BE)

    dfade = tl.sum(across, 0) * tl.exp(start - last_top) + tl.cumsum(to_future, 0) - to_future
    dfade += tl.cumsum(from_past + row - column, 0, reverse=True)
    tl.store(di_ptr + gate_base + rows * H, column + to_future, ok)
    tl.store(df_ptr + gate_base + rows * H, dfade / (1.0 + tl.exp(f_logit)), ok)
