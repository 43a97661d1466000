"""One door to both implementations of `norm_gelu`."""

import importlib.util

from model.ops.norm_gelu.reference import norm_gelu_reference

if importlib.util.find_spec("triton"):
    from model.ops.norm_gelu.fused import fits, norm_gelu_triton


def norm_gelu(x, weight, bias, *, backend="auto"):
    """gelu(LayerNorm(x)) of x (..., D), over D with eps 1e-5.

    Args:
        x: (..., D).
        weight: Scale of the norm (D,).
        bias: Of the norm (D,).
        backend: "torch", "triton", or "auto": triton on a GPU if the kernels do that width, else torch. The kernels give the
            dtype of x, plain PyTorch under autocast gives float32.
    """
    if backend not in ("auto", "torch", "triton"):
        raise ValueError(f"backend={backend!r} is unknown: choose auto, torch or triton")
    if backend == "triton" or (backend == "auto" and x.is_cuda and fits(x.shape[-1])):
        return norm_gelu_triton(x, weight, bias)
    return norm_gelu_reference(x, weight, bias)
