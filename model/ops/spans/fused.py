"""The kernel of `draw_spans` as a PyTorch operator. Shape letters: B batch, S frames."""

import torch
import triton
from torch import Tensor

from model.ops.device import require_gpu
from model.ops.spans.kernels import draw_spans_kernel

MOST_FRAMES = 4096
"""Slots are compared with each other, so time grows with the square of the frames; beyond this PyTorch's sort is faster."""

WARPS, PIECE = 16, 32
"""Slots that all are compared with at a time."""


def fits(num_frames: int) -> bool:
    """Returns whether the kernel does windows of so many frames."""
    return num_frames <= MOST_FRAMES


def sizes(num_frames: int, total: int, span: int) -> dict[str, int]:
    """Arguments of the kernel for windows with `total` masked frames."""
    spans = -(-total // span)
    slots = num_frames - total + spans
    return {
        "N": slots, "spans": spans, "last": total - span * (spans - 1), "SPAN": span, "SLOTS": triton.next_power_of_2(slots),
        "FRAMES": triton.next_power_of_2(num_frames), "PIECE": PIECE,
    }  # fmt: skip


@torch.library.custom_op("raysys::draw_spans", mutates_args=())
def draw_spans_triton(uniform: Tensor, total: int, span: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """As `draw_spans_reference`, by this project's kernel; see README.md beside this file."""
    require_gpu(uniform)
    batch, num_frames = uniform.shape[0], (uniform.shape[1] - 1) // 2
    frames = uniform.new_empty(batch, num_frames, dtype=torch.bool)
    index = uniform.new_empty(batch, width, dtype=torch.int64)
    rank = uniform.new_empty(batch, num_frames, dtype=torch.int64)
    constants = sizes(num_frames, total, span)
    draw_spans_kernel[(batch,)](
        uniform.contiguous(),
        frames.view(torch.int8),
        index,
        rank,
        num_frames,
        WIDTH=width,
        num_warps=WARPS,
        **constants,
    )
    return frames, index, rank


@draw_spans_triton.register_fake
def _(uniform, total, span, width):
    batch, num_frames = uniform.shape[0], (uniform.shape[1] - 1) // 2
    shapes = ((num_frames, torch.bool), (width, torch.int64), (num_frames, torch.int64))
    return tuple(uniform.new_empty(batch, size, dtype=dtype) for size, dtype in shapes)
