"""The one normaliser of training, evaluation and annotation. Shapes: B batch, C component, T samples."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

RATE_HZ = 100.0


def valid_samples(num_valid: Tensor, num_samples: int) -> Tensor:
    """Returns the (B, 1, T) bool mask of the samples before the padding, from `num_valid` (B,)."""
    position = torch.arange(num_samples, device=num_valid.device)
    return position < num_valid.view(-1, 1, 1)


def standardize(waveform: Tensor, num_valid: Tensor | None = None, highpass_hz: float = 0.0) -> Tensor:
    """Returns the waveform with zero mean and unit standard deviation in every component, in float32.

    Ground motion spans nine orders of magnitude, from 1e-9 m/s to raw counts, so nothing here is absolute: a component
    is first divided by its largest value, and counts as dead (exactly zero in the result) when its deviation is below
    the resolution of its floating-point format. Without a high-pass, applying the function twice changes nothing.

    Args:
        waveform: (B, C, T), any unit; float64 is read in float64, everything else in float32.
        num_valid: (B,) samples before the padding, or None where windows are full.
        highpass_hz: corner of `highpass`, which comes before the deviation is measured; 0: none.

    The padding, and samples that are NaN or infinite, have no part in mean and deviation, and are exactly zero in the
    result.
    """
    x = waveform if waveform.dtype == torch.float64 else waveform.float()
    inside = x.isfinite()
    if num_valid is not None:
        inside = inside & valid_samples(num_valid, x.shape[-1])
    x = torch.where(inside, x, 0)
    peak = x.abs().amax(dim=-1, keepdim=True)
    x = _unit(x / torch.where(peak > 0, peak, 1), inside)
    return (_unit(highpass(x, inside, highpass_hz), inside) if highpass_hz else x).float()


def highpass(x: Tensor, inside: Tensor, corner_hz: float) -> Tensor:
    """Returns x (B, C, T) at 100 Hz less its local mean: a Gaussian one over the samples that are `inside` (B or 1, C or 1, T).

    The response is 1 - exp(-(2 pi f s)^2 / 2), which falls by 3 dB at the corner and by 12 dB an octave below it. The mean is one of
    what is there, so that ends, padding and gaps leave no step. Nothing is shifted in time.
    """
    deviation = math.sqrt(-2 * math.log(1 - math.sqrt(0.5))) / (2 * math.pi * corner_hz) * RATE_HZ
    half = math.ceil(4 * deviation)
    place = torch.arange(-half, half + 1, device=x.device, dtype=x.dtype)
    weight = torch.exp(-((place / deviation) ** 2) / 2)
    inside = inside.expand_as(x).to(x.dtype)
    # Neither bfloat16 nor TF32: what is left may be a thousandth of what is taken away.
    with torch.autocast(x.device.type, enabled=False), torch.backends.cudnn.flags(allow_tf32=False):
        around = torch.stack([x * inside, inside]).flatten(0, 2)[:, None]
        total, count = F.conv1d(around, (weight / weight.sum())[None, None], padding=half).view(2, *x.shape)
    return (x - total / count.clamp_min(1e-6)) * inside


def _unit(x: Tensor, inside: Tensor) -> Tensor:
    """x (B, C, T) with zero mean and unit deviation over the samples that are inside; zero where it is dead."""
    count = inside.sum(dim=-1, keepdim=True).clamp_min(1)
    x = (x - x.sum(dim=-1, keepdim=True) / count) * inside
    std = ((x * x).sum(dim=-1, keepdim=True) / count).sqrt()
    alive = std > 4 * torch.finfo(x.dtype).eps
    return torch.where(alive, x / torch.where(alive, std, 1), 0)


def live_windows(standardized: Tensor) -> Tensor:
    """Returns which windows (B,) of a standardised waveform (B, C, T) hold any signal at all."""
    return (standardized != 0).flatten(1).any(dim=1)
