"""The kernels of `project` as PyTorch operators.

Shape letters: R directions, B batch, S frames, I inner channels, K taps, C channels of a tile, G gate columns, padded.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.ops.device import require_gpu
from model.ops.project.kernels import convolve_grad_kernel, project_grad_kernel, project_kernel

WANTED_PROGRAMS = 528
"""Programs of the kernels, about: four for each multiprocessor."""
GATES = 16
"""Gate columns, padded to the narrowest product that tensor cores do."""


def tile_channels(inner, block):
    """Channels of a tile, 32 or 16, or 0 if neither fits."""
    size = math.gcd(inner, 32)
    return size if size >= 16 and size % block == 0 else 0


def _exact(x):
    return torch.promote_types(x.dtype, torch.float32)


def _constants(x, taps, directions, first, tile, frames):
    acc = tl.float64 if x.dtype == torch.float64 else tl.float32
    return {"I": x.shape[-1], "K": taps, "R": directions, "FIRST": first, "C": tile, "L": frames, "ACC": acc}


def _limit(x):
    """Registers that let three programs share a multiprocessor; they are enough for 16-bit numbers only."""
    return {"maxnreg": 168} if x.element_size() == 2 else {}


def _frames(length):
    return min(64, max(16, triton.next_power_of_2(length)))


def _span(batch, length, inner, tile):
    """Channels that one program of the forward kernel does: all, or fewer where there would be too few programs."""
    parts = WANTED_PROGRAMS // (batch * triton.cdiv(length, _frames(length)))
    return tile * triton.cdiv(inner // tile, max(1, parts))


@torch.library.custom_op("raysys::project", mutates_args=())
def project_forward(
    x: Tensor, taps: Tensor, bias: Tensor, wq: Tensor, wk: Tensor, wv: Tensor, on_a: Tensor, on_x: Tensor,
    directions: int, first: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Convolved input, queries, keys (R, B, S, I), values (1, B, S, I), gates (R, B, S, G); x is dense but for a row stride."""
    require_gpu(x)
    batch, length, inner = x.shape
    a, q, k = (x.new_empty(directions, batch, length, inner) for _ in range(3))
    v = x.new_empty(1, batch, length, inner)
    frames, span = _frames(length), _span(batch, length, inner, wq.shape[-1])
    parts = triton.cdiv(inner, span)
    gates = x.new_empty(parts, directions, batch, length, GATES, dtype=_exact(x))
    project_kernel[(triton.cdiv(length, frames), batch, parts)](
        x, taps, bias, wq, wk, wv, on_a, on_x, a, q, k, v, gates, batch, length, x.stride(1), span, G=GATES,
        **_constants(x, taps.shape[1], directions, first, wq.shape[-1], frames), num_warps=4, num_stages=2, **_limit(x),
    )  # fmt: skip
    return a, q, k, v, gates[0] if parts == 1 else gates.sum(0)


@project_forward.register_fake
def _(x, taps, bias, wq, wk, wv, on_a, on_x, directions, first):
    batch, length, inner = x.shape
    a, q, k = (x.new_empty(directions, batch, length, inner) for _ in range(3))
    gates = x.new_empty(directions, batch, length, GATES, dtype=_exact(x))
    return a, q, k, x.new_empty(1, batch, length, inner), gates


