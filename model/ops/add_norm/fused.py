"""The kernels of `add_norm` and `add_dropped` as PyTorch operators. Shape letters: B batch, S frames, N = B S, D channels."""

import torch
import triton
from torch import Tensor

from model.ops.add_norm.kernels import add_dropped_kernel, add_norm_grad_kernel, add_norm_kernel
from model.ops.add_norm.reference import EPS
from model.ops.backend import require_norm_width
from model.ops.device import require_gpu
from model.ops.dropout import threshold
from model.ops.launch import runs_of_tiles
from model.ops.partial_sums import sum_parts
from model.ops.precision import sum_dtype, sum_type

ELEMENTS = 4096
"""Of a tile, about."""
WANTED_PROGRAMS = 264
"""Programs of the kernel that adds up gradients of weights, at most: two for each multiprocessor."""
STAGES = 3
"""Tiles that such a program has asked for at a time."""


def launched(x, dropout):
    """Frames of x, tiles of them, and the constants of both kernels."""
    rows, frames = x.numel() // x.shape[-1], max(1, ELEMENTS // x.shape[-1])
    acc = sum_type(x)
    constants = {"D": x.shape[-1], "L": frames, "BELOW": threshold(dropout), "ACC": acc, "num_warps": 4}
    return rows, triton.cdiv(rows, frames), constants


@torch.library.custom_op("raysys::add_norm", mutates_args=())
def add_norm_forward(
    x: Tensor, update: Tensor | None, weight: Tensor, bias: Tensor, seed: Tensor | None, dropout: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The sum (B, S, D), () without an update, its norm (B, S, D), mean and inverse deviation (2, N); everything is contiguous."""
    require_gpu(x)
    rows, tiles, constants = launched(x, dropout)
    total = x.new_empty(()) if update is None else torch.empty_like(x)
    y = torch.empty_like(x)
    moments = x.new_empty(2, rows, dtype=sum_dtype(x))
    add = update is not None
    add_norm_kernel[(tiles,)](x, update, weight, bias, seed, total, y, moments, rows, ADD=add, eps=EPS, **constants)
    return total, y, moments


@add_norm_forward.register_fake
def _(x, update, weight, bias, seed, dropout):
    total = x.new_empty(()) if update is None else torch.empty_like(x)
    return total, torch.empty_like(x), x.new_empty(2, x.numel() // x.shape[-1], dtype=sum_dtype(x))


@torch.library.custom_op("raysys::add_norm_grad", mutates_args=())
def add_norm_backward(
    total: Tensor, moments: Tensor, weight: Tensor, seed: Tensor | None, dtotal: Tensor, dy: Tensor, dropout: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, of what dropout leaves of the update, () without dropout, and of weight and bias together (2, D)."""
    rows, num_tiles, constants = launched(total, dropout)
    tiles, programs = runs_of_tiles(num_tiles, WANTED_PROGRAMS)
    dx = torch.empty_like(total)
    dupdate = torch.empty_like(total) if dropout else total.new_empty(())
    shares = total.new_empty(programs, 2, total.shape[-1], dtype=sum_dtype(total))
    add_norm_grad_kernel[(programs,)](
        total, moments, weight, seed, dtotal, dy, dx, dupdate, shares, rows, tiles, STAGES=STAGES, **constants
    )
    return dx, dupdate, sum_parts(shares)


@add_norm_backward.register_fake
def _(total, moments, weight, seed, dtotal, dy, dropout):
    dupdate = torch.empty_like(total) if dropout else total.new_empty(())
    return torch.empty_like(total), dupdate, total.new_empty(2, total.shape[-1], dtype=sum_dtype(total))


class _AddNorm(torch.autograd.Function):
    """Where there is no update the sum is x itself, which an operator could not return."""

    @staticmethod
    def forward(ctx, x, update, weight, bias, dropout, seed):
        total, y, moments = add_norm_forward(x, update, weight, bias, seed, dropout)
        if update is None:
            total = x.view_as(x)
        ctx.save_for_backward(total, moments, weight, seed)
        ctx.dropout, ctx.add = dropout, update is not None
        return total, y

    @staticmethod
    def backward(ctx, dtotal, dy):
        dx, dupdate, dweights = add_norm_backward(*ctx.saved_tensors, dtotal.contiguous(), dy.contiguous(), ctx.dropout)
        if ctx.add and not ctx.dropout:
            dupdate = dx
        return dx, dupdate if ctx.add else None, *dweights, None, None


@torch.library.custom_op("raysys::add_dropped", mutates_args=())
def add_dropped_forward(x: Tensor | None, update: Tensor, seed: Tensor, dropout: float) -> Tensor:
    """x, if there is one, and what dropout leaves of the update (B, S, D); everything is contiguous."""
    require_gpu(update)
    rows, tiles, constants = launched(update, dropout)
    y = torch.empty_like(update)
    add_dropped_kernel[(tiles,)](x, update, seed, y, rows, ADD=x is not None, **constants)
    return y


@add_dropped_forward.register_fake
def _(x, update, seed, dropout):
    return torch.empty_like(update)


def _setup(ctx, inputs, output):
    _x, _update, seed, ctx.dropout = inputs
    ctx.save_for_backward(seed)


def _backward(ctx, dy):
    return dy, add_dropped_forward(None, dy.contiguous(), *ctx.saved_tensors, ctx.dropout), None, None


add_dropped_forward.register_autograd(_backward, setup_context=_setup)


def add_dropped_triton(x, update, dropout, seed):
    """As `add_dropped_reference`, by this project's kernel.

    Raises:
        ValueError: a width that the kernel is not written for.
    """
    require_norm_width(x.shape[-1])
    return add_dropped_forward(x.contiguous(), update.to(x.dtype).contiguous(), seed, dropout)


def add_norm_triton(x, update, weight, bias, dropout, seed):
    """As `add_norm_reference`, by this project's kernels; see README.md beside this file.

    Raises:
        ValueError: a width that the kernels are not written for.
    """
    require_norm_width(x.shape[-1])
    if update is not None:
        update = update.to(x.dtype).contiguous()
    return _AddNorm.apply(x.contiguous(), update, weight, bias, dropout, seed)
