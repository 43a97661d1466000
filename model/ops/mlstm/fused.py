"""The kernels as PyTorch operators that torch.compile, autocast and DDP understand.

Shape letters: R directions, B batch, S frames, H heads, E channels of a head, N chunks, L frames of a chunk.
"""

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.ops.mlstm.kernels import grad_kernel, hidden_kernel
from model.ops.mlstm.kernels_scan import grad_scan_kernel, hidden_scan_kernel
from model.ops.mlstm.kernels_states import (
    carry_grads_kernel,
    carry_states_kernel,
    segment_grads_kernel,
    segment_states_kernel,
)

WANTED_PROGRAMS = 512
"""Rows (R x B x H) are cut into segments until there are about so many programs: four for each multiprocessor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How the work is cut; changes the speed, not the result."""

    scan: bool
    """One program walks through a segment with the state in registers; else one program a chunk."""
    chunk: int
    """Frames of a chunk (L), a power of two >= 16."""
    channels: int
    """Channels of a tile (all of a head's if scan), a power of two >= 16."""
    num_chunks: int
    chunks: int
    """Chunks of a segment."""
    hidden: tuple[int, int]
    """Warps and pipeline stages of the kernel of the hidden states."""
    grad: tuple[int, int]

    @property
    def segments(self):
        return triton.cdiv(self.num_chunks, self.chunks)


