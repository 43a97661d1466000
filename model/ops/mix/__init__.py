"""What the mLSTM layer does between its projections, as one operator: `mix`."""

from model.ops.mix.op import mix
from model.ops.mix.reference import before_cell

__all__ = ["before_cell", "mix"]
