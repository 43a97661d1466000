"""The end of a residual layer, from the mixer's output to the layer's: `ffn`."""

from model.ops.ffn.op import ffn, fits

__all__ = ["ffn", "fits"]
