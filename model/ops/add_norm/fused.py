"""The kernels of `add_norm` as PyTorch operators. Shape letters: B batch, S frames, N = B S, D channels."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.ops.add_norm.kernels import add_norm_grad_kernel, add_norm_kernel
from model.ops.add_norm.reference import EPS
from model.ops.device import require_gpu
from model.ops.dropout import threshold
from model.ops.sums import sum_parts

ELEMENTS = 2048
"""Of a tile, about."""
WANTED_PROGRAMS = 528
"""Programs of the kernel that adds up gradients of weights, at most: four for each multiprocessor."""


def fits(width: int) -> bool:
    """Returns whether the kernels do this width."""
    return 16 <= width <= 1024 and width & (width - 1) == 0


def launched(x, dropout):
    """Frames of x, tiles of them, and the constants of both kernels."""
    rows, frames = x.numel() // x.shape[-1], max(1, ELEMENTS // x.shape[-1])
    acc = tl.float64 if x.dtype == torch.float64 else tl.float32
    constants = {"D": x.shape[-1], "L": frames, "BELOW": threshold(dropout), "eps": EPS, "ACC": acc, "num_warps": 4}
    return rows, triton.cdiv(rows, frames), constants


@torch.library.custom_op("raysys::add_norm", mutates_args=())
def add_norm_forward(
    x: Tensor, update: Tensor | None, weight: Tensor, bias: Tensor, seed: Tensor | None, dropout: float
) -> tuple[Tensor, Tensor]:
    """The sum (B, S, D), () without an update, and its norm (B, S, D); everything is contiguous."""
    require_gpu(x)
    rows, tiles, constants = launched(x, dropout)
    total = x.new_empty(()) if update is None else torch.empty_like(x)
    y = torch.empty_like(x)
    add = update is not None
    add_norm_kernel[(tiles,)](x, update, weight, bias, seed, total, y, rows, ADD=add, **constants)
    return total, y


@add_norm_forward.register_fake
def _(x, update, weight, bias, seed, dropout):
    return x.new_empty(()) if update is None else torch.empty_like(x), torch.empty_like(x)


@torch.library.custom_op("raysys::add_norm_grad", mutates_args=())
def add_norm_backward(
    total: Tensor, weight: Tensor, seed: Tensor | None, dtotal: Tensor, dy: Tensor, dropout: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, of what dropout leaves of the update, () without dropout, and of weight and bias together (2, D)."""
    rows, num_tiles, constants = launched(total, dropout)
    tiles = triton.cdiv(num_tiles, WANTED_PROGRAMS)
    programs = triton.cdiv(num_tiles, tiles)
    dx = torch.empty_like(total)
    dupdate = torch.empty_like(total) if dropout else total.new_empty(())
    shares = total.new_empty(programs, 2, total.shape[-1], dtype=torch.promote_types(total.dtype, torch.float32))
    add_norm_grad_kernel[(programs,)](
        total, weight, seed, dtotal, dy, dx, dupdate, shares, rows, tiles, **constants
    )
    return dx, dupdate, sum_parts(shares)


@add_norm_backward.register_fake
def _(total, weight, seed, dtotal, dy, dropout):
    exact = torch.promote_types(total.dtype, torch.float32)
    dupdate = torch.empty_like(total) if dropout else total.new_empty(())
    return torch.empty_like(total), dupdate, total.new_empty(2, total.shape[-1], dtype=exact)


class _AddNorm(torch.autograd.Function):
    """Where there is no update the sum is x itself, which an operator could not return."""

    @staticmethod
    def forward(ctx, x, update, weight, bias, dropout, seed):
        total, y = add_norm_forward(x, update, weight, bias, seed, dropout)
        if update is None:
            total = x.view_as(x)
        ctx.save_for_backward(total, weight, seed)
        ctx.dropout, ctx.add = dropout, update is not None
        return total, y

    @staticmethod
    def backward(ctx, dtotal, dy):
        total, weight, seed = ctx.saved_tensors
        dx, dupdate, dweights = add_norm_backward(
            total, weight, seed, dtotal.contiguous(), dy.contiguous(), ctx.dropout
        )
        if ctx.add and not ctx.dropout:
            dupdate = dx
        return dx, dupdate if ctx.add else None, *dweights, None, None


def add_norm_triton(x, update, weight, bias, dropout, seed):
    """As `add_norm_reference`, by this project's kernels; see README.md beside this file.

    Raises:
        ValueError: a width that the kernels are not written for.
    """
    if not fits(x.shape[-1]):
        raise ValueError(
            f"backend='triton' does a power of 2 of channels from 16 to 1024, not {x.shape[-1]}: use backend='torch'"
        )
    if update is not None:
        update = update.to(x.dtype).contiguous()
    return _AddNorm.apply(x.contiguous(), update, weight, bias, dropout, seed)
