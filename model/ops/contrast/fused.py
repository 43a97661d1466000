"""The kernels of `contrast` as PyTorch operators. Shape letters: B batch, M frames of a window, N = B M, D channels."""

import torch
import triton
from torch import Tensor

from model.ops.contrast.kernels import contrast_grad_kernel, contrast_kernel, lengths_kernel
from model.ops.device import require_gpu
from model.ops.launch import PieceLaunch, settings
from model.ops.precision import sum_dtype, sum_type

ELEMENTS = 2048
"""Of a tile of the lengths, about."""


FORWARD = PieceLaunch(64, 32, 4, 3)
BACKWARD = PieceLaunch(64, 32, 4, 2)


def fits(context: Tensor) -> bool:
    """Returns whether the kernels do contexts (B, M, D) of this width and dtype on a GPU."""
    return context.dtype in (torch.bfloat16, torch.float16) and fits_width(context.shape[-1])


def fits_width(width: int) -> bool:
    """Returns whether the kernels do this width."""
    return 16 <= width <= 256 and width & (width - 1) == 0


def launched(context, launch):
    """The grid, and the constants of a kernel."""
    batch, num_frames, width = context.shape
    acc = sum_type(context)
    constants = {"D": width, "L": launch.frames, "P": launch.piece, "ACC": acc}
    constants["TILES"] = triton.cdiv(num_frames, launch.piece)
    grid = (triton.cdiv(num_frames, launch.frames), batch)
    return grid, constants | settings(launch.warps, launch.stages)


@torch.library.custom_op("raysys::contrast", mutates_args=())
def contrast_forward(
    context: Tensor, targets: Tensor, ids: Tensor, words: Tensor, temperature: Tensor, cosine: bool, learned: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Loss and right (B, M); for the gradient scale, positive (B, M), inverse lengths (2, B, M), pull (B, M, D) and, if learned, mean (B, M)."""
    require_gpu(context)
    exact, shape = sum_dtype(context), context.shape[:2]
    rows, width = shape.numel(), context.shape[-1]
    inverse, positive = context.new_empty(2, *shape, dtype=exact), context.new_empty(shape, dtype=exact)
    loss, scale = torch.empty_like(positive), torch.empty_like(positive)
    mean = torch.empty_like(positive) if learned else positive.new_empty(())
    right, pull = context.new_empty(shape, dtype=torch.bool), torch.empty_like(context)
    grid, constants = launched(context, FORWARD)
    tile = max(1, ELEMENTS // width)
    lengths_kernel[(triton.cdiv(rows, tile),)](
        context, targets, inverse, positive, rows, D=width, L=tile, COSINE=cosine, ACC=constants["ACC"], num_warps=4
    )
    counts = words.view(torch.uint8)
    contrast_kernel[grid](
        context, targets, ids, counts, inverse, positive, temperature, loss, right, scale, mean, pull, rows, shape[1],
        counts.shape[-1], LEARNED=learned, **constants,
    )  # fmt: skip
    return loss, right, scale, positive, inverse, pull, mean


@contrast_forward.register_fake
def _(context, targets, ids, words, temperature, cosine, learned):
    exact, shape = sum_dtype(context), context.shape[:2]
    loss, scale, positive = (context.new_empty(shape, dtype=exact) for _ in range(3))
    mean = context.new_empty(shape if learned else (), dtype=exact)
    right, inverse = context.new_empty(shape, dtype=torch.bool), context.new_empty(2, *shape, dtype=exact)
    return loss, right, scale, positive, inverse, torch.empty_like(context), mean


@torch.library.custom_op("raysys::contrast_grad", mutates_args=())
def contrast_backward(
    context: Tensor, targets: Tensor, ids: Tensor, words: Tensor, temperature: Tensor, scale: Tensor, positive: Tensor,
    inverse: Tensor, pull: Tensor, grad: Tensor, cosine: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients of contexts and of targets (B, M, D)."""
    rows, num_frames = grad.numel(), context.shape[1]
    dcontext, dtargets = torch.empty_like(context), torch.empty_like(targets)
    counts = words.view(torch.uint8)
    grid, constants = launched(context, BACKWARD)
    contrast_grad_kernel[grid](
        context, targets, ids, counts, inverse, positive, temperature, scale, pull, grad, dcontext, dtargets, rows, num_frames,
        counts.shape[-1], COSINE=cosine, **constants,
    )  # fmt: skip
    return dcontext, dtargets


@contrast_backward.register_fake
def _(context, targets, ids, words, temperature, scale, positive, inverse, pull, grad, cosine):
    return torch.empty_like(context), torch.empty_like(targets)


def _setup(ctx, inputs, output):
    *tensors, ctx.cosine, ctx.learned = inputs
    _loss, right, *saved = output
    ctx.mark_non_differentiable(right)
    ctx.save_for_backward(*tensors, *saved)


def _backward(ctx, grad, *_):
    *tensors, mean = ctx.saved_tensors
    dcontext, dtargets = contrast_backward(*tensors, grad.contiguous(), ctx.cosine)
    dtemperature = None
    if ctx.learned:
        temperature = tensors[4]
        dtemperature = -(grad * mean).sum() / temperature
    return dcontext, dtargets, None, None, dtemperature, None, None


contrast_forward.register_autograd(_backward, setup_context=_setup)


def contrast_triton(context, targets, ids, words, temperature, cosine):
    """As `contrast_reference`, by this project's kernels; see README.md beside this file.

    Raises:
        ValueError: a width that the kernels are not written for.
    """
    width = context.shape[-1]
    if not fits_width(width):
        raise ValueError(
            f"backend='triton' does a power of 2 of channels from 16 to 256, not {width}: use backend='torch'"
        )
    tensors = (t.contiguous() for t in (context, targets.to(context.dtype), ids, words))
    return contrast_forward(*tensors, temperature, cosine, temperature.requires_grad)[:2]
