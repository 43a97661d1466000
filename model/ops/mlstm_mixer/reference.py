"""The law: the three operators one after the other.

Shape letters: R directions, B batch, S frames, I inner channels, H heads, E channels of a head.
"""

import torch

from model.ops.conv_qkv_gates import conv_qkv_gates
from model.ops.head_norm_gate import head_norm_gate
from model.ops.mlstm_cell import mlstm_cell

EPS = 1e-6
"""Added to the cell's denominators."""


def before_cell(
    x, taps, conv_bias, wq, wk, wv, gate_weight, gate_bias, *, directions=(False, True), cap=None, backend="auto"
):
    """Returns the cell's (q, k, v, igate, fgate) and the convolved input, which is q, (R, B, S, I), for x (B, S, I); arguments as of `mlstm_mixer`."""
    maps = (wq, wk, wv)
    conv, k, v, gates = conv_qkv_gates(
        x, taps, conv_bias, *maps, gate_weight, gate_bias, directions=directions, backend=backend
    )
    if cap is not None:
        gates = cap * torch.tanh(gates / cap)
    heads = (len(gate_bias) // 2, -1)
    return (*(t.unflatten(-1, heads) for t in (conv, k, v)), *gates.chunk(2, dim=-1)), conv


def mlstm_mixer_reference(wide, *weights, directions=(False, True), cap=None, backend="torch", cell_backend="torch"):
    """(B, S, I); see `mlstm_mixer`."""
    *before, norm_weight, skip = weights
    x, z = wide.chunk(2, dim=-1)
    cell_inputs, conv = before_cell(x, *before, directions=directions, cap=cap, backend=backend)
    h = mlstm_cell(*cell_inputs, backend=cell_backend, eps=EPS)
    return head_norm_gate(h, conv, z, norm_weight, skip, backend=backend)
