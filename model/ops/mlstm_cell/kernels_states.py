"""Triton kernels that carry the state of the mLSTM cell, and its gradient, from chunk to chunk.

One program walks through a segment, a run of consecutive chunks, with a tile of the state in registers. One segment is
the whole sequence if there are rows (R x B x H) enough to fill the GPU. Else a first pass (ENDS) finds what each segment
adds, a cheap kernel adds that up along the sequence, and the second pass starts every segment from the right state.

Program axes: 0 segment x tile of the state, 1 head, 2 direction and batch row. Letters and slots: see kernels.py.
"""
# ruff: noqa: SIM102 (a condition on a constant must stand alone, else the compiler keeps the branch)

import triton
import triton.language as tl

from model.ops.mlstm_cell.kernels import NEVER, _head, _load, _overlap_grad, _rows, _stabilisers, _store
from model.ops.products import dot


@triton.jit
def _tile(E: tl.constexpr, BE: tl.constexpr):
    """Segment of this program, and the first row and column of its tile of the state."""
    tiles: tl.constexpr = (E + BE - 1) // BE
    tile = tl.program_id(0) % (tiles * tiles)
    return tl.program_id(0) // (tiles * tiles), (tile // tiles) * BE, (tile % tiles) * BE


@triton.jit
def states_kernel(
    k_ptr, v_ptr, fade_ptr, write_ptr, memory0_ptr, norm0_ptr, start0_ptr, fade0_ptr, memory_ptr, norm_ptr, start_ptr,
    B, S, H, N, segments, chunks, SHARED: tl.constexpr, ENDS: tl.constexpr, E: tl.constexpr, L: tl.constexpr,
    BE: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Memory (E, E), normaliser (E,) and log scale that every chunk starts from.

    With ENDS: what each segment but the last adds to them, and its log fading, into the tensors numbered 0.
    """
    segment, e0, f0 = _tile(E, BE)
    h, r, b = tl.program_id(1), tl.program_id(2) // B, tl.program_id(2) % B
    base, head = _head(r, b, h, B, S, H, E)
    v_base = b.to(tl.int64) * S * H * E + h * E if SHARED else base
    e = e0 + tl.arange(0, BE)
    slot0 = head * (segments - 1) + segment

    carry = (segment > 0) & (not ENDS)
    start = tl.load(start0_ptr + slot0 - 1, mask=carry, other=NEVER)
    norm = tl.load(norm0_ptr + (slot0 - 1) * E + e, mask=(e < E) & carry, other=0.0)
    memory = _load(memory0_ptr + (slot0 - 1) * E * E, e, (e < E) & carry, E, f0, E, BE)
    total = start * 0.0
    for step in range(chunks):
        p = segment * chunks + step
        rows, ok = _rows(tl.where(r == 0, p, N - 1 - p), S, L)
        k = _load(k_ptr + base, rows, ok, H * E, e0, E, BE)
        v = _load(v_ptr + v_base, rows, ok, H * E, f0, E, BE)
        write = tl.load(write_ptr + head * S + rows, mask=ok, other=NEVER)
        last_fade = tl.min(tl.load(fade_ptr + head * S + rows, mask=ok, other=0.0), 0)
        top = tl.maximum(start, tl.max(write, 0))
        keep = tl.exp2(start - top)
        written = k.to(ACC) * tl.exp2(write - top)[:, None]
        memory = dot(tl.trans(written.to(k.dtype)), v, memory * keep)
        norm = norm * keep + tl.sum(written, 0)
        start = last_fade + top
        total += last_fade
        if not ENDS:
            there = p < N - 1
            slot = head * (N - 1) + p
            _store(memory_ptr + slot * E * E, memory, e, (e < E) & there, E, f0, E, BE)
            tl.store(norm_ptr + slot * E + e, norm, (e < E) & there & (f0 == 0))
            tl.store(start_ptr + slot, start, there & (e0 + f0 == 0))
    if ENDS:
        _store(memory0_ptr + slot0 * E * E, memory, e, e < E, E, f0, E, BE)
        tl.store(norm0_ptr + slot0 * E + e, norm, (e < E) & (f0 == 0))
        if e0 + f0 == 0:
            tl.store(start_ptr + slot0, start)
            tl.store(fade0_ptr + slot0, total)


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
        keep, add = tl.exp2(kept - start), tl.exp2(peak - start)
        memory = memory * keep + tl.load(memory_ptr + slot * E * E + x, x < E * E, 0.0) * add
        tl.store(memory_ptr + slot * E * E + x, memory, x < E * E)
        if tl.program_id(0) == 0:
            norm = norm * keep + tl.load(norm_ptr + slot * E + e, e < E, 0.0) * add
            tl.store(norm_ptr + slot * E + e, norm, e < E)
            tl.store(start_ptr + slot, start)


@triton.jit
def states_grad_kernel(
    q_ptr, h_ptr, dh_ptr, rho_ptr, fade_ptr, peak_ptr, start_ptr, overlap_ptr, doverlap_ptr, dmemory0_ptr, dnorm0_ptr,
    keep0_ptr, dmemory_ptr, dnorm_ptr, B, S, H, N, segments, chunks, RHO: tl.constexpr, ENDS: tl.constexpr,
    log_scale: tl.constexpr, eps: tl.constexpr, E: tl.constexpr, L: tl.constexpr, BE: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Gradients of every overlap, and of the memory and normaliser that every chunk but the first starts from.

    With RHO the sums of dh h are given, else they are made from h.
    With ENDS: what each segment adds to that of its first chunk, and by what it fades the rest, into those numbered 0.
    """
    segment, e0, f0 = _tile(E, BE)
    h, r, b = tl.program_id(1), tl.program_id(2) // B, tl.program_id(2) % B
    base, head = _head(r, b, h, B, S, H, E)
    e = e0 + tl.arange(0, BE)
    slot0 = head * (segments - 1) + segment

    carry = (segment < segments - 1) & (not ENDS)
    dnorm = tl.load(dnorm0_ptr + slot0 * E + e, mask=(e < E) & carry, other=0.0)
    dmemory = _load(dmemory0_ptr + slot0 * E * E, e, (e < E) & carry, E, f0, E, BE)
    log_keep = tl.sum(dnorm, 0) * 0.0
    for step in range(chunks):
        p = segment * chunks + chunks - 1 - step
        slot = head * (N - 1) + p - 1
        rows, ok = _rows(tl.where(r == 0, p, N - 1 - p), S, L)
        gate = head * S + rows
        q = _load(q_ptr + base, rows, ok, H * E, e0, E, BE)
        dh = _load(dh_ptr + base, rows, ok, H * E, f0, E, BE)
        start, _write, top, floor = _stabilisers(
            fade_ptr, peak_ptr, peak_ptr, start_ptr, gate, ok, slot, (p > 0) & (p < N)
        )
        overlap = tl.load(overlap_ptr + gate, mask=ok, other=0.0)
        if RHO:
            rho = tl.load(rho_ptr + gate, mask=ok, other=0.0)
        carried = tl.exp2(start - top + log_scale)
        fades = start - tl.maximum(start, tl.max(tl.where(ok, top, NEVER), 0))
        inverse = 1.0 / (tl.maximum(tl.abs(overlap), floor) + eps)
        read = q.to(ACC) * (carried * inverse)[:, None]
        dmemory = dot(tl.trans(read.to(q.dtype)), dh, dmemory * tl.exp2(fades))
        if f0 == 0:
            if not RHO:
                rho = tl.zeros((L,), ACC)
                for g0 in tl.static_range(0, E, BE):
                    if E > BE:
                        dh = _load(dh_ptr + base, rows, ok, H * E, g0, E, BE)
                    rho += tl.sum(dh.to(ACC) * _load(h_ptr + base, rows, ok, H * E, g0, E, BE).to(ACC), 1)
            doverlap = _overlap_grad(rho, overlap, inverse, floor)
            dnorm = dnorm * tl.exp2(fades) + tl.sum(q.to(ACC) * (carried * doverlap)[:, None], 0)
            tl.store(doverlap_ptr + gate, doverlap, ok & (e0 == 0))
        log_keep += fades
        if not ENDS:
            there = (p > 0) & (p < N)
            _store(dmemory_ptr + slot * E * E, dmemory, e, (e < E) & there, E, f0, E, BE)
            tl.store(dnorm_ptr + slot * E + e, dnorm, (e < E) & there & (f0 == 0))
    if ENDS:
        if segment > 0:
            _store(dmemory0_ptr + (slot0 - 1) * E * E, dmemory, e, e < E, E, f0, E, BE)
            tl.store(dnorm0_ptr + (slot0 - 1) * E + e, dnorm, (e < E) & (f0 == 0))
            if e0 + f0 == 0:
                tl.store(keep0_ptr + slot0 - 1, log_keep)


@triton.jit
def carry_grads_kernel(
    dmemory_ptr, dnorm_ptr, keep_ptr, segments, E: tl.constexpr, BLOCK: tl.constexpr, EP: tl.constexpr
):
    """Adds to each segment's gradient of its first state what the later segments contribute, in place. Axis 1: row."""
    row = tl.program_id(1).to(tl.int64) * (segments - 1)
    x = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    e = tl.arange(0, EP)
    dmemory = tl.load(dmemory_ptr + (row + segments - 2) * E * E + x, x < E * E, 0.0)
    dnorm = tl.load(dnorm_ptr + (row + segments - 2) * E + e, e < E, 0.0)
    for step in range(1, segments - 1):
        slot = row + segments - 2 - step
        keep = tl.exp2(tl.load(keep_ptr + slot))
        dmemory = dmemory * keep + tl.load(dmemory_ptr + slot * E * E + x, x < E * E, 0.0)
        tl.store(dmemory_ptr + slot * E * E + x, dmemory, x < E * E)
        if tl.program_id(0) == 0:
            dnorm = dnorm * keep + tl.load(dnorm_ptr + slot * E + e, e < E, 0.0)
            tl.store(dnorm_ptr + slot * E + e, dnorm, e < E)
