"""What follows the mLSTM cell up to the down-projection, summed over the time directions: `combine`."""

from model.ops.combine.op import combine

__all__ = ["combine"]
