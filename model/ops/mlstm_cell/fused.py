"""The kernels as PyTorch operators that torch.compile, autocast and DDP understand.

Shape letters: R directions, B batch, S frames, H heads, E channels of a head, N chunks, L frames of a chunk.
"""

import math
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from model.ops.device import require_gpu, shared_memory_of
from model.ops.launch import settings
from model.ops.mlstm_cell.kernels import gates_grad_kernel, gates_kernel, grad_kernel, hidden_kernel
from model.ops.mlstm_cell.kernels_pairs import hidden_pairs_kernel, keys_grad_kernel, queries_grad_kernel
from model.ops.mlstm_cell.kernels_states import (
    carry_grads_kernel,
    carry_states_kernel,
    states_grad_kernel,
    states_kernel,
)
from model.ops.partial_sums import sum_parts
from model.ops.precision import sum_dtype, sum_type

ROOMY = 120_000
"""Bytes of shared memory that are enough for the gradient kernel's largest tiles; an A10, L4 or RTX 4090 gives less."""
WANTED_PROGRAMS = 512
"""Rows (R x B x H) are cut into segments until there are about so many programs: four for each multiprocessor."""
FEW, WIDE = 4, 128
"""Sequences of 2 to FEW chunks and heads of at least WIDE channels: all pairs of frames cost less than states do.
In 16 bits only: products of fp32 are no matrix instructions, and want more registers than there are."""


GATE_WARPS = 4
"""Of the kernels for gates, which scan 64 frames of every head."""


@dataclass(frozen=True, slots=True)
class CellLaunch:
    """How one kernel is launched."""

    tile: int
    """Channels of a tile, a power of two >= 16."""
    warps: int = 4
    stages: int = 1
    registers: int | None = None
    """Most registers a thread may use; fewer let more programs share a multiprocessor."""
    early: bool = False
    """Whether everything that a chunk needs is loaded first, for heads of one tile."""
    part: int = 32
    """Most keys (or queries) that a kernel over pairs takes at once, a power of two >= 16."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairs:
    """How the kernels over all pairs of frames are launched."""

    hidden: CellLaunch
    queries_grad: CellLaunch
    keys_grad: CellLaunch


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How the work is cut; changes the speed, not the result."""

    chunk: int
    """Frames of a chunk (L), a power of two >= 16."""
    num_chunks: int
    chunks: int
    """Chunks of a segment."""
    hidden: CellLaunch
    grad: CellLaunch
    states: CellLaunch
    states_grad: CellLaunch
    pairs: Pairs | None = None
    """None if the chunks carry a state."""

    @property
    def segments(self):
        return triton.cdiv(self.num_chunks, self.chunks)


