"""Triton kernel of `mlstm_mixer` for heads of one tile: from the states of the cell to what the down-projection reads.

A program does one chunk of one head in all directions, so hidden states and queries, which are the convolved input, are
there for `head_norm_gate` when the cell is done with them. Letters and names as in model/ops/mlstm_cell/kernels.py.
"""

import triton
import triton.language as tl

from model.ops.head_norm_gate.kernels import normalise_head
from model.ops.mlstm_cell.kernels import (
    _head,
    _load,
    _load_norm,
    _load_state,
    _rows,
    _stabilisers,
    _store,
    hidden_of_chunk,
)
from model.ops.rowwise import sigmoid


@triton.jit
def hidden_norm_gate_kernel(
    a_ptr, k_ptr, v_ptr, z_ptr, fade_ptr, write_ptr, peak_ptr, memory_ptr, norm_ptr, start_ptr, weight_ptr, skip_ptr, h_ptr,
    overlap_ptr, y_ptr, B, S, H, N, z_stride, R: tl.constexpr, log_scale: tl.constexpr,
    eps: tl.constexpr, norm_eps: tl.constexpr, E: tl.constexpr, L: tl.constexpr, BE: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Hidden states of one chunk, their overlaps, and the gated sum over directions.

    Program axes: 0 head, 1 chunk, 2 batch row.
    """
    h, n, b = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    rows, ok = _rows(n, S, L)
    e = tl.arange(0, BE)
    there = ok[:, None] & (e < E)[None, :]
    first, _ = _head(0, b, h, B, S, H, E)
    v = _load(v_ptr + first, rows, ok, H * E, 0, E, BE)
    weight = 1.0 + tl.load(weight_ptr + h * E + e, mask=e < E, other=0.0).to(ACC)
    skip = tl.load(skip_ptr + h * E + e, mask=e < E, other=0.0).to(ACC)
    total = tl.zeros((L, BE), ACC)
    for r in tl.static_range(R):
        base, head = _head(r, b, h, B, S, H, E)
        p = n if r == 0 else N - 1 - n
        slot = head * (N - 1) + p - 1
        gate = head * S + rows
        a = _load(a_ptr + base, rows, ok, H * E, 0, E, BE)
        k = _load(k_ptr + base, rows, ok, H * E, 0, E, BE)
        memory = _load_state(memory_ptr + slot * E * E, 0, 0, p > 0, E, BE)
        norm = _load_norm(norm_ptr + slot * E, 0, p > 0, E, BE)
        start, write, top, floor = _stabilisers(fade_ptr, write_ptr, peak_ptr, start_ptr, gate, ok, slot, p > 0)
        out, overlap = hidden_of_chunk(a, k, v, memory, norm, start, write, top, floor, r, L, log_scale, eps, ACC)
        out = out.to(h_ptr.dtype.element_ty)
        tl.store(overlap_ptr + gate, overlap, ok)
        _store(h_ptr + base, out, rows, ok, H * E, 0, E, BE)
        normed, _inverse = normalise_head(out.to(ACC), there, E, norm_eps)
        total += normed * weight[None, :] + a.to(ACC) * skip[None, :]
    z = _load(z_ptr + b.to(tl.int64) * S * z_stride + h * E, rows, ok, z_stride, 0, E, BE).to(ACC)
    _store(y_ptr + first, total * z * sigmoid(z), rows, ok, H * E, 0, E, BE)
