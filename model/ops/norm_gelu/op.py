"""One door to both implementations of `norm_gelu` and of `linear_norm_gelu`."""

import torch.nn.functional as F

from model.ops.backend import TRITON, by_kernels, fits_norm
from model.ops.norm_gelu.reference import EPS, norm_gelu_reference

if TRITON:
    from model.ops.norm_gelu.fused import fits, linear_norm_gelu_triton, norm_gelu_triton


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


def linear_norm_gelu(x, linear, weight, bias, *, linear_bias=None, last=None, backend="auto"):
    """gelu(LayerNorm(linear x)) of x (..., C), over D with eps 1e-5, for so few inputs C that it pays to do the map again.

    Args:
        x: (..., C).
        linear: (D, C).
        weight: Scale of the norm (D,).
        bias: Of the norm (D,).
        linear_bias: Is added to linear x (D,).
        last: Weight and bias (D,) of one more LayerNorm, after the GELU.
        backend: "triton" for at most 31 inputs, or 16 or 32 without a bias; "auto": triton on a GPU if the kernels do these
            sizes, else a linear map and `norm_gelu`, as its own "auto" says.
    """
    if by_kernels(backend, x, lambda: fits(*linear.shape, linear_bias is not None)):
        y = linear_norm_gelu_triton(x, linear, weight, bias, linear_bias)
        return y if last is None else F.layer_norm(y, y.shape[-1:], *last, EPS)
    return norm_gelu(F.linear(x, linear, linear_bias), weight, bias, last=last, backend=backend)
