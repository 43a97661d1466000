"""One door to both implementations of `norm_gelu` and of `linear_norm_gelu`."""

from model.ops.backend import TRITON, by_kernels, fits_norm
from model.ops.norm_gelu.reference import linear_norm_gelu_reference, norm_gelu_reference

if TRITON:
    from model.ops.norm_gelu.fused import linear_norm_gelu_triton, norm_gelu_triton


def norm_gelu(x, weight, bias, *, early=None, offset=None, last=None, backend="auto"):
    """gelu(LayerNorm(x)) of x (B, S, D), over D with eps 1e-5.

    Args:
        x: (B, S, D).
        weight: Scale of the norm (D,).
        bias: Of the norm (D,).
        early: (B, S, D), of which every row but a window's last is added to the next row of x before all else.
        offset: (D,), with `early` and only with it: is added too.
        last: Weight and bias (D,) of one more LayerNorm, after the GELU.
        backend: "torch", "triton", or "auto": triton on a GPU if the kernels do that width, else torch. The kernels give the
            dtype of x, plain PyTorch under autocast gives float32.
    """
    run = norm_gelu_triton if by_kernels(backend, x, lambda: fits_norm(x.shape[-1])) else norm_gelu_reference
    return run(x, weight, bias, early, offset, *(last or (None, None)))


def linear_norm_gelu(x, linear, weight, bias, *, backend="auto"):
    """gelu(LayerNorm(linear x)) of x (..., C), over D with eps 1e-5, for so few inputs C that it pays to do the map again.

    Args:
        x: (..., C).
        linear: (D, C). A bias is a column of it beside a column of ones.
        weight: Scale of the norm (D,).
        bias: Of the norm (D,).
        backend: As of `norm_gelu`; the kernels do 16 and 32 inputs.
    """
    width, inputs = linear.shape
    chosen = by_kernels(backend, x, lambda: fits_norm(width) and inputs in (16, 32))
    run = linear_norm_gelu_triton if chosen else linear_norm_gelu_reference
    return run(x, linear, weight, bias)
