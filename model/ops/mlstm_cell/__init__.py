"""The mLSTM cell in both time directions at once: `mlstm_cell`."""

from model.ops.mlstm_cell.op import mlstm_cell

__all__ = ["mlstm_cell"]
