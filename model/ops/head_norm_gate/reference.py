"""The law: per-head norm, learnable skip, sum over directions and output gate, in plain PyTorch.

Shape letters: R directions, B batch, S frames, H heads, E channels of a head, I = H E inner channels.
"""

import torch.nn.functional as F

EPS = 1e-5


def head_norm_gate_reference(h, conv, z, norm_weight, skip):
    """(B, S, I): the sum over directions of LayerNorm(h_r) (1 + norm_weight) + skip conv_r, times SiLU(z)."""
    normed = F.layer_norm(h, h.shape[-1:], eps=EPS).flatten(-2) * (1 + norm_weight)
    return (normed + skip * conv).sum(0) * F.silu(z)
