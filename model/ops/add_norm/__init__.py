"""The border of two residual branches: what one adds, `add_dropped`, and with it the LayerNorm before the next one, `add_norm`."""

from model.ops.add_norm.op import add_dropped, add_norm

__all__ = ["add_dropped", "add_norm"]
