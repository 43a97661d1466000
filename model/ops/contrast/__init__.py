"""InfoNCE of every masked frame of a window against the other ones, with all counts of negatives at once."""

from model.ops.contrast.op import contrast

__all__ = ["contrast"]
