"""GELU of a LayerNorm over channels, as one operator: `norm_gelu`."""

from model.ops.norm_gelu.op import norm_gelu

__all__ = ["norm_gelu"]
