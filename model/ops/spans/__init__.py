"""Spans of masked frames, exactly as many in every window: `draw_spans`."""

from model.ops.spans.op import draw_spans

__all__ = ["draw_spans"]
