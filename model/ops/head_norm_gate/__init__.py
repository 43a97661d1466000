"""What follows the mLSTM cell up to the down-projection, summed over the time directions: `head_norm_gate`."""

from model.ops.head_norm_gate.op import head_norm_gate

__all__ = ["head_norm_gate"]
