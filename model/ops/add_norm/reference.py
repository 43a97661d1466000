"""The law: a residual sum and a LayerNorm over the last dimension, in plain PyTorch. Shape letters: B batch, S frames, D channels."""

import torch.nn.functional as F

from model.ops.dropout import drop

EPS = 1e-5


def add_dropped_reference(x, update, dropout, seed):
    """(B, S, D); see `add_dropped`."""
    return x + drop(update, seed, dropout)


def add_norm_reference(x, update, weight, bias, dropout, seed):
    """Two times (B, S, D); see `add_norm`."""
    if update is not None:
        x = add_dropped_reference(x, update, dropout, seed)
    return x, F.layer_norm(x, x.shape[-1:], weight, bias, EPS)
