"""One door to both implementations of `head_norm_gate`."""

from model.ops.backend import TRITON, by_kernels
from model.ops.head_norm_gate.reference import head_norm_gate_reference

if TRITON:
    from model.ops.head_norm_gate.fused import head_norm_gate_triton


def head_norm_gate(h, conv, z, norm_weight, skip, *, backend="auto"):
    """(B, S, I): sum over directions of LayerNorm(h_r) (1 + norm_weight) + skip conv_r, times SiLU(z).

    Args:
        h: Hidden states of the cell (R, B, S, H, E); every head is normalised alone, over E, with eps 1e-5.
        conv: Convolved input (R, B, S, I), I = H E.
        z: Pre-activation of the output gate (B, S, I); may be a slice of a wider tensor's last dimension.
        norm_weight: Scale of the norm less one (I,).
        skip: Weight of the convolved input (I,).
        backend: "torch", "triton", or "auto": triton on a GPU, torch elsewhere.
    """
    run = head_norm_gate_triton if by_kernels(backend, h) else head_norm_gate_reference
    return run(h, conv, z, norm_weight, skip)