@torch.library.custom_op("raysys::project_grad", mutates_args=())
def project_backward(
    x: Tensor, taps: Tensor, bias: Tensor, wq: Tensor, wk: Tensor, wv: Tensor, on_a: Tensor, on_x: Tensor,
    directions: int, first: int, da: Tensor, dq: Tensor, dk: Tensor, dv: Tensor, dgates: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of the first eight arguments."""
    batch, length, inner = x.shape
    tile, frames = wq.shape[-1], _frames(length)
    num_tiles, columns = batch * triton.cdiv(length, frames), inner // tile
    tiles = triton.cdiv(num_tiles, max(1, WANTED_PROGRAMS // columns))
    runs = triton.cdiv(num_tiles, tiles)
    exact = _exact(x)
    squares = x.new_empty(3, runs, inner, tile, dtype=exact)
    thin = x.new_empty(2, runs, inner, GATES, dtype=exact)
    dtaps, dbias = x.new_empty(runs, *taps.shape, dtype=exact), x.new_empty(runs, inner, dtype=exact)
    dconv, dxv, dx = torch.empty_like(dq), torch.empty_like(dv), x.new_empty(x.shape)
    constants = _constants(x, taps.shape[1], directions, first, tile, frames)
    sizes = (batch, length, x.stride(1), tiles)
    da_turn = da.stride(0) if directions > 1 else 0
    project_grad_kernel[(columns, runs)](
        x, taps, bias, wq, wk, wv, on_a, on_x, da, dq, dk, dv, dgates, dconv, dxv, *squares, *thin, *sizes, da_turn, G=GATES,
        **constants, num_warps=4, num_stages=2,
    )  # fmt: skip
    convolve_grad_kernel[(columns, runs)](
        x, taps, dconv, dxv, dx, dtaps, dbias, *sizes, **constants, num_warps=4, num_stages=1
    )
    dwq, dwk, dwv = (d.sum(0).view_as(wq).to(wq.dtype) for d in squares)
    don_a, don_x = (d.sum(0).to(on_a.dtype) for d in thin)
    return dx, dtaps.sum(0).to(taps.dtype), dbias.sum(0).to(bias.dtype), dwq, dwk, dwv, don_a, don_x


@project_backward.register_fake
def _(x, taps, bias, wq, wk, wv, on_a, on_x, directions, first, da, dq, dk, dv, dgates):
    return x.new_empty(x.shape), *(torch.empty_like(t) for t in (taps, bias, wq, wk, wv, on_a, on_x))


def _setup(ctx, inputs, output):
    *tensors, ctx.directions, ctx.first = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, *grads):
    return (
        *project_backward(*ctx.saved_tensors, ctx.directions, ctx.first, *(g.contiguous() for g in grads)),
        None,
        None,
    )


project_forward.register_autograd(_backward, setup_context=_setup)


def _tiles(weight, size):
    """Block-diagonal tiles (I / C, in, out) of the blocks (I / n, out, in)."""
    out = weight.shape[1]
    blocks = weight.unflatten(0, (-1, size // out))
    eye = torch.eye(size // out, device=weight.device, dtype=weight.dtype)
    dense = eye[:, None, :, None] * blocks.transpose(-1, -2)[:, :, :, None, :]
    return dense.reshape(-1, size, size)


def _through(weight, gate):
    """(I, 2 H): what the blocks (I / n, out, in) followed by the gate weights (2 H, I) do to their input."""
    num_blocks, out, _ = weight.shape
    gate = gate.t().reshape(num_blocks, out, 1, -1)
    return (weight[..., None] * gate).sum(1).flatten(0, 1)


def project_triton(x, conv_weight, conv_bias, q_weight, k_weight, v_weight, gate_weight, gate_bias, directions):
    """As `project_reference`, by this project's kernels; see README.md beside this file."""
    size = tile_channels(x.shape[-1], q_weight.shape[-1])
    if x.stride(-1) != 1 or x.stride(0) != x.shape[1] * x.stride(1):
        x = x.contiguous()
    wq, wk, wv = (_tiles(w, size).to(x.dtype).contiguous() for w in (q_weight, k_weight, v_weight))
    on_q, on_k, on_v = gate_weight.chunk(3, dim=1)
    num_gates = len(gate_weight)
    pad = (0, GATES - num_gates)
    on_a = torch.nn.functional.pad(_through(q_weight, on_q) + _through(k_weight, on_k), pad).to(x.dtype)
    on_x = torch.nn.functional.pad(_through(v_weight, on_v), pad).to(x.dtype)
    a, q, k, v, gates = project_forward(
        x, conv_weight.contiguous(), conv_bias, wq, wk, wv, on_a, on_x, len(directions), int(directions[0])
    )
    return a, q, k, v, gates[..., :num_gates] + gate_bias
