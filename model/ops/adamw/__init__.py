"""AdamW and the norm of the gradient for all parameters of a model at once: `many_tensors`."""

from model.ops.adamw.op import many_tensors

__all__ = ["many_tensors"]
