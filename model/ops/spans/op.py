"""One door to both implementations of `draw_spans`."""

from model.ops.backend import TRITON, by_kernels
from model.ops.spans.reference import draw_spans_reference

if TRITON:
    from model.ops.spans.fused import draw_spans_triton, fits


def draw_spans(uniform, total, span, width, *, backend="auto"):
    """Mask (B, S) bool, positions (B, width) of its true entries, then zeros, and how many stand before each frame (B, S).

    Positions and counts are int64. All backends draw the same spans, bit for bit.

    Args:
        uniform: Random numbers in [0, 1) (B, 2 S + 1), float32: for slots, for the order of spans, for the roll.
        total: Masked frames of every row.
        span: Frames of a span; one span of a row is shorter if `total` is no multiple.
        width: Places for positions, at least `total`.
        backend: "torch", "triton", or "auto": triton on a GPU for windows that are not too long, else torch.
    """
    num_frames = (uniform.shape[1] - 1) // 2
    run = draw_spans_triton if by_kernels(backend, uniform, lambda: fits(num_frames)) else draw_spans_reference
    return run(uniform, total, span, width)
