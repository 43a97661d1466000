"""The law: causal convolution, SiLU, block-diagonal keys and values, and gates, in plain PyTorch.

The cell meets queries W_q a and keys W_k a' in their products alone, (W_q a) . (W_k a') = a . (W_q^T W_k a'): so the convolved
input a is the queries, W_q^T W_k a the keys, and one map does for two.

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


def keys_map(q_weight, k_weight):
    """The blocks W_q^T W_k (I / n, n, n) of blocks (I / n, out, in)."""
    return (q_weight[:, :, :, None] * k_weight[:, :, None, :]).sum(1)


def gate_maps(gate_weight, q_weight, k_weight, v_weight):
    """What the gates are of the convolved input and of x (2 H, I each), for their weights (2 H, 3 I) on W_q a, W_k a and W_v x."""
    on_q, on_k, on_v = gate_weight.chunk(3, dim=1)

    def through(weight, gate):
        num_blocks, out, _ = weight.shape
        return (gate.view(-1, num_blocks, out, 1) * weight).sum(2).flatten(1)

    return through(q_weight, on_q) + through(k_weight, on_k), through(v_weight, on_v)


def conv_qkv_gates_reference(
    x, conv_weight, conv_bias, q_weight, k_weight, v_weight, gate_weight, gate_bias, directions
):
    """Convolved input, keys (R, B, S, I), values (1, B, S, I) and gates (R, B, S, 2 H); see `conv_qkv_gates`."""
    conv = F.silu(torch.stack([convolve(x, conv_weight, conv_bias, backward) for backward in directions]))
    k = F.linear(conv, block_diagonal(keys_map(q_weight, k_weight)))
    conv = conv.to(k.dtype)  # under autocast
    v = F.linear(x, block_diagonal(v_weight))[None]
    on_a, on_x = gate_maps(gate_weight, q_weight, k_weight, v_weight)
    gates = F.linear(conv, on_a) + F.linear(x, on_x) + gate_bias
    return conv, k, v, gates.to(torch.promote_types(gates.dtype, torch.float32))
