"""The one normaliser of training, evaluation and annotation. Shapes: B batch, C component, T samples."""

import torch
from torch import Tensor


def valid_samples(num_valid: Tensor, num_samples: int) -> Tensor:
    """Returns the (B, 1, T) bool mask of the samples before the padding, from `num_valid` (B,)."""
    position = torch.arange(num_samples, device=num_valid.device)
    return position < num_valid.view(-1, 1, 1)


def standardize(waveform: Tensor, num_valid: Tensor | None = None) -> Tensor:
    """Returns the waveform with zero mean and unit standard deviation in every component, in float32.

    Ground motion spans nine orders of magnitude, from 1e-9 m/s to raw counts, so nothing here is absolute: a component
    is first divided by its largest value, and counts as dead (exactly zero in the result) when its deviation is below
    the resolution of its floating-point format. Applying the function twice changes nothing.

    Args:
        waveform: (B, C, T), any unit; float64 is read in float64, everything else in float32.
        num_valid: (B,) samples before the padding, or None where windows are full.

    The padding, and samples that are NaN or infinite, have no part in mean and deviation, and are exactly zero in the
    result.
    """
    x = waveform if waveform.dtype == torch.float64 else waveform.float()
    inside = x.isfinite()
    if num_valid is not None:
        inside = inside & valid_samples(num_valid, x.shape[-1])
    count = inside.sum(dim=-1, keepdim=True).clamp_min(1)
    x = torch.where(inside, x, 0)
    peak = x.abs().amax(dim=-1, keepdim=True)
    x = x / torch.where(peak > 0, peak, 1)
    x = (x - x.sum(dim=-1, keepdim=True) / count) * inside
    std = ((x * x).sum(dim=-1, keepdim=True) / count).sqrt()
    alive = std > 4 * torch.finfo(x.dtype).eps
    return torch.where(alive, x / torch.where(alive, std, 1), 0).float()


def live_windows(standardized: Tensor) -> Tensor:
    """Returns which windows (B,) of a standardised waveform (B, C, T) hold any signal at all."""
    return (standardized != 0).flatten(1).any(dim=1)
