"""GELU of a LayerNorm over channels, with what comes before and after it in the encoder: `norm_gelu`, `linear_norm_gelu`."""

from model.ops.norm_gelu.op import linear_norm_gelu, norm_gelu

__all__ = ["linear_norm_gelu", "norm_gelu"]
