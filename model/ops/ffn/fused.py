"""The kernels of `ffn` as PyTorch operators.

Shape letters: B batch, S frames, N = B S, D channels, F hidden channels.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.ops.device import require_gpu
from model.ops.dropout import threshold
from model.ops.ffn.kernels import ffn_grad_kernel, ffn_kernel
from model.ops.ffn.reference import EPS, SPARE
from model.ops.sums import sum_parts

MOST_CHANNELS = 128
"""A row is held in registers as a whole, and wider ones spill: plain PyTorch, compiled, is faster from 256 on (README.md)."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How one kernel is launched; changes the speed, not the result."""

    frames: int
    piece: int
    """Hidden channels done at a time."""
    warps: int
    stages: int = 2
    registers: int | None = None
    """Most registers a thread may use; fewer let more programs share a multiprocessor."""


LAUNCH = Launch(64, 32, 4)


def fits(hidden: int, width: int) -> bool:
    """Returns whether the kernels do these sizes."""
    return 16 <= width <= MOST_CHANNELS and width & (width - 1) == 0 and hidden % 8 == 0


def _exact(x):
    return torch.promote_types(x.dtype, torch.float32)


def launched(x, hidden, launch, dropout):
    """Rows of x, programs, and the constants of a kernel."""
    width = x.shape[-1]
    # Tiles of wider elements take as much shared memory with half as many frames.
    frames = max(16, launch.frames * 2 // max(2, x.element_size()))
    acc = tl.float64 if x.dtype == torch.float64 else tl.float32
    constants = {"D": width, "F": hidden, "L": frames, "P": launch.piece, "BELOW": threshold(dropout), "eps": EPS}
    constants |= {"ACC": acc, "num_warps": launch.warps, "num_stages": launch.stages}
    if launch.registers:
        constants["maxnreg"] = launch.registers
    rows = x.numel() // width
    return rows, triton.cdiv(rows, frames), constants


@torch.library.custom_op("raysys::ffn", mutates_args=())
def ffn_forward(
    x: Tensor, update: Tensor, gamma: Tensor, beta: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, seeds: Tensor,
    dropout: float,
) -> Tensor:  # fmt: skip
    """(B, S, D); everything is contiguous, w1 (F, D) and the transpose w2 (F, D) in the dtype of x."""
    require_gpu(x)
    rows, programs, constants = launched(x, len(w1), LAUNCH, dropout)
    y = torch.empty_like(x)
    ffn_kernel[(programs,)](x, update, gamma, beta, w1, b1, w2, b2, seeds, y, rows, **constants)
    return y


@ffn_forward.register_fake
def _(x, update, gamma, beta, w1, b1, w2, b2, seeds, dropout):
    return torch.empty_like(x)


@torch.library.custom_op("raysys::ffn_grad", mutates_args=())
def ffn_backward(
    x: Tensor, update: Tensor, gamma: Tensor, beta: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, seeds: Tensor,
    dropout: float, dy: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x, of update, of w1 and b1 (F, D + 8), of w2 and b2 (F + 8, D), and of gamma and beta (2, D).

    Biases stand in the first column, or row, beside the weights.
    """
    rows, programs, constants = launched(x, len(w1), LAUNCH, dropout)
    hidden, width = w1.shape
    dx, normed = torch.empty_like(x), x.new_empty(rows, width + SPARE)
    dupdate, dout = (torch.empty_like(x), torch.empty_like(x)) if dropout else (dx, dy)
    a, dh = x.new_empty(rows, hidden + SPARE), x.new_empty(rows, hidden)
    shares = x.new_empty(programs, 2, width, dtype=_exact(x))
    ffn_grad_kernel[(programs,)](
        x, update, gamma, beta, w1, b1, w2, seeds, dy, dx, dupdate, normed, a, dh, dout, shares, rows, **constants
    )
    dfirst, dsecond = dh.t() @ normed, a.t() @ dout.view(rows, width)
    return dx, dupdate if dropout else dx.clone(), dfirst, dsecond, sum_parts(shares)


@ffn_backward.register_fake
def _(x, update, gamma, beta, w1, b1, w2, seeds, dropout, dy):
    hidden, width = w1.shape
    sizes = ((hidden, width + SPARE), (hidden + SPARE, width))
    norms = x.new_empty(2, width, dtype=_exact(x))
    return torch.empty_like(x), torch.empty_like(x), *(x.new_empty(size) for size in sizes), norms


def _setup(ctx, inputs, output):
    *tensors, _b2, seeds, ctx.dropout = inputs
    ctx.save_for_backward(*tensors, seeds)


def _backward(ctx, dy):
    dx, dupdate, dfirst, dsecond, dnorms = ffn_backward(*ctx.saved_tensors, ctx.dropout, dy.contiguous())
    hidden, width = len(dfirst), dx.shape[-1]
    first, second = (dfirst[:, :width], dfirst[:, width]), (dsecond[:hidden], dsecond[hidden])
    return dx, dupdate, *dnorms, *first, *second, None, None


ffn_forward.register_autograd(_backward, setup_context=_setup)


def ffn_triton(x, update, norm_weight, norm_bias, w1, b1, w2, b2, dropout, seeds):
    """As `ffn_reference`, by this project's kernels; see README.md beside this file.

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
    return ffn_forward(*tensors, seeds, dropout)
