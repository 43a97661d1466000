"""The door to the kernel of `draw_spans`, which not every machine has."""

from model.ops.backend import TRITON

if TRITON:
    from model.ops.spans.fused import draw_spans, fits
else:
    draw_spans = None

    def fits(num_frames):
        """Returns whether the kernel does windows of so many frames: there is none."""
        return False