def plan(rows, length, dim, element_size=2, shared_memory=math.inf):
    """The fastest plan measured (README.md) that fits.

    Args:
        rows: sequences.
        length: their frames.
        dim: channels of a head.
        element_size: bytes of an element of q.
        shared_memory: bytes of it that a program may use.
    """
    chunk = min(64, max(16, triton.next_power_of_2(length)))
    num_chunks = triton.cdiv(length, chunk)
    width = max(16, triton.next_power_of_2(dim))
    segments = min(num_chunks, max(1, WANTED_PROGRAMS // rows))
    most = 128 if element_size == 2 else 64
    early = element_size == 2 and width <= 64
    four = 128 if early else None  # registers with which four programs share a multiprocessor
    cramped = shared_memory < ROOMY and (width == 128 or element_size > 2)
    return Plan(
        chunk=chunk,
        num_chunks=num_chunks,
        chunks=triton.cdiv(num_chunks, segments),
        hidden=CellLaunch(width if width <= most else 64, registers=four, early=early),
        grad=CellLaunch(max(16, min(most, width) // (2 if cramped else 1)), early=early),
        states=CellLaunch(min(most, width), registers=four),
        states_grad=CellLaunch(min(most, width), registers=four),
        pairs=_pairs(width) if element_size == 2 and 2 <= num_chunks <= FEW and dim >= WIDE else None,
    )


def _pairs(width):
    if width > 128:
        # With more tiles than one, more in flight takes too much shared memory.
        return Pairs(**dict.fromkeys(("hidden", "queries_grad", "keys_grad"), CellLaunch(128)))
    return Pairs(
        hidden=CellLaunch(width, part=64),
        queries_grad=CellLaunch(width, stages=2, registers=168),
        keys_grad=CellLaunch(width, stages=3),
    )


def plan_of(q):
    """The plan for queries (R, B, S, H, E)."""
    directions, batch, length, heads, dim = q.shape
    return plan(directions * batch * heads, length, dim, q.element_size(), shared_memory_of(q.device))


def constants_of(q, cut, launch):
    """Sizes of tiles and settings of a launch."""
    acc = sum_type(q)
    constants = {"E": q.shape[-1], "L": cut.chunk, "BE": launch.tile, "ACC": acc}
    return constants | settings(launch.warps, launch.stages, launch.registers)


def scale_and_eps(q, eps):
    """Log scale of the scores, and what is added to denominators."""
    return {"log_scale": -0.5 * math.log2(q.shape[-1]), "eps": eps}


def _states(q, slots, dtype, scales=None):
    """Empty memory (R, B, H, slots, E, E), normaliser (R, B, H, slots, E) and log scale (R, B, H, `scales`, else slots)."""
    directions, batch, _, heads, dim = q.shape
    shape = (directions, batch, heads)
    return (
        q.new_empty(*shape, slots, dim, dim, dtype=dtype),
        q.new_empty(*shape, slots, dim, dtype=sum_dtype(q)),
        q.new_empty(*shape, slots if scales is None else scales, dtype=sum_dtype(q)),
    )


def saved_states(q, cut):
    """Empty memory, normaliser and log scale that every chunk but the first starts from; of pairs the log scale alone."""
    return _states(q, 0 if cut.pairs else cut.num_chunks - 1, q.dtype, cut.num_chunks - 1)


def _carry(kernel, q, segments, *tensors):
    """Runs one of the kernels that add up segments."""
    directions, batch, _, heads, dim = q.shape
    block = min(1024, triton.next_power_of_2(dim * dim))
    grid = (triton.cdiv(dim * dim, block), directions * batch * heads)
    kernel[grid](*tensors, segments, E=dim, BLOCK=block, EP=triton.next_power_of_2(dim))


def _chunk_states(q, k, v, fade, write, cut):
    """Memory, normaliser and log scale that every chunk but the first starts from."""
    directions, batch, length, heads, dim = q.shape
    saved = saved_states(q, cut)
    if cut.num_chunks == 1:
        return saved
    memory0, norm0, start0 = _states(q, cut.segments - 1, sum_dtype(q))
    peak0, fade0 = torch.empty_like(start0), torch.empty_like(start0)
    tiles = triton.cdiv(dim, cut.states.tile) ** 2

    def run(ends, segments, start):
        states_kernel[(segments * tiles, heads, directions * batch)](
            k, v, fade, write, memory0, norm0, start0, fade0, *saved[:2], start, batch, length, heads, cut.num_chunks,
            cut.segments, cut.chunks, SHARED=len(v) == 1, ENDS=ends, **constants_of(q, cut, cut.states),
        )  # fmt: skip

    if cut.segments > 1:
        run(True, cut.segments - 1, peak0)
        _carry(carry_states_kernel, q, cut.segments, memory0, norm0, peak0, fade0, start0)
    run(False, cut.segments, saved[2])
    return saved


def pair_constants(q, cut, launch):
    """The same for a kernel over all pairs of frames."""
    return constants_of(q, cut, launch) | {"PART": min(launch.part, cut.chunk)}


def _hidden_pairs(q, k, v, h, gates, eps, cut):
    """Fills h and the overlaps by all pairs of frames; returns what is saved in place of states."""
    directions, batch, length, heads, dim = q.shape
    overlap, fade, write, peak = gates
    saved = saved_states(q, cut)
    tiles = triton.cdiv(dim, cut.pairs.hidden.tile)
    hidden_pairs_kernel[(cut.num_chunks * directions * tiles, heads, batch)](
        q, k, v, fade, write, peak, saved[2], h, overlap, batch, length, heads, cut.num_chunks, R=directions,
        SHARED=len(v) == 1, MOST=triton.next_power_of_2(cut.num_chunks), **scale_and_eps(q, eps),
        **pair_constants(q, cut, cut.pairs.hidden),
    )  # fmt: skip
    return saved


def outputs(q):
    """Empty hidden states; overlaps and gates (4, R, B, H, S); states that chunks start from."""
    return torch.empty_like(q), _gates(q), *saved_states(q, plan_of(q))


def _gates(q):
    directions, batch, length, heads, _ = q.shape
    return q.new_empty(4, directions, batch, heads, length, dtype=sum_dtype(q))


def _gate_launch(q, cut):
    """Programs of the two kernels for gates, and their constants."""
    directions, batch, _, heads, _ = q.shape
    acc = constants_of(q, cut, cut.hidden)["ACC"]
    constants = {"L": cut.chunk, "HP": triton.next_power_of_2(heads), "ACC": acc, "num_warps": GATE_WARPS}
    return (cut.num_chunks, directions * batch), constants


def cell_states(q, k, v, igate, fgate, bias=None, cap=0.0):
    """What comes before hidden states: capped gates, where they come in shares, the gates of `outputs`, and its states.

    Gates are (R, B, S, H), or shares of them (P, R, B, S, H) without their bias (2 H,), views of one tensor; capped ones are
    (2, R, B, S, H). States are None where the cell goes over all pairs of frames.
    """
    require_gpu(q)
    _, batch, length, heads, _ = q.shape
    cut = plan_of(q)
    gates = _gates(q)
    overlap, fade, write, peak = gates
    capped = None if bias is None else gates.new_empty(2, *q.shape[:-1])
    programs, constants = _gate_launch(q, cut)
    gates_kernel[programs](
        igate, fgate, bias, capped, fade, write, peak, igate.stride(0), batch, length, heads, cut.num_chunks,
        overlap.numel(), SHARES=0 if bias is None else len(igate), CAP=cap, **constants,
    )  # fmt: skip
    return capped, gates, None if cut.pairs else _chunk_states(q, k, v, fade, write, cut)


def cell_forward(q, k, v, igate, fgate, eps, bias=None, cap=0.0):
    """Capped gates, where they come in shares, then as `outputs`; contiguous inputs, gates as of `cell_states`."""
    directions, batch, length, heads, _ = q.shape
    cut = plan_of(q)
    h = torch.empty_like(q)
    capped, gates, states = cell_states(q, k, v, igate, fgate, bias, cap)
    overlap, *scales = gates
    if cut.pairs:
        states = _hidden_pairs(q, k, v, h, gates, eps, cut)
    else:
        hidden_kernel[(cut.num_chunks * directions, heads, batch)](
            q, k, v, *scales, *states, h, overlap, batch, length, heads, cut.num_chunks, R=directions,
            SHARED=len(v) == 1, ONE_CHUNK=cut.num_chunks == 1, EARLY=cut.hidden.early, **scale_and_eps(q, eps),
            **constants_of(q, cut, cut.hidden),
        )  # fmt: skip
    return capped, h, gates, *states


@torch.library.custom_op("raysys::mlstm_cell", mutates_args=())
def mlstm_cell_forward(
    q: Tensor, k: Tensor, v: Tensor, igate: Tensor, fgate: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Hidden states; overlaps and gates (4, R, B, H, S); the states that chunks start from. Contiguous inputs."""
    return cell_forward(q, k, v, igate, fgate, eps)[1:]


@mlstm_cell_forward.register_fake
def _(q, k, v, igate, fgate, eps):
    return outputs(q)


def _chunk_state_grads(q, h, dh, rho, gates, start, eps, cut):
    """Gradients of every overlap, and of memory and normaliser that every chunk but the first starts from."""
    directions, batch, length, heads, dim = q.shape
    dmemory, dnorm, _ = _states(q, cut.num_chunks - 1, q.dtype)
    overlap, fade, _, peak = gates
    doverlap = torch.empty_like(overlap)
    if cut.num_chunks == 1:
        return doverlap, dmemory, dnorm
    ends = _states(q, cut.segments - 1, sum_dtype(q))
    tiles = triton.cdiv(dim, cut.states_grad.tile) ** 2

    def run(only_ends):
        states_grad_kernel[(cut.segments * tiles, heads, directions * batch)](
            q, h, dh, rho, fade, peak, start, overlap, doverlap, *ends, dmemory, dnorm, batch, length, heads,
            cut.num_chunks, cut.segments, cut.chunks, RHO=rho is not None, ENDS=only_ends, **scale_and_eps(q, eps),
            **constants_of(q, cut, cut.states_grad),
        )  # fmt: skip

    if cut.segments > 1:
        run(True)
        _carry(carry_grads_kernel, q, cut.segments, *ends)
    run(False)
    return doverlap, dmemory, dnorm


def _chunk_grads(inputs, states, h, dh, rho, gates, eps, cut, grads):
    """Fills the gradients of q, k and v chunk by chunk; returns sums of dlog: `inside`, `column`, `future` and `across`."""
    q, _k, v = inputs
    directions, batch, length, heads, _ = q.shape
    overlap, fade, write, peak = gates
    sums = *torch.empty_like(gates[1:]), overlap.new_empty(directions, batch, heads, cut.num_chunks)
    shared = len(v) == 1
    doverlap, *state_grads = _chunk_state_grads(q, h, dh, rho, gates, states[2], eps, cut)
    for r in range(directions):
        grad_kernel[(cut.num_chunks, heads, batch)](
            *inputs, fade, write, peak, *states, overlap, doverlap, dh, *state_grads, *grads, *sums, r, batch, length,
            heads, cut.num_chunks, SHARED=shared, ADD=shared and r > 0, ONE_CHUNK=cut.num_chunks == 1,
            EARLY=cut.grad.early, **scale_and_eps(q, eps), **constants_of(q, cut, cut.grad),
        )  # fmt: skip
    return sums


def _pair_grads(inputs, start, h, dh, rho, gates, eps, cut, grads):
    """Fills the gradients of q, k and v by all pairs of frames; returns the same sums of dlog."""
    q, _k, v = inputs
    directions, batch, length, heads, dim = q.shape
    overlap, fade, write, peak = gates
    dq, dk, dv = grads
    of_queries = overlap.new_empty(6, *overlap.shape)
    sums = torch.empty_like(gates[1:])
    across = overlap.new_empty(cut.num_chunks, directions, batch, heads, cut.num_chunks)
    sizes = (batch, length, heads, cut.num_chunks)
    constants = {"R": directions, "SHARED": len(v) == 1, "log_scale": scale_and_eps(q, eps)["log_scale"]}

    launch = cut.pairs.queries_grad
    queries_grad_kernel[(cut.num_chunks * directions * triton.cdiv(dim, launch.tile), heads, batch)](
        *inputs, fade, write, peak, start, overlap, h, dh, rho, *of_queries, across, dq, *sizes, eps=eps,
        RHO=rho is not None, MOST=triton.next_power_of_2(cut.num_chunks), **constants,
        **pair_constants(q, cut, launch),
    )  # fmt: skip
    launch = cut.pairs.keys_grad
    keys_grad_kernel[(cut.num_chunks * len(v) * triton.cdiv(dim, launch.tile), heads, batch)](
        *inputs, fade, write, start, *of_queries, dh, dk, dv, *sums, *sizes, **constants,
        **pair_constants(q, cut, launch),
    )  # fmt: skip
    return *sums, sum_parts(across)


def cell_backward(q, k, v, igate, fgate, eps, h, gates, memory, norm, start, dh, di, df, cap=0.0, rho=None):
    """Gradients of q, k and v; fills those of both gates, before their cap, (R, B, S, H) but for a row stride.

    `rho` (R, B, H, S), if it is known, holds the sums of dh h over channels, and h is not read.
    """
    _, batch, length, heads, _ = q.shape
    cut = plan_of(q)
    inputs = (q, k, v)
    grads = [torch.empty_like(x) for x in inputs]
    if cut.pairs:
        sums = _pair_grads(inputs, start, h, dh, rho, gates, eps, cut, grads)
    else:
        sums = _chunk_grads(inputs, (memory, norm, start), h, dh, rho, gates, eps, cut, grads)
    programs, constants = _gate_launch(q, cut)
    gates_grad_kernel[programs](
        igate, fgate, *sums, di, df, batch, length, heads, cut.num_chunks, di.stride(2), CAP=cap, **constants
    )
    return grads


@torch.library.custom_op("raysys::mlstm_cell_grad", mutates_args=())
def mlstm_cell_backward(
    q: Tensor, k: Tensor, v: Tensor, igate: Tensor, fgate: Tensor, eps: float, h: Tensor, gates: Tensor,
    memory: Tensor, norm: Tensor, start: Tensor, dh: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, k, v and both gates."""
    di, df = torch.empty_like(igate), torch.empty_like(fgate)
    return *cell_backward(q, k, v, igate, fgate, eps, h, gates, memory, norm, start, dh, di, df), di, df


@mlstm_cell_backward.register_fake
def _(q, k, v, igate, fgate, eps, h, gates, memory, norm, start, dh):
    return tuple(torch.empty_like(x) for x in (q, k, v, igate, fgate))


def _setup(ctx, inputs, output):
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors, *output)


def _backward(ctx, dh, *_):
    q, k, v, igate, fgate, *saved = ctx.saved_tensors
    return *mlstm_cell_backward(q, k, v, igate, fgate, ctx.eps, *saved, dh.contiguous()), None


mlstm_cell_forward.register_autograd(_backward, setup_context=_setup)


def mlstm_cell_triton(q, k, v, igate, fgate, eps=1e-6):
    """Hidden states (R, B, S, H, E) by this project's kernels; see README.md beside this file."""
    igate, fgate = (x.to(sum_dtype(q)) for x in (igate, fgate))
    return mlstm_cell_forward(*(x.contiguous() for x in (q, k, v, igate, fgate)), eps)[0]
