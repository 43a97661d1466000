"""One door to the implementations of `contrast`."""

from model.ops.backend import TRITON, by_kernels
from model.ops.contrast.window import contrast_torch

if TRITON:
    from model.ops.contrast.fused import contrast_triton, fits


def contrast(context, targets, ids, words, temperature, *, cosine=True, backend="auto"):
    """log(exp(s_ii) + sum_j w_ij exp(s_ij)) - s_ii of every frame i of a window (B, M), and whether no s_ij with w_ij > 0 is above s_ii (B, M).

    s_ij is the product of context i and target j over the temperature, w_ij how often j was drawn as a negative of i, or 0 where both
    have the same code. Gradients: of context, targets and temperature.

    Args:
        context: (B, M, D).
        targets: (B, M, D).
        ids: Codes of the targets (B, M) int64, or None where all differ.
        words: Counts of a byte each, four in a word (B, M, M / 4 rounded up) int32, the first one in the lowest byte.
        temperature: 0-dim.
        cosine: Whether contexts and targets are brought to length 1 before.
        backend: "torch", "triton", or "auto": triton on a GPU if the kernels do these inputs, else torch.
    """
    by_triton = by_kernels(backend, context, lambda: ids is not None and fits(context))
    run = contrast_triton if by_triton else contrast_torch
    return run(context, targets, ids, words, temperature, cosine)
