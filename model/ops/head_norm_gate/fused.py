"""The kernels of `head_norm_gate` as PyTorch operators.

Shape letters: R directions, B batch, S frames, H heads, E channels of a head, I = H E inner channels.
"""

import torch
import triton
from torch import Tensor

from model.ops.device import require_gpu
from model.ops.head_norm_gate.kernels import head_norm_gate_grad_kernel, head_norm_gate_kernel
from model.ops.head_norm_gate.reference import EPS
from model.ops.launch import runs_of_tiles, with_dense_rows
from model.ops.partial_sums import sum_parts
from model.ops.precision import sum_dtype, sum_type

FORWARD_ELEMENTS, BACKWARD_ELEMENTS = 1024, 2048
"""Of a tile, about."""
WANTED_PROGRAMS = 264
"""Programs of the kernel that adds up gradients of weights: two for each multiprocessor."""
STAGES = 2
"""Tiles that such a program has asked for at a time."""


def _sizes(h, elements):
    """Rows, tiles of about `elements`, and the constants of both kernels."""
    directions, batch, length, heads, dim = h.shape
    padded = triton.next_power_of_2(dim)
    frames = max(1, elements // padded)
    acc = sum_type(h)
    constants = {"I": heads * dim, "E": dim, "R": directions, "L": frames, "EP": padded, "eps": EPS, "ACC": acc}
    rows = batch * length
    return rows, triton.cdiv(rows, frames), constants | {"num_warps": 4}


@torch.library.custom_op("raysys::head_norm_gate", mutates_args=())
def head_norm_gate_forward(h: Tensor, conv: Tensor, z: Tensor, weight: Tensor, skip: Tensor) -> Tensor:
    """(B, S, I); h and conv are contiguous, z is dense but for a row stride."""
    require_gpu(h)
    rows, tiles, constants = _sizes(h, FORWARD_ELEMENTS)
    y = h.new_empty(z.shape)
    head_norm_gate_kernel[(tiles, h.shape[3])](h, conv, z, weight, skip, y, rows, z.stride(1), **constants)
    return y


@head_norm_gate_forward.register_fake
def _(h, conv, z, weight, skip):
    return h.new_empty(z.shape)


def head_norm_gate_grads(h, conv, z, weight, skip, dy, dz, rho=None):
    """Gradients of h, of conv (B, S, I), the same in every direction, and shares (runs, 2, I) of those of both weights; that of z into `dz`.

    `dz` (B, S, I) is dense but for a row stride. With `rho` (R, B, H, S) the sums of dh h over channels, into that.
    """
    rows, num_tiles, constants = _sizes(h, BACKWARD_ELEMENTS)
    heads, exact = h.shape[3], sum_dtype(h)
    tiles, runs = runs_of_tiles(num_tiles, WANTED_PROGRAMS // heads)
    dh, dconv = torch.empty_like(h), h.new_empty(z.shape)
    dweights = h.new_empty(runs, 2, len(skip), dtype=exact)
    head_norm_gate_grad_kernel[(runs, heads)](
        h, conv, z, weight, skip, dy, dh, dconv, dz, rho, dweights, rows, h.shape[2], z.stride(1), dz.stride(1), tiles,
        RHO=rho is not None, STAGES=STAGES, **constants,
    )  # fmt: skip
    return dh, dconv, dweights


@torch.library.custom_op("raysys::head_norm_gate_grad", mutates_args=())
def head_norm_gate_backward(
    h: Tensor, conv: Tensor, z: Tensor, weight: Tensor, skip: Tensor, dy: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of h, of conv (B, S, I), of z, and of both weights together (2, I)."""
    dz = z.new_empty(z.shape)
    dh, dconv, dweights = head_norm_gate_grads(h, conv, z, weight, skip, dy, dz)
    return dh, dconv, dz, sum_parts(dweights)


@head_norm_gate_backward.register_fake
def _(h, conv, z, weight, skip, dy):
    dweights = h.new_empty(2, len(skip), dtype=sum_dtype(h))
    return torch.empty_like(h), h.new_empty(z.shape), z.new_empty(z.shape), dweights


def _setup(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _backward(ctx, dy):
    h, conv, *rest = ctx.saved_tensors
    dh, dconv, dz, dweights = head_norm_gate_backward(h, conv, *rest, dy.contiguous())
    return dh, dconv.expand_as(conv), dz, *dweights


head_norm_gate_forward.register_autograd(_backward, setup_context=_setup)


def head_norm_gate_triton(h, conv, z, norm_weight, skip):
    """As `head_norm_gate_reference`, by this project's kernels; see README.md beside this file."""
    return head_norm_gate_forward(h.contiguous(), conv.contiguous(), with_dense_rows(z), norm_weight, skip)
