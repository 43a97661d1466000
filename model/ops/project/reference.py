"""The law: causal convolution, SiLU, block-diagonal queries, keys and values, and gates, in plain PyTorch.

Shape letters: R directions, B batch, S frames, I inner channels, H heads.
"""

import torch
import torch.nn.functional as F


def block_diagonal(weight):
    """The matrix (I, I) that `weight` (I / n, out, in) stands for: y = x @ matrix.T mixes channels within blocks of n."""
    num_blocks, out, inp = weight.shape
    eye = torch.eye(num_blocks, device=weight.device, dtype=weight.dtype)
    return (eye[:, None, :, None] * weight[:, :, None, :]).reshape(num_blocks * out, num_blocks * inp)


def convolve(x, weight, bias, backward):
    """Depthwise convolution (B, S, I) of x (B, S, I) with weight (I, K): over the past, or over the future if backward."""
    reach, num_frames = weight.shape[1] - 1, x.shape[1]
    x, weight = (F.pad(x, (0, 0, 0, reach)), weight.flip(1)) if backward else (F.pad(x, (0, 0, reach, 0)), weight)
    return sum((weight[:, j] * x[:, j : j + num_frames] for j in range(reach + 1)), bias)


def project_reference(x, conv_weight, conv_bias, q_weight, k_weight, v_weight, gate_weight, gate_bias, directions):
    """Convolved input, queries, keys (R, B, S, I), values (1, B, S, I) and gates (R, B, S, 2 H); see `project`."""
    conv = F.silu(torch.stack([convolve(x, conv_weight, conv_bias, backward) for backward in directions]))
    q, k = (F.linear(conv, block_diagonal(w)) for w in (q_weight, k_weight))
    v = F.linear(x, block_diagonal(v_weight))[None]
    on_q, on_k, on_v = gate_weight.chunk(3, dim=1)
    gates = F.linear(q, on_q) + F.linear(k, on_k) + F.linear(v, on_v) + gate_bias
    return conv, q, k, v, gates.to(torch.promote_types(gates.dtype, torch.float32))