def plan(rows, length, dim):
    """The fastest plan measured (README.md) for `rows` sequences of `length` frames and heads of `dim` channels."""
    chunk = min(64, max(16, triton.next_power_of_2(length)))
    num_chunks = triton.cdiv(length, chunk)
    width = max(16, triton.next_power_of_2(dim))
    if num_chunks == 1 or width > 128:
        tile = min(64, width)
        return Plan(scan=False, chunk=chunk, channels=tile, num_chunks=num_chunks, chunks=1, hidden=(4, 1), grad=(4, 1))
    segments = min(num_chunks, max(1, WANTED_PROGRAMS // rows))
    launch = (4, 2) if width <= 64 else (8, 2)
    chunks = triton.cdiv(num_chunks, segments)
    return Plan(
        scan=True, chunk=chunk, channels=width, num_chunks=num_chunks, chunks=chunks, hidden=launch, grad=launch
    )


def _plan_of(q):
    directions, batch, length, heads, dim = q.shape
    return plan(directions * batch * heads, length, dim)


def _exact(q):
    return torch.promote_types(q.dtype, torch.float32)


def _common(q, cut, channels=None):
    """Keyword arguments that the kernels share; 32-bit products stay 32-bit (no tf32)."""
    acc = tl.float64 if q.dtype == torch.float64 else tl.float32
    return {"E": q.shape[-1], "L": cut.chunk, "BE": channels or cut.channels, "ACC": acc, "PRECISION": "ieee"}


def _math(q, eps):
    return {"scale": 1 / math.sqrt(q.shape[-1]), "eps": eps}


def _launch(setting):
    return {"num_warps": setting[0], "num_stages": setting[1]}


def _states(q, slots, dtype):
    """Empty memory (R, B, H, slots, E, E), normaliser (R, B, H, slots, E) and log scale (R, B, H, slots)."""
    directions, batch, _, heads, dim = q.shape
    shape = (directions, batch, heads, slots)
    exact = _exact(q)
    return (
        q.new_empty(*shape, dim, dim, dtype=dtype),
        q.new_empty(*shape, dim, dtype=exact),
        q.new_empty(shape, dtype=exact),
    )


def _carry_launch(q, cut):
    """Grid and constants of the two kernels that add up segments."""
    directions, batch, _, heads, dim = q.shape
    block = min(1024, triton.next_power_of_2(dim * dim))
    grid = (triton.cdiv(dim * dim, block), directions * batch * heads)
    return grid, {"E": dim, "BLOCK": block, "EP": triton.next_power_of_2(dim)}


def _segment_grid(q, cut, tile, segments):
    return segments * triton.cdiv(q.shape[-1], tile) ** 2, q.shape[3], q.shape[0] * q.shape[1]


def _segment_states(q, k, v, igate, fgate, cut):
    """States that segments 1 and later start from."""
    memory, norm, start = _states(q, cut.segments - 1, _exact(q))
    if cut.segments == 1:
        return memory, norm, start
    _, batch, length, heads, _ = q.shape
    peak, fade = torch.empty_like(start), torch.empty_like(start)
    tile = min(64, cut.channels)
    segment_states_kernel[_segment_grid(q, cut, tile, cut.segments - 1)](
        k, v, igate, fgate, memory, norm, peak, fade, batch, length, heads, cut.segments, cut.chunks, len(v),
        **_common(q, cut, tile), num_warps=4, num_stages=2,
    )  # fmt: skip
    grid, constants = _carry_launch(q, cut)
    carry_states_kernel[grid](memory, norm, peak, fade, start, cut.segments, **constants)
    return memory, norm, start


@torch.library.custom_op("raysys::mlstm", mutates_args=())
def mlstm_forward(
    q: Tensor, k: Tensor, v: Tensor, igate: Tensor, fgate: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, overlaps (R, B, S, H), and the states that chunks 1 to N - 1 start from. Contiguous inputs."""
    directions, batch, length, heads, _ = q.shape
    cut = _plan_of(q)
    h, overlap = torch.empty_like(q), q.new_empty(q.shape[:-1], dtype=_exact(q))
    states = _segment_states(q, k, v, igate, fgate, cut)
    sizes = (batch, length, heads, cut.num_chunks)
    common = _common(q, cut) | _math(q, eps) | _launch(cut.hidden)
    if not cut.scan:
        hidden_kernel[(cut.num_chunks, heads, directions * batch)](
            q, k, v, igate, fgate, *states, h, overlap, *sizes, len(v), ONE_CHUNK=cut.num_chunks == 1, **common
        )
        return h, overlap, *states
    saved = _states(q, cut.num_chunks - 1, q.dtype)
    hidden_scan_kernel[(cut.segments, heads, directions * batch)](
        q, k, v, igate, fgate, *states, h, overlap, *saved, *sizes, cut.segments, cut.chunks, len(v), **common
    )
    return h, overlap, *saved


@mlstm_forward.register_fake
def _(q, k, v, igate, fgate, eps):
    cut = _plan_of(q)
    saved = _states(q, cut.num_chunks - 1, q.dtype if cut.scan else _exact(q))
    return torch.empty_like(q), q.new_empty(q.shape[:-1], dtype=_exact(q)), *saved


def _segment_grads(q, igate, fgate, start, h, overlap, dh, eps, cut):
    """Gradients of the states that segments 1 and later start from, and of every overlap."""
    dmemory, dnorm, log_keep = _states(q, cut.segments - 1, _exact(q))
    doverlap = torch.empty_like(overlap)
    if cut.segments == 1:
        return dmemory, dnorm, doverlap
    _, batch, length, heads, _ = q.shape
    tile = min(64, cut.channels)
    segment_grads_kernel[_segment_grid(q, cut, tile, cut.segments)](
        q, igate, fgate, start, h, overlap, dh, dmemory, dnorm, doverlap, log_keep, batch, length, heads,
        cut.num_chunks, cut.segments, cut.chunks, **_math(q, eps), **_common(q, cut, tile), num_warps=4, num_stages=2,
    )  # fmt: skip
    grid, constants = _carry_launch(q, cut)
    carry_grads_kernel[grid](dmemory, dnorm, log_keep, cut.segments, **constants)
    return dmemory, dnorm, doverlap


@torch.library.custom_op("raysys::mlstm_grad", mutates_args=())
def mlstm_backward(
    q: Tensor, k: Tensor, v: Tensor, igate: Tensor, fgate: Tensor, eps: float, h: Tensor, overlap: Tensor,
    memory: Tensor, norm: Tensor, start: Tensor, dh: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, k, v (one for each direction) and both gates."""
    directions, batch, length, heads, _ = q.shape
    cut = _plan_of(q)
    grads = dq, dk, dv, di, df = tuple(torch.empty_like(x) for x in (q, q, q, igate, fgate))
    dmemory, dnorm, doverlap = _segment_grads(q, igate, fgate, start, h, overlap, dh, eps, cut)
    saved = (memory, norm, start, overlap, dh, dmemory, dnorm)
    sizes = (batch, length, heads, cut.num_chunks)
    common = _common(q, cut) | _math(q, eps) | _launch(cut.grad)
    if cut.scan:
        grad_scan_kernel[(cut.segments, heads, directions * batch)](
            q, k, v, igate, fgate, *saved, *grads, *sizes, cut.segments, cut.chunks, len(v), **common
        )
    else:
        grad_kernel[(cut.num_chunks, heads, directions * batch)](
            q, k, v, igate, fgate, *saved, doverlap, *grads, *sizes, len(v), ONE_CHUNK=cut.num_chunks == 1, **common
        )
    return dq, dk, dv, di, df


@mlstm_backward.register_fake
def _(q, k, v, igate, fgate, eps, h, overlap, memory, norm, start, dh):
    return tuple(torch.empty_like(x) for x in (q, q, q, igate, fgate))


def _setup(ctx, inputs, output):
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors, *output)


def _backward(ctx, dh, *_):
    q, k, v, igate, fgate, h, overlap, memory, norm, start = ctx.saved_tensors
    grads = mlstm_backward(q, k, v, igate, fgate, ctx.eps, h, overlap, memory, norm, start, dh.contiguous())
    dq, dk, dv, di, df = grads
    if len(v) < len(q):
        dv = dv.sum(0, keepdim=True)
    return dq, dk, dv, di, df, None


mlstm_forward.register_autograd(_backward, setup_context=_setup)


def mlstm_triton(q, k, v, igate, fgate, eps=1e-6):
    """Hidden states (R, B, S, H, E) by this project's kernels; see README.md beside this file."""
    igate, fgate = (x.to(_exact(q)) for x in (igate, fgate))
    return mlstm_forward(*(x.contiguous() for x in (q, k, v, igate, fgate)), eps)[0]
