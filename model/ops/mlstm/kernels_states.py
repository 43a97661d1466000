"""Triton kernels that carry states from one segment of the sequence to the next.

A segment is a run of chunks that one program walks through. Its own contribution to the state is computed for all
segments at once; a second kernel, cheap, then adds them up along the sequence.

Program axes: 0 segment x tile of the state, 1 head, 2 direction and batch row. See kernels.py for the letters.
"""

import triton
import triton.language as tl

from model.ops.mlstm.kernels import NEVER, _dot, _gates, _head, _larger, _load, _overlap_grad, _rows


@triton.jit
def _tile(E: tl.constexpr, BE: tl.constexpr):
    """Segment of this program, and the first row and column of its tile of the state."""
    tiles = tl.cdiv(E, BE)
    tile = tl.program_id(0) % (tiles * tiles)
    return tl.program_id(0) // (tiles * tiles), (tile // tiles) * BE, (tile % tiles) * BE


@triton.jit
def segment_states_kernel(
    k_ptr, v_ptr, i_ptr, f_ptr, memory_ptr, norm_ptr, peak_ptr, fade_ptr, B, S, H, segments, chunks,
    v_directions: tl.constexpr,
    E: tl.constexpr, L: tl.constexpr, BE: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What each segment but the last adds to memory and normaliser, its log scale, and its total log fading."""
    segment, e0, f0 = _tile(E, BE)
    h, r_b = tl.program_id(1), tl.program_id(2)
    base, gate_base, head = _head(r_b, h, B, S, H, E)
    v_base = base if v_directions == 2 else (r_b % B).to(tl.int64) * S * H * E + h * E
    e = e0 + tl.arange(0, BE)
    f = f0 + tl.arange(0, BE)

    memory = tl.zeros((BE, BE), ACC)
    norm = tl.zeros((BE,), ACC)
    peak = tl.max(tl.full((L,), NEVER, ACC), 0)
    total = peak * 0.0
    for step in range(chunks):
        rows, ok = _rows(segment * chunks + step, r_b // B, S, L)
        k = _load(k_ptr + base, rows, ok, H * E, e0, E, BE)
        v = _load(v_ptr + v_base, rows, ok, H * E, f0, E, BE)
        fade, write, _logit = _gates(i_ptr + gate_base, f_ptr + gate_base, rows, ok, H, ACC)
        top = tl.maximum(peak, tl.max(write, 0))
        written = k.to(ACC) * tl.exp(write - top)[:, None]
        memory = _dot(tl.trans(written.to(k.dtype)), v, memory * tl.exp(peak - top), PRECISION)
        norm = norm * tl.exp(peak - top) + tl.sum(written, 0)
        last = tl.min(fade, 0)
        peak = last + top
        total += last
    slot = head * (segments - 1) + segment
    mask = (e < E)[:, None] & (f < E)[None, :]
    tl.store(memory_ptr + slot * E * E + e[:, None] * E + f[None, :], memory, mask)
    if f0 == 0:
        tl.store(norm_ptr + slot * E + e, norm, e < E)
    if e0 + f0 == 0:
        tl.store(peak_ptr + slot, peak)
        tl.store(fade_ptr + slot, total)


@triton.jit
def carry_states_kernel(
    memory_ptr, norm_ptr, peak_ptr, fade_ptr, start_ptr, segments,
    E: tl.constexpr, BLOCK: tl.constexpr, EP: tl.constexpr,
):  # fmt: skip
    """Turns what each segment adds into the state after it, in place, and stores its log scale. Axis 1: row."""
    row = tl.program_id(1).to(tl.int64) * (segments - 1)
    x = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    e = tl.arange(0, EP)
    memory = tl.load(memory_ptr + row * E * E + x, x < E * E, 0.0)
    norm = tl.load(norm_ptr + row * E + e, e < E, 0.0)
    start = tl.load(peak_ptr + row)
    if tl.program_id(0) == 0:
        tl.store(start_ptr + row, start)
    for segment in range(1, segments - 1):
        slot = row + segment
        peak = tl.load(peak_ptr + slot)
        kept = tl.load(fade_ptr + slot) + start
        start = tl.maximum(kept, peak)
        keep, add = tl.exp(kept - start), tl.exp(peak - start)
        memory = memory * keep + tl.load(memory_ptr + slot * E * E + x, x < E * E, 0.0) * add
        tl.store(memory_ptr + slot * E * E + x, memory, x < E * E)
        if tl.program_id(0) == 0:
            norm = norm * keep + tl.load(norm_ptr + slot * E + e, e < E, 0.0) * add
            tl.store(norm_ptr + slot * E + e, norm, e < E)
            tl.store(start_ptr + slot, start)


@triton.jit
def segment_grads_kernel(
    q_ptr, i_ptr, f_ptr, start_ptr, h_ptr, overlap_ptr, dh_ptr, dmemory_ptr, dnorm_ptr, doverlap_ptr, keep_ptr,
    B, S, H, N, segments, chunks, scale: tl.constexpr, eps: tl.constexpr,
    E: tl.constexpr, L: tl.constexpr, BE: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What each segment adds to the gradient of the state that it starts from, and the gradient of every overlap."""
    segment, e0, f0 = _tile(E, BE)
    h, r_b = tl.program_id(1), tl.program_id(2)
    base, gate_base, head = _head(r_b, h, B, S, H, E)
    e = e0 + tl.arange(0, BE)
    f = f0 + tl.arange(0, BE)

    dmemory = tl.zeros((BE, BE), ACC)
    dnorm = tl.zeros((BE,), ACC)
    log_keep = tl.max(tl.zeros((L,), ACC), 0)
    for step in range(chunks):
        n = segment * chunks + chunks - 1 - step
        rows, ok = _rows(n, r_b // B, S, L)
        q = _load(q_ptr + base, rows, ok, H * E, e0, E, BE)
        dh = _load(dh_ptr + base, rows, ok, H * E, f0, E, BE)
        fade, write, _logit = _gates(i_ptr + gate_base, f_ptr + gate_base, rows, ok, H, ACC)
        start = tl.load(start_ptr + head * (N - 1) + n - 1, mask=(n > 0) & (n < N), other=NEVER)
        top = tl.maximum(start, tl.associative_scan(write, 0, _larger))
        overlap = tl.load(overlap_ptr + gate_base + rows * H, mask=ok, other=0.0)
        floor = tl.exp(-(fade + top))
        denominator = tl.maximum(tl.abs(overlap), floor) + eps
        carried = tl.exp(start - top) * scale
        keep = start - tl.max(top, 0)
        read = q.to(ACC) * (carried / denominator)[:, None]
        dmemory = _dot(tl.trans(read.to(q.dtype)), dh, dmemory * tl.exp(keep), PRECISION)
        log_keep += keep
        if f0 == 0:
            rho = tl.zeros((L,), ACC)
            for g0 in tl.static_range(0, E, BE):
                dh_g = _load(dh_ptr + base, rows, ok, H * E, g0, E, BE)
                rho += tl.sum(dh_g.to(ACC) * _load(h_ptr + base, rows, ok, H * E, g0, E, BE).to(ACC), 1)
            doverlap = _overlap_grad(rho, overlap, 1.0 / denominator, floor)
            dnorm = dnorm * tl.exp(keep) + tl.sum(q.to(ACC) * (carried * doverlap)[:, None], 0)
            if e0 == 0:
                tl.store(doverlap_ptr + gate_base + rows * H, doverlap, ok)
    if segment > 0:
        slot = head * (segments - 1) + segment - 1
        mask = (e < E)[:, None] & (f < E)[None, :]
        tl.store(dmemory_ptr + slot * E * E + e[:, None] * E + f[None, :], dmemory, mask)
        if f0 == 0:
            tl.store(dnorm_ptr + slot * E + e, dnorm, e < E)
        if e0 + f0 == 0:
            tl.store(keep_ptr + slot, log_keep)


@triton.jit
def carry_grads_kernel(
    dmemory_ptr, dnorm_ptr, keep_ptr, segments, E: tl.constexpr, BLOCK: tl.constexpr, EP: tl.constexpr
):
    """Adds to each segment's gradient of its first state what the later segments contribute, in place."""
    row = tl.program_id(1).to(tl.int64) * (segments - 1)
    x = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    e = tl.arange(0, EP)
    dmemory = tl.load(dmemory_ptr + (row + segments - 2) * E * E + x, x < E * E, 0.0)
    dnorm = tl.load(dnorm_ptr + (row + segments - 2) * E + e, e < E, 0.0)
    for step in range(1, segments - 1):
        slot = row + segments - 2 - step
        keep = tl.exp(tl.load(keep_ptr + slot))
        dmemory = dmemory * keep + tl.load(dmemory_ptr + slot * E * E + x, x < E * E, 0.0)
        tl.store(dmemory_ptr + slot * E * E + x, dmemory, x < E * E)
        if tl.program_id(0) == 0:
            dnorm = dnorm * keep + tl.load(dnorm_ptr + slot * E + e, e < E, 0.0)
            tl.store(dnorm_ptr + slot * E + e, dnorm, e < E)
