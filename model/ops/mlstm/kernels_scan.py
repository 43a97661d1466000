"""Triton kernels that walk through a segment chunk by chunk with the state in registers: heads of up to 128 channels.

Every input is read once, while the chunk before is being worked on. The forward pass leaves the state that each chunk
starts from in memory for the backward pass, which walks from the end and carries the gradient of the state.

Program axes: 0 segment, 1 head, 2 direction and batch row. See kernels.py for the letters.
"""

import triton
import triton.language as tl

from model.ops.mlstm.kernels import (
    NEVER,
    _dot,
    _gates,
    _head,
    _larger,
    _load,
    _overlap_grad,
    _rows,
    _store,
)


@triton.jit
def hidden_scan_kernel(
    q_ptr, k_ptr, v_ptr, i_ptr, f_ptr, memory0_ptr, norm0_ptr, start0_ptr, h_ptr, overlap_ptr, memory_ptr, norm_ptr,
    start_ptr, B, S, H, N, segments, chunks, v_directions: tl.constexpr, scale: tl.constexpr, eps: tl.constexpr,
    E: tl.constexpr, L: tl.constexpr, BE: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Hidden states and overlaps of one segment, and the state that each of its chunks starts from."""
    segment, h, r_b = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    base, gate_base, head = _head(r_b, h, B, S, H, E)
    v_base = base if v_directions == 2 else (r_b % B).to(tl.int64) * S * H * E + h * E
    e = tl.arange(0, BE)
    t = tl.arange(0, L)

    slot0 = head * (segments - 1) + segment - 1
    start = tl.load(start0_ptr + slot0, mask=segment > 0, other=NEVER)
    norm = tl.load(norm0_ptr + slot0 * E + e, mask=(e < E) & (segment > 0), other=0.0)
    memory = _load(memory0_ptr + slot0 * E * E, e, (e < E) & (segment > 0), E, 0, E, BE)
    for step in tl.range(chunks):
        n = segment * chunks + step
        rows, ok = _rows(n, r_b // B, S, L)
        q = _load(q_ptr + base, rows, ok, H * E, 0, E, BE)
        k = _load(k_ptr + base, rows, ok, H * E, 0, E, BE)
        v = _load(v_ptr + v_base, rows, ok, H * E, 0, E, BE)
        fade, write, _logit = _gates(i_ptr + gate_base, f_ptr + gate_base, rows, ok, H, ACC)
        slot = head * (N - 1) + n - 1
        there = (e < E) & (n > 0) & (n < N)
        _store(memory_ptr + slot * E * E, memory, e, there, E, 0, E, BE)
        tl.store(norm_ptr + slot * E + e, norm, there)
        tl.store(start_ptr + slot, start, (n > 0) & (n < N))

        top = tl.maximum(start, tl.associative_scan(write, 0, _larger))
        last_top = tl.max(top, 0)
        carried = tl.exp(start - top) * scale
        weight = _dot(q, tl.trans(k), tl.zeros((L, L), ACC), PRECISION)
        weight *= tl.exp(tl.where(t[:, None] >= t[None, :], write[None, :] - top[:, None], NEVER)) * scale
        overlap = tl.sum(q.to(ACC) * norm[None, :], 1) * carried + tl.sum(weight, 1)
        denominator = tl.maximum(tl.abs(overlap), tl.exp(-(fade + top))) + eps
        tl.store(overlap_ptr + gate_base + rows * H, overlap, ok)
        out = _dot(q, memory.to(q.dtype), tl.zeros((L, BE), ACC), PRECISION) * carried[:, None]
        out = _dot(weight.to(v.dtype), v, out, PRECISION) / denominator[:, None]
        _store(h_ptr + base, out, rows, ok, H * E, 0, E, BE)

        keep = tl.exp(start - last_top)
        written = k.to(ACC) * tl.exp(write - last_top)[:, None]
        memory = _dot(tl.trans(written.to(k.dtype)), v, memory * keep, PRECISION)
        norm = norm * keep + tl.sum(written, 0)
        start = tl.min(fade, 0) + last_top


@triton.jit
def grad_scan_kernel(
    q_ptr, k_ptr, v_ptr, i_ptr, f_ptr, memory_ptr, norm_ptr, start_ptr, overlap_ptr, dh_ptr, dmemory0_ptr, dnorm0_ptr,
    dq_ptr, dk_ptr, dv_ptr, di_ptr, df_ptr, B, S, H, N, segments, chunks, v_directions: tl.constexpr,
    scale: tl.constexpr, eps: tl.constexpr,
    E: tl.constexpr, L: tl.constexpr, BE: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of one segment: queries, keys, values and both gates."""
    segment, h, r_b = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    base, gate_base, head = _head(r_b, h, B, S, H, E)
    v_base = base if v_directions == 2 else (r_b % B).to(tl.int64) * S * H * E + h * E
    e = tl.arange(0, BE)
    t = tl.arange(0, L)

    slot0 = head * (segments - 1) + segment
    later = (e < E) & (segment < segments - 1)
    dnorm = tl.load(dnorm0_ptr + slot0 * E + e, mask=later, other=0.0)
    dmemory = _load(dmemory0_ptr + slot0 * E * E, e, later, E, 0, E, BE)
    for step in tl.range(chunks):
        n = segment * chunks + chunks - 1 - step
        rows, ok = _rows(n, r_b // B, S, L)
        q = _load(q_ptr + base, rows, ok, H * E, 0, E, BE)
        k = _load(k_ptr + base, rows, ok, H * E, 0, E, BE)
        v = _load(v_ptr + v_base, rows, ok, H * E, 0, E, BE)
        dh = _load(dh_ptr + base, rows, ok, H * E, 0, E, BE)
        slot = head * (N - 1) + n - 1
        there = (e < E) & (n > 0) & (n < N)
        memory = _load(memory_ptr + slot * E * E, e, there, E, 0, E, BE)
        norm = tl.load(norm_ptr + slot * E + e, mask=there, other=0.0)
        start = tl.load(start_ptr + slot, mask=(n > 0) & (n < N), other=NEVER)
        overlap = tl.load(overlap_ptr + gate_base + rows * H, mask=ok, other=0.0)
        fade, write, f_logit = _gates(i_ptr + gate_base, f_ptr + gate_base, rows, ok, H, ACC)

        top = tl.maximum(start, tl.associative_scan(write, 0, _larger))
        last_top = tl.max(top, 0)
        carried = tl.exp(start - top) * scale
        written = tl.exp(write - last_top)
        keep = tl.exp(start - last_top)
        floor = tl.exp(-(fade + top))
        inverse = 1.0 / (tl.maximum(tl.abs(overlap), floor) + eps)

        decay = tl.exp(tl.where(t[:, None] >= t[None, :], write[None, :] - top[:, None], NEVER)) * scale
        weight = _dot(q, tl.trans(k), tl.zeros((L, L), ACC), PRECISION) * decay
        dweight = _dot(dh, tl.trans(v), tl.zeros((L, L), ACC), PRECISION)
        dq = _dot(dh, tl.trans(memory), tl.zeros((L, BE), ACC), PRECISION)
        rho = (tl.sum(weight * dweight, 1) + tl.sum(q.to(ACC) * dq, 1) * carried) * inverse
        doverlap = _overlap_grad(rho, overlap, inverse, floor)
        dweight = dweight * inverse[:, None] + doverlap[:, None]
        dlog = weight * dweight
        from_past = tl.sum(dlog, 1)
        column = tl.sum(dlog, 0)
        dscore = (dweight * decay).to(q.dtype)

        past = (dq * inverse[:, None] + doverlap[:, None] * norm[None, :]) * carried[:, None]
        from_past += tl.sum(q.to(ACC) * past, 1)
        dq = _dot(dscore, k, past, PRECISION)
        _store(dq_ptr + base, dq, rows, ok, H * E, 0, E, BE)

        below = dmemory.to(q.dtype)
        dv = _dot(k, below, tl.zeros((L, BE), ACC), PRECISION) * written[:, None]
        dv = _dot(tl.trans((weight * inverse[:, None]).to(q.dtype)), dh, dv, PRECISION)
        _store(dv_ptr + base, dv, rows, ok, H * E, 0, E, BE)
        dk = _dot(v, tl.trans(below), tl.zeros((L, BE), ACC), PRECISION)
        dk = (dk + dnorm[None, :]) * written[:, None]
        to_future = tl.sum(k.to(ACC) * dk, 1)
        dk = _dot(tl.trans(dscore), q, dk, PRECISION)
        _store(dk_ptr + base, dk, rows, ok, H * E, 0, E, BE)

        across = tl.sum(tl.sum(memory.to(ACC) * dmemory, 1), 0) + tl.sum(norm * dnorm, 0)
        dfade = across * keep + tl.cumsum(to_future, 0) - to_future
        dfade += tl.cumsum(from_past - column, 0, reverse=True)
        tl.store(di_ptr + gate_base + rows * H, column + to_future, ok)
        tl.store(df_ptr + gate_base + rows * H, dfade / (1.0 + tl.exp(f_logit)), ok)

        read = (q.to(ACC) * (carried * inverse)[:, None]).to(q.dtype)
        dmemory = _dot(tl.trans(read), dh, dmemory * keep, PRECISION)
        dnorm = dnorm * keep + tl.sum(q.to(ACC) * (carried * doverlap)[:, None], 0)
