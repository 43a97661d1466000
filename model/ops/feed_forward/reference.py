"""The law: a residual sum, LayerNorm, two linear maps with a GELU between them, another residual sum.

Shape letters: B batch, S frames, D channels, F hidden channels.
"""

import torch.nn.functional as F

from model.ops.add_norm import add_dropped, add_norm


def feed_forward_reference(x, update, norm_weight, norm_bias, w1, b1, w2, b2, dropout, seeds, backend="torch"):
    """(B, S, D); see `feed_forward`. Sums and norm are those of `add_norm`, by its own choice."""
    settings = {"backend": backend}
    if seeds is None:
        x, normed = add_norm(x, norm_weight, norm_bias, update=F.dropout(update, dropout), **settings)
        return x + F.dropout(_branch(normed, w1, b1, w2, b2), dropout)
    first, second = seeds
    x, normed = add_norm(x, norm_weight, norm_bias, update=update, dropout=dropout, seed=first, **settings)
    return add_dropped(x, _branch(normed, w1, b1, w2, b2), dropout=dropout, seed=second, **settings)


def _branch(normed, w1, b1, w2, b2):
    return F.linear(F.gelu(F.linear(normed, w1, b1)), w2, b2)
