"""Where kernels can run."""

import functools
import math

import torch
import triton


def require_gpu(x):
    """Raises a ValueError if x is on no GPU, unless Triton's interpreter stands in for one."""
    if not (x.is_cuda or triton.knobs.runtime.interpret):
        raise ValueError(f"backend='triton' needs tensors on a GPU, these are on {x.device}: use backend='torch'")


@functools.cache
def shared_memory_of(device):
    """Returns the most bytes of shared memory that a program may use on a device; infinity where there is no such limit."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return math.inf
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin
