"""The law of dropout in the kernels: which elements it keeps is a function of a seed and of their place."""

import torch

from model.ops.backend import by_kernels
from model.ops.philox import philox


def keep_mask(seed, num_frames, width, dropout):
    """Which elements (N, D) dropout keeps: those whose 16 bits of Philox4x32-7 are not below dropout * 2^16.

    The counter is (frame * D / 8 + channel // 8, 0, 0, 0), the key is the seed. Eight channels side by side take the lower halves of
    the four outputs at even places and the upper ones at odd places.
    """
    call = torch.arange(num_frames * width // 8, device=seed.device)
    bits = torch.stack(philox(seed.reshape(()), call, torch.zeros_like(call), rounds=7), dim=-1)
    return torch.stack([bits & 0xFFFF, bits >> 16], dim=-1).view(num_frames, width) >= threshold(dropout)


def threshold(dropout):
    """Dropout as a number of 16 bits."""
    return round(dropout * 2**16)


def drop(x, seed, dropout):
    """x (B, S, D) with the elements that are not kept set to 0, the others scaled up so that the mean stays."""
    if dropout == 0:
        return x
    keep = keep_mask(seed, x[..., 0].numel(), x.shape[-1], dropout).view_as(x)
    return torch.where(keep, x / (1 - threshold(dropout) / 2**16), 0)


def draw_seeds(num_layers, x, dropout, backend="auto"):
    """Two seeds for each layer (num_layers, 2), drawn at once, if kernels will drop elements of x; else None for each.

    Without kernels PyTorch's own dropout draws, and takes no seed.
    """
    if dropout > 0 and by_kernels(backend, x):
        return torch.randint(2**62, (num_layers, 2), device=x.device)
    return [None] * num_layers
