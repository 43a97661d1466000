"""Where kernels can run."""

import triton


def require_gpu(x):
    """Raises a ValueError if x is on no GPU, unless Triton's interpreter stands in for one."""
    if not (x.is_cuda or triton.knobs.runtime.interpret):
        raise ValueError(f"backend='triton' needs tensors on a GPU, these are on {x.device}: use backend='torch'")
