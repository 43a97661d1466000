"""What the mLSTM cell reads, from the up-projected input, for both time directions: `project`."""

from model.ops.project.op import project

__all__ = ["project"]
