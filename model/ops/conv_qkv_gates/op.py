"""One door to both implementations of `conv_qkv_gates`."""

from model.ops.backend import TRITON, by_kernels
from model.ops.conv_qkv_gates.reference import conv_qkv_gates_reference

if TRITON:
    from model.ops.conv_qkv_gates.fused import conv_qkv_gates_triton, fits


def conv_qkv_gates(
    x, conv_weight, conv_bias, q_weight, k_weight, v_weight, gate_weight, gate_bias, *, directions=(False, True),
    backend="auto",
):  # fmt: skip
    """What the mLSTM cell needs of x: (conv, k, v, gates), for each direction.

    conv (R, B, S, I) is SiLU of the causal convolution of x, and serves as queries; k (R, B, S, I) is a block-diagonal map
    of conv, W_q^T W_k, v (1, B, S, I) one of x; gates (R, B, S, 2 H) are linear in W_q conv, W_k conv and v together, in fp32.

    Args:
        x: Up-projected input (B, S, I); may be a slice of a wider tensor's last dimension.
        conv_weight: Taps (I, K) of the depthwise convolution, the last one on the frame itself.
        conv_bias: (I,).
        q_weight: Blocks (I / n, n, n) as (block, out, in); likewise k_weight and v_weight.
        gate_weight: (2 H, 3 I), columns in the order q, k, v.
        gate_bias: (2 H,).
        directions: For each direction whether it runs backward in time: (False, True), (False,) or (True,).
        backend: "torch", "triton", or "auto": triton on a GPU if the kernels do these sizes, else torch.
    """
    sizes = (x.shape[-1], q_weight.shape[-1], conv_weight.shape[-1], len(gate_weight))
    run = conv_qkv_gates_triton if by_kernels(backend, x, lambda: fits(*sizes)) else conv_qkv_gates_reference
    return run(x, conv_weight, conv_bias, q_weight, k_weight, v_weight, gate_weight, gate_bias, directions)
