"""The law: exactly `total` masked frames in every row, in spans. Shape letters: B batch, S frames, M masked frames, n spans.

Spans are placed uniformly over all placements: n spans and the S - M free frames form a sequence of S - M + n slots, of
which the n spans are a uniform choice (stars and bars). A random circular shift then makes every frame equally likely to be
masked; it may cut one span in two.
"""

import torch
from torch import Tensor


def draw_spans_reference(uniform: Tensor, total: int, span: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns mask (B, S), positions (B, width) and counts (B, S); see `draw_spans`."""
    num_frames = (uniform.shape[1] - 1) // 2
    place, order, shift = uniform.split([num_frames, num_frames, 1], dim=1)
    starts, lengths = exact_spans(place, order, total, span)
    frames = _roll_rows(cover(starts, lengths, num_frames), (shift * num_frames).long())
    return frames, *places(frames, width)


def exact_spans(place: Tensor, order: Tensor, total: int, span: int) -> tuple[Tensor, Tensor]:
    """Returns starts and lengths (B, n) of n disjoint spans, together `total` frames long, one maybe shorter."""
    batch, num_frames = place.shape
    num_spans = -(-total // span)
    # The one span that is shorter stands at a random place of the row.
    short = order[:, :num_spans].argmin(dim=1, keepdim=True)
    lengths = torch.full((batch, num_spans), span, device=place.device)
    lengths = lengths.scatter(1, short, total - span * (num_spans - 1))
    slots = place[:, : num_frames - total + num_spans].topk(num_spans).indices.sort(dim=1).values
    return slots + lengths.cumsum(dim=1) - lengths - torch.arange(num_spans, device=place.device), lengths


def cover(starts: Tensor, lengths: Tensor, num_frames: int) -> Tensor:
    """Returns (B, S) bool, true in the union of the spans."""
    edges = torch.zeros(starts.shape[0], num_frames + 1, dtype=torch.int32, device=starts.device)
    ones = torch.ones_like(starts, dtype=torch.int32)
    edges = edges.scatter_add(1, starts, ones).scatter_add(1, starts + lengths, -ones)
    return edges.cumsum(dim=1)[:, :num_frames] > 0


def _roll_rows(frames: Tensor, shift: Tensor) -> Tensor:
    """Returns every row of `frames` (B, S) rolled by its own `shift` (B, 1)."""
    position = torch.arange(frames.shape[1], device=frames.device)
    return frames.gather(1, (position - shift) % frames.shape[1])


def places(frames: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Returns positions (B, width) of the true entries of (B, S) in rising order, then zeros, and how many stand before each entry.

    No sort, no boolean index.
    """
    before = frames.cumsum(dim=1) - frames.long()
    rank = torch.where(frames, before, width)
    position = torch.arange(frames.shape[1], device=frames.device).expand_as(rank)
    return position.new_zeros(frames.shape[0], width + 1).scatter(1, rank, position)[:, :width], before
