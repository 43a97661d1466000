"""In which precision kernels add up what they read: float64 for float64, float32 for everything else."""

import torch
import triton.language as tl


def sum_dtype(x: torch.Tensor) -> torch.dtype:
    """Returns PyTorch's dtype of sums over elements of x."""
    return torch.promote_types(x.dtype, torch.float32)


def sum_type(x: torch.Tensor) -> tl.dtype:
    """Returns Triton's type of the same sums, which kernels take as ACC."""
    return tl.float64 if x.dtype == torch.float64 else tl.float32
