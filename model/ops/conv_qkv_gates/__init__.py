"""What the mLSTM cell reads, from the up-projected input, for both time directions: `conv_qkv_gates`."""

from model.ops.conv_qkv_gates.op import conv_qkv_gates

__all__ = ["conv_qkv_gates"]
