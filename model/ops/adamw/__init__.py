"""AdamW and the norm of the gradient for all parameters of a model at once: `ManyTensors`, on GPUs."""

from model.ops.backend import TRITON

if TRITON:
    from model.ops.adamw.fused import ManyTensors
else:
    ManyTensors = None

__all__ = ["ManyTensors"]
