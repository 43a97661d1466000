"""The law: a residual sum, LayerNorm, two linear maps with a GELU between them, another residual sum, in plain PyTorch.

Shape letters: N frames, D channels, F hidden channels.
"""

import torch.nn.functional as F

from model.ops.dropout import drop

EPS = 1e-5
SPARE = 8
"""Columns that the kernels keep beside the hidden channels (kernels.py)."""


def feed_forward_reference(x, update, norm_weight, norm_bias, w1, b1, w2, b2, dropout, seeds):
    """(B, S, D); see `feed_forward`."""
    first, second = (None, None) if seeds is None else seeds
    x = x + drop(update, first, dropout)
    normed = F.layer_norm(x, x.shape[-1:], norm_weight, norm_bias, EPS)
    return x + drop(F.linear(F.gelu(F.linear(normed, w1, b1)), w2, b2), second, dropout)
