"""One door to both implementations of `feed_forward`."""

from model.ops.backend import TRITON, by_kernels
from model.ops.feed_forward.reference import feed_forward_reference

if TRITON:
    from model.ops.feed_forward.fused import feed_forward_triton, fits
else:

    def fits(hidden, width):
        """Returns whether the kernels do these sizes: there are none."""
        return False


def feed_forward(x, update, norm_weight, norm_bias, w1, b1, w2, b2, *, dropout=0.0, seeds=None, backend="auto"):
    """The end of a residual layer: r = x + drop(update), and r + drop(W2 gelu(W1 LayerNorm(r) + b1) + b2), (B, S, D).

    Args:
        x: Input of the layer (B, S, D).
        update: What its first branch adds to that (B, S, D).
        norm_weight: (D,); likewise norm_bias. The norm has eps 1e-5.
        w1: (F, D), with b1 (F,).
        w2: (D, F), with b2 (D,).
        dropout: Probability with which an element of either branch is dropped.
        seeds: (2,) int64 on the device of x, without which nothing is dropped; what is dropped is a function of them.
        backend: "torch", "triton", or "auto": triton on a GPU if the kernels do these sizes, else torch.
    """
    if seeds is None:
        dropout = 0.0
    run = feed_forward_triton if by_kernels(backend, x, lambda: fits(*w1.shape)) else feed_forward_reference
    return run(x, update, norm_weight, norm_bias, w1, b1, w2, b2, dropout, seeds)
