"""One door to both implementations of `feed_forward`."""

import torch

from model.ops.backend import TRITON, by_kernels
from model.ops.feed_forward.reference import feed_forward_reference

if TRITON:
    from model.ops.feed_forward.fused import feed_forward_triton, fits


def feed_forward(x, update, norm_weight, norm_bias, w1, b1, w2, b2, *, dropout=0.0, seeds=None, backend="auto"):
    """The end of a residual layer: r = x + drop(update), and r + drop(W2 gelu(W1 LayerNorm(r) + b1) + b2), (B, S, D).

    Args:
        x: Input of the layer (B, S, D).
        update: What its first branch adds to that (B, S, D).
        norm_weight: (D,); likewise norm_bias. The norm has eps 1e-5.
        w1: (F, D), with b1 (F,).
        w2: (D, F), with b2 (D,).
        dropout: Probability with which an element of either branch is dropped.
        seeds: (2,) int64 on the device of x: what is dropped is a function of them. None: PyTorch's generator says what.
        backend: "torch", "triton", or "auto": triton on a GPU if the kernels do these sizes, else two linear maps between
            `add_norm` and `add_dropped`, each as its own "auto" says.
    """
    weights = (norm_weight, norm_bias, w1, b1, w2, b2)
    if by_kernels(backend, x, lambda: fits(*w1.shape)):
        if seeds is None and dropout > 0:
            seeds = torch.randint(2**62, (2,), device=x.device)
        return feed_forward_triton(x, update, *weights, dropout, seeds)
    return feed_forward_reference(x, update, *weights, dropout, seeds, backend)
