"""The end of a residual layer, from the mixer's output to the layer's: `feed_forward`."""

from model.ops.feed_forward.op import feed_forward

__all__ = ["feed_forward"]
