"""The kernels as PyTorch operators that torch.compile, autocast and DDP understand.

Shape letters: R directions, B batch, S frames, H heads, E channels of a head, N chunks, L frames of a chunk.
"""

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.ops.mlstm.kernels import grad_kernel, hidden_kernel, states_grad_kernel, states_kernel


@dataclass(frozen=True, kw_only=True, slots=True)
class Tiling:
    """How the work is cut; changes the speed, not the result."""

    chunk: int
    """Frames of a chunk (L), a power of two >= 16."""
    channels: int
    """Channels of a tile, a power of two >= 16."""
    hidden: tuple[int, int] = (4, 2)
    """Warps and pipeline stages of the kernel of the hidden states."""
    grad: tuple[int, int] = (4, 2)
    states: tuple[int, int] = (4, 2)
    states_grad: tuple[int, int] = (4, 2)


def tiling(length, dim):
    """The fastest tiling measured (README.md) for sequences of `length` frames and heads of `dim` channels."""
    chunk = min(64, max(16, triton.next_power_of_2(length)))
    return Tiling(chunk=chunk, channels=min(64, max(16, triton.next_power_of_2(dim))))


def _common(q, cut):
    """Keyword arguments that the kernels share; 32-bit products stay 32-bit (no tf32)."""
    acc = tl.float64 if q.dtype == torch.float64 else tl.float32
    return {"E": q.shape[-1], "L": cut.chunk, "BE": cut.channels, "ACC": acc, "PRECISION": "ieee"}


def _launch(setting):
    return {"num_warps": setting[0], "num_stages": setting[1]}


def _num_chunks(q):
    return triton.cdiv(q.shape[2], tiling(q.shape[2], q.shape[4]).chunk)


def _state_like(q, num_chunks):
    """Empty memory (R, B, H, N - 1, E, E), normaliser (R, B, H, N - 1, E) and log scale (R, B, H, N - 1)."""
    directions, batch, _, heads, dim = q.shape
    shape = (directions, batch, heads, num_chunks - 1)
    exact = torch.promote_types(q.dtype, torch.float32)
    return q.new_empty(*shape, dim, dim), q.new_empty(*shape, dim, dtype=exact), q.new_empty(shape, dtype=exact)


@torch.library.custom_op("raysys::mlstm", mutates_args=())
def mlstm_forward(
    q: Tensor, k: Tensor, v: Tensor, igate: Tensor, fgate: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, overlaps (R, B, S, H), and the states that chunks 1 to N - 1 start from. Contiguous inputs."""
    directions, batch, length, heads, dim = q.shape
    cut = tiling(length, dim)
    num_chunks = triton.cdiv(length, cut.chunk)
    memory, norm, start = _state_like(q, num_chunks)
    h, overlap = torch.empty_like(q), torch.empty(q.shape[:-1], dtype=norm.dtype, device=q.device)
    common, exact = _common(q, cut), {"scale": 1 / math.sqrt(dim), "eps": eps}
    if num_chunks > 1:
        grid = (triton.cdiv(dim, cut.channels) ** 2, heads, directions * batch)
        states_kernel[grid](
            k, v, igate, fgate, memory, norm, start, batch, length, heads, num_chunks, len(v),
            **common, **_launch(cut.states),
        )  # fmt: skip
    hidden_kernel[(num_chunks, heads, directions * batch)](
        q, k, v, igate, fgate, memory, norm, start, h, overlap, batch, length, heads, num_chunks, len(v),
        ONE_CHUNK=num_chunks == 1, **exact, **common, **_launch(cut.hidden),
    )  # fmt: skip
    return h, overlap, memory, norm, start


@mlstm_forward.register_fake
def _(q, k, v, igate, fgate, eps):
    memory, norm, start = _state_like(q, _num_chunks(q))
    return torch.empty_like(q), q.new_empty(q.shape[:-1], dtype=norm.dtype), memory, norm, start


@torch.library.custom_op("raysys::mlstm_grad", mutates_args=())
def mlstm_backward(
    q: Tensor, k: Tensor, v: Tensor, igate: Tensor, fgate: Tensor, eps: float, h: Tensor, overlap: Tensor,
    memory: Tensor, norm: Tensor, start: Tensor, dh: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, k, v (one for each direction) and both gates."""
    directions, batch, length, heads, dim = q.shape
    cut = tiling(length, dim)
    num_chunks = memory.shape[3] + 1
    dmemory, dnorm = torch.empty_like(memory), torch.empty_like(norm)
    doverlap = torch.empty_like(overlap)
    dq, dk, dv = torch.empty_like(q), torch.empty_like(q), torch.empty_like(q)
    di, df = torch.empty_like(igate), torch.empty_like(fgate)
    common, exact = _common(q, cut), {"scale": 1 / math.sqrt(dim), "eps": eps}
    if num_chunks > 1:
        grid = (triton.cdiv(dim, cut.channels) ** 2, heads, directions * batch)
        states_grad_kernel[grid](
            q, igate, fgate, start, h, overlap, dh, dmemory, dnorm, doverlap, batch, length, heads, num_chunks,
            **exact, **common, **_launch(cut.states_grad),
        )  # fmt: skip
    grad_kernel[(num_chunks, heads, directions * batch)](
        q, k, v, igate, fgate, memory, norm, start, overlap, dh, dmemory, dnorm, doverlap, dq, dk, dv, di, df,
        batch, length, heads, num_chunks, len(v), ONE_CHUNK=num_chunks == 1,
        **exact, **common, **_launch(cut.grad),
    )  # fmt: skip
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
    igate, fgate = (x.to(torch.promote_types(q.dtype, torch.float32)) for x in (igate, fgate))
    return mlstm_forward(*(x.contiguous() for x in (q, k, v, igate, fgate)), eps)[0]
