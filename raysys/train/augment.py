"""Augmentation on the device, with the random numbers of the step. Shapes: B windows, C components, T samples."""

import torch
from torch import Tensor

from model.labels import Labels
from model.preprocess import standardize, valid_samples
from raysys.config import AugmentConfig

LONGEST_GAP = 0.25
"""Of a window."""


def augment(waveform: Tensor, num_valid: Tensor, labels: Labels, config: AugmentConfig) -> tuple[Tensor, Tensor]:
    """Returns changed windows (B, C, T), standardised, and which samples (B, T) still have their label.

    A gain is no augmentation here, since every network standardises each component. Where a window lies in its trace is drawn
    before (`raysys.data.plan`).

    Args:
        waveform: (B, C, T) in any unit; is not changed.
        num_valid: (B,) samples before the padding, which stays zero.
        labels: of the windows: which are noise.
        config: how much of what.
    """
    x = standardize(waveform, num_valid)
    batch, components, samples = x.shape
    inside = valid_samples(num_valid, samples)

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, device=x.device)

    # Cubed, as small amplitudes are to be more frequent than large ones.
    x = x + _real_noise(x, labels.noise, draw(batch)) * (config.real_noise * draw(batch, 1, 1) ** 3)
    x = x + torch.randn_like(x) * (config.noise * draw(batch, 1, 1) ** 3)
    x = x * torch.where(draw(batch, 1, 1) < config.flip, -1.0, 1.0)
    x = x * (draw(batch, components, 1) >= config.drop_component)
    gap = _gap(draw(batch), draw(batch), draw(batch) < config.gap, samples)
    return x * inside * ~gap[:, None], ~gap


def _real_noise(x: Tensor, noise: Tensor, draw: Tensor) -> Tensor:
    """For each window (B, C, T) one of the noise windows of the batch; zero for noise itself, and where the batch has none."""
    count = noise.sum()
    rank = (draw * count).long()  # which of the noise windows
    place = torch.argsort(~noise, stable=True)  # noise windows first
    chosen = x[place[rank.clamp_max(len(x) - 1)]]
    return chosen * ((count > 0) & ~noise)[:, None, None]


def _gap(start: Tensor, length: Tensor, there: Tensor, samples: int) -> Tensor:
    """Which samples (B, T) lie in the gap of each window, if it has one."""
    t = torch.arange(samples, device=start.device)
    first = (start * samples)[:, None]
    return there[:, None] & (t >= first) & (t < first + (length * LONGEST_GAP * samples)[:, None])
