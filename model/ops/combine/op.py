"""One door to both implementations of `combine`."""

from model.ops.choice import TRITON, by_kernels
from model.ops.combine.reference import combine_reference

if TRITON:
    from model.ops.combine.fused import combine_triton


def combine(h, conv, z, norm_weight, skip, *, backend="auto"):
    """(B, S, I): sum over directions of LayerNorm(h_r) (1 + norm_weight) + skip conv_r, times SiLU(z).

    Args:
        h: Hidden states of the cell (R, B, S, H, E); every head is normalised alone, over E, with eps 1e-5.
        conv: Convolved input (R, B, S, I), I = H E.
        z: Pre-activation of the output gate (B, S, I); may be a slice of a wider tensor's last dimension.
        norm_weight: Scale of the norm less one (I,).
        skip: Weight of the convolved input (I,).
        backend: "torch", "triton", or "auto": triton on a GPU, torch elsewhere.
    """
    run = combine_triton if by_kernels(backend, h) else combine_reference
    return run(h, conv, z, norm_weight, skip)
