"""The law: the three operators one after the other.

Shape letters: R directions, B batch, S frames, I inner channels, H heads, E channels of a head.
"""

import torch

from model.ops.combine import combine
from model.ops.mlstm import mlstm
from model.ops.project import project

EPS = 1e-6
"""Added to the cell's denominators."""


def before_cell(
    x, taps, conv_bias, wq, wk, wv, gate_weight, gate_bias, *, directions=(False, True), cap=None, backend="auto"
):
    """Returns the cell's (q, k, v, igate, fgate) and the convolved input, which is q, (R, B, S, I), for x (B, S, I); arguments as of `mix`."""
    maps = (wq, wk, wv)
    conv, k, v, gates = project(
        x, taps, conv_bias, *maps, gate_weight, gate_bias, directions=directions, backend=backend
    )
    if cap is not None:
        gates = cap * torch.tanh(gates / cap)
    heads = (len(gate_bias) // 2, -1)
    return (*(t.unflatten(-1, heads) for t in (conv, k, v)), *gates.chunk(2, dim=-1)), conv


def mix_reference(wide, *weights, both=True, cap=None, backend="torch"):
    """(B, S, I); see `mix`."""
    *before, norm_weight, skip = weights
    x, z = wide.chunk(2, dim=-1)
    directions = (False, True) if both else (False,)
    cell_inputs, conv = before_cell(x, *before, directions=directions, cap=cap, backend=backend)
    h = mlstm(*cell_inputs, backend=backend, eps=EPS)
    return combine(h, conv, z, norm_weight, skip, backend=backend)
