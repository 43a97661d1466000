"""The border of two residual branches: what one adds, and the LayerNorm before the next one."""

from model.ops.add_norm.op import add_norm

__all__ = ["add_norm"]
