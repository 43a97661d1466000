"""Spans of masked frames, drawn by one kernel; the law is `model.masking`."""

from model.ops.spans.op import draw_spans, fits

__all__ = ["draw_spans", "fits"]
