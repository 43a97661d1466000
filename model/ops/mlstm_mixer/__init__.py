"""What the mLSTM layer does between its projections, as one operator: `mlstm_mixer`."""

from model.ops.mlstm_mixer.op import mlstm_mixer
from model.ops.mlstm_mixer.reference import before_cell

__all__ = ["before_cell", "mlstm_mixer"]
