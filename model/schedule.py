"""What changes over the budget of a run."""

import math


def cosine_schedule(start: float, end: float, progress: float) -> float:
    """Returns the value at `progress` in [0, 1] of a half cosine from start to end."""
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
