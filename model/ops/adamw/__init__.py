"""AdamW and the norm of the gradient for all parameters of a model at once: `ManyTensors`, on GPUs."""

import importlib.util

if importlib.util.find_spec("triton"):
    from model.ops.adamw.fused import ManyTensors
else:
    ManyTensors = None

__all__ = ["ManyTensors"]
