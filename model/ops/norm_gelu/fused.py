"""The kernels of `norm_gelu` as PyTorch operators. Shape letters: N rows, D channels."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.ops.device import require_gpu
from model.ops.norm_gelu.kernels import norm_gelu_grad_kernel, norm_gelu_kernel
from model.ops.norm_gelu.reference import EPS
from model.ops.sums import sum_parts

ELEMENTS = 2048
"""Of a tile, about."""
WANTED_PROGRAMS = 1056
"""Programs of the kernel that adds up gradients of weights: eight for each multiprocessor."""


def fits(width: int) -> bool:
    """Returns whether the kernels do this width."""
    return 16 <= width <= 1024 and width & (width - 1) == 0


def _launch(x):
    """Rows, tiles, and the constants of both kernels."""
    width = x.shape[-1]
    rows, frames = x.numel() // width, max(1, ELEMENTS // width)
    acc = tl.float64 if x.dtype == torch.float64 else tl.float32
    return rows, triton.cdiv(rows, frames), {"D": width, "L": frames, "eps": EPS, "ACC": acc, "num_warps": 4}


@torch.library.custom_op("raysys::norm_gelu", mutates_args=())
def norm_gelu_forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(..., D); everything is contiguous."""
    require_gpu(x)
    rows, tiles, constants = _launch(x)
    y = torch.empty_like(x)
    norm_gelu_kernel[(tiles,)](x, weight, bias, y, rows, **constants)
    return y


@norm_gelu_forward.register_fake
def _(x, weight, bias):
    return torch.empty_like(x)


@torch.library.custom_op("raysys::norm_gelu_grad", mutates_args=())
def norm_gelu_backward(x: Tensor, weight: Tensor, bias: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x, and of weight and bias together (2, D)."""
    rows, num_tiles, constants = _launch(x)
    tiles = triton.cdiv(num_tiles, WANTED_PROGRAMS)
    runs = triton.cdiv(num_tiles, tiles)
    dx = torch.empty_like(x)
    shares = x.new_empty(runs, 2, x.shape[-1], dtype=torch.promote_types(x.dtype, torch.float32))
    norm_gelu_grad_kernel[(runs,)](x, weight, bias, dy, dx, shares, rows, tiles, **constants)
    return dx, sum_parts(shares)


@norm_gelu_backward.register_fake
def _(x, weight, bias, dy):
    exact = torch.promote_types(x.dtype, torch.float32)
    return torch.empty_like(x), x.new_empty(2, x.shape[-1], dtype=exact)


def _setup(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _backward(ctx, dy):
    dx, dweights = norm_gelu_backward(*ctx.saved_tensors, dy.contiguous())
    return dx, *dweights


norm_gelu_forward.register_autograd(_backward, setup_context=_setup)


def norm_gelu_triton(x, weight, bias):
    """As `norm_gelu_reference`, by this project's kernels.

    Raises:
        ValueError: a width that the kernels are not written for.
    """
    if not fits(x.shape[-1]):
        raise ValueError(
            f"backend='triton' does a power of 2 of channels from 16 to 1024, not {x.shape[-1]}: use backend='torch'"
        )
    return norm_gelu_forward(x.contiguous(), weight.contiguous(), bias.contiguous())
