"""Span masks, drawn on the device with static shapes. Shapes: B batch, S frames, M masked frames.

"exact" masks exactly round(ratio * S) frames of every row, in spans placed uniformly over all placements
(model/ops/spans).

"wav2vec2" (Baevski et al. 2020, section 4.2) draws the starts without replacement and lets spans overlap, so that
fewer frames are masked than the ratio says, and not the same number in every row.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from model.config import MaskConfig
from model.ops.spans import draw_spans
from model.ops.spans.reference import cover, places


class SpanMask(NamedTuple):
    """Which frames are hidden."""

    frames: Tensor
    """(B, S) bool, true where masked."""
    index: Tensor
    """(B, M) positions of the masked frames in rising order; those behind a row's masked frames mean nothing."""
    rank: Tensor
    """(B, S) masked frames before each frame."""


class _Take(torch.autograd.Function):
    """Gather of frames of which none is taken twice, so its gradient is a gather too, and no scattered addition."""

    @staticmethod
    def forward(ctx, x, index, frames, rank):
        ctx.save_for_backward(frames, rank)
        return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))

    @staticmethod
    def backward(ctx, grad):
        return _put_back(grad, *ctx.saved_tensors), None, None, None


def _put_back(grad: Tensor, frames: Tensor, rank: Tensor) -> Tensor:
    """Returns (B, S, D) with the rows of grad (B, M, D) at the masked frames, 0 elsewhere."""
    place = rank.clamp_max(grad.shape[1] - 1)[..., None].expand(-1, -1, grad.shape[-1])
    return torch.where(frames[..., None], grad.gather(1, place), 0)


class _TakeAside(torch.autograd.Function):
    """The same with x itself beside it, whose gradient is so added where that of the frames is written."""

    @staticmethod
    def forward(ctx, x, index, frames, rank):
        ctx.save_for_backward(frames, rank)
        return x.view_as(x), x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))

    @staticmethod
    def backward(ctx, dx, grad):
        return dx + _put_back(grad, *ctx.saved_tensors), None, None, None


def take(x: Tensor, spans: SpanMask) -> Tensor:
    """Returns the masked frames (B, M, D) of x (B, S, D); those behind a row's masked frames take no part in the gradient."""
    return _Take.apply(x, spans.index, spans.frames, spans.rank)


def take_aside(x: Tensor, spans: SpanMask) -> tuple[Tensor, Tensor]:
    """Returns x (B, S, D), for all other uses of it, and `take(x, spans)`."""
    return _TakeAside.apply(x, spans.index, spans.frames, spans.rank)


def num_masked(num_frames: int, config: MaskConfig) -> int:
    """Returns the masked frames of a row ("exact") or their maximum ("wav2vec2")."""
    if config.mode == "exact":
        return min(max(round(config.ratio * num_frames), 1), num_frames - 1)
    return min(_num_starts(num_frames, config) * config.span_frames, num_frames)


def span_mask(uniform: Tensor, config: MaskConfig) -> SpanMask:
    """Returns the mask of S frames made from uniform random numbers in [0, 1) of shape (B, 2 S + 1)."""
    num_frames = (uniform.shape[1] - 1) // 2
    if config.span_frames >= num_frames:
        raise ValueError(f"mask.span_frames={config.span_frames} must be below the {num_frames} frames of a window")
    total = num_masked(num_frames, config)
    # A multiple of 8: products of scores (M, M) are slow on tensor cores otherwise.
    width = min(8 * math.ceil(total / 8), num_frames)
    if config.mode == "exact":
        return SpanMask(*draw_spans(uniform, total, config.span_frames, width))
    place = uniform[:, :num_frames]
    starts = place[:, : num_frames - config.span_frames + 1].topk(_num_starts(num_frames, config)).indices
    frames = cover(starts, torch.full_like(starts, config.span_frames), num_frames)
    return SpanMask(frames, *places(frames, width))


def _num_starts(num_frames: int, config: MaskConfig) -> int:
    return min(max(round(config.ratio * num_frames / config.span_frames), 1), num_frames - config.span_frames + 1)
