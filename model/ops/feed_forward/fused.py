"""The kernels of `feed_forward` as PyTorch operators.

Shape letters: B batch, S frames, N = B S, D channels, F hidden channels.
"""

import torch
import triton
from torch import Tensor

from model.ops.add_norm.reference import EPS
from model.ops.device import require_gpu
from model.ops.dropout import threshold
from model.ops.feed_forward import kernels
from model.ops.feed_forward.kernels import feed_forward_grad_kernel, feed_forward_kernel, weights_grad_kernel
from model.ops.launch import PieceLaunch, runs_of_tiles, settings
from model.ops.partial_sums import sum_parts
from model.ops.precision import sum_dtype, sum_type

SPARE = kernels.SPARE.value

MOST_CHANNELS = 128
"""A row is held in registers as a whole, and wider ones spill: plain PyTorch, compiled, is faster from 256 on (README.md)."""


LAUNCH = PieceLaunch(64, 32, 4, 3)
WEIGHTS, WEIGHTS_PROGRAMS = PieceLaunch(64, 64, 4, 3), 264
"""For the gradients of weights, and how many programs there should be, about."""


def fits(hidden: int, width: int) -> bool:
    """Returns whether the kernels do these sizes."""
    return 16 <= width <= MOST_CHANNELS and width & (width - 1) == 0 and hidden % 8 == 0


def _tile(size, x):
    """`size`, or less where elements are wider, which then take as much shared memory."""
    return max(16, size * 2 // max(2, x.element_size()))


def _constants(x, width, hidden, frames, launch):
    acc = sum_type(x)
    sizes = {"D": width, "F": hidden, "L": frames, "ACC": acc}
    return sizes | settings(launch.warps, launch.stages)


def launched(x, hidden, dropout):
    """Rows of x, programs, and the constants of `feed_forward_kernel` and `feed_forward_grad_kernel`."""
    width, frames = x.shape[-1], _tile(LAUNCH.frames, x)
    rows = x.numel() // width
    constants = {"P": _tile(LAUNCH.piece, x), "BELOW": threshold(dropout), "eps": EPS}
    return rows, triton.cdiv(rows, frames), _constants(x, width, hidden, frames, LAUNCH) | constants


def weights_launched(dh, width):
    """How many tiles of frames a program does, the programs, and the constants of the kernel."""
    rows, hidden = dh.shape
    frames = _tile(WEIGHTS.frames, dh)
    piece = min(_tile(WEIGHTS.piece, dh), triton.next_power_of_2(hidden + SPARE))
    across = triton.cdiv(hidden + SPARE, piece)
    tiles, runs = runs_of_tiles(triton.cdiv(rows, frames), WEIGHTS_PROGRAMS // (2 * across))
    constants = _constants(dh, width, hidden, frames, WEIGHTS)
    return tiles, (runs, across, 2), constants | {"W": piece}


@torch.library.custom_op("raysys::feed_forward", mutates_args=())
def feed_forward_forward(
    x: Tensor, update: Tensor, gamma: Tensor, beta: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, seeds: Tensor,
    dropout: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Output and first residual sum (B, S, D); everything is contiguous, w1 (F, D) and the transpose w2 (F, D) in the dtype of x."""
    require_gpu(x)
    rows, programs, constants = launched(x, len(w1), dropout)
    r, y = torch.empty_like(x), torch.empty_like(x)
    feed_forward_kernel[(programs,)](x, update, gamma, beta, w1, b1, w2, b2, seeds, r, y, rows, **constants)
    return y, r


@feed_forward_forward.register_fake
def _(x, update, gamma, beta, w1, b1, w2, b2, seeds, dropout):
    return torch.empty_like(x), torch.empty_like(x)


@torch.library.custom_op("raysys::feed_forward_grad", mutates_args=())
def feed_forward_backward(
    r: Tensor, gamma: Tensor, beta: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, seeds: Tensor, dropout: float, dy: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x, of update, of gamma and beta (2, D), and `weights_grad` of the others."""
    rows, programs, constants = launched(r, len(w1), dropout)
    hidden, width = w1.shape
    dx, dupdate, normed = (torch.empty_like(r) for _ in range(3))
    dout = torch.empty_like(r) if dropout else dy
    a, dh = r.new_empty(rows, hidden + SPARE), r.new_empty(rows, hidden)
    shares = r.new_empty(programs, 2, width, dtype=sum_dtype(r))
    feed_forward_grad_kernel[(programs,)](
        r, gamma, beta, w1, b1, w2, seeds, dy, dx, dupdate, normed, a, dh, dout, shares, rows, **constants
    )
    return dx, dupdate, sum_parts(shares), weights_grad(dh, normed, a, dout)


def weights_grad(dh: Tensor, normed: Tensor, a: Tensor, dout: Tensor) -> Tensor:
    """dh^T normed and (a, 1)^T dout, with the sums of dh and a behind them (2, (F + 8) (D + 1))."""
    rows, hidden, width = *dh.shape, normed.shape[-1]
    tiles, grid, constants = weights_launched(dh, width)
    shares = dh.new_empty(grid[0], 2, (hidden + SPARE) * (width + 1), dtype=sum_dtype(dh))
    weights_grad_kernel[grid](dh, normed, a, dout, shares, rows, tiles, **constants)
    return sum_parts(shares)


@feed_forward_backward.register_fake
def _(r, gamma, beta, w1, b1, w2, seeds, dropout, dy):
    hidden, width = w1.shape
    sizes = ((2, width), (2, (hidden + SPARE) * (width + 1)))
    return torch.empty_like(r), torch.empty_like(r), *(r.new_empty(size, dtype=sum_dtype(r)) for size in sizes)


def _setup(ctx, inputs, output):
    _x, _update, *tensors, _b2, seeds, ctx.dropout = inputs
    ctx.save_for_backward(output[1], *tensors, seeds)


def _backward(ctx, dy, _):
    dx, dupdate, dnorms, dweights = feed_forward_backward(*ctx.saved_tensors, ctx.dropout, dy.contiguous())
    hidden, width = ctx.saved_tensors[3].shape
    products, sums = dweights.split([(hidden + SPARE) * width, hidden + SPARE], 1)
    dw1, dw2 = products.unflatten(1, (hidden + SPARE, width))
    return dx, dupdate, *dnorms, dw1[:hidden], sums[0, :hidden], dw2[:hidden], dw2[hidden], None, None


feed_forward_forward.register_autograd(_backward, setup_context=_setup)


def feed_forward_triton(x, update, norm_weight, norm_bias, w1, b1, w2, b2, dropout, seeds):
    """As `feed_forward_reference`, by this project's kernels; see README.md beside this file.

    Raises:
        ValueError: sizes that the kernels are not written for.
    """
    hidden, width = w1.shape
    if not fits(hidden, width):
        raise ValueError(
            f"backend='triton' does a power of 2 of channels from 16 to {MOST_CHANNELS}, not {width}, and a multiple of 8 hidden "
            f"ones, not {hidden}: use backend='torch'"
        )
    if seeds is None:
        seeds = torch.zeros(2, dtype=torch.int64, device=x.device)
    w2 = w2.t()
    tensors = (
        t.contiguous() for t in (x, update.to(x.dtype), norm_weight, norm_bias, w1.to(x.dtype), b1, w2.to(x.dtype), b2)
    )
    return feed_forward_forward(*tensors, seeds, dropout)[0]
