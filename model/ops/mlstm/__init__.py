"""The mLSTM cell in both time directions at once: `mlstm`."""

from model.ops.mlstm.op import BACKENDS, mlstm

__all__ = ["BACKENDS", "mlstm"]
