"""Augmentation on the device, with the random numbers of the step. Shapes: B windows, C components, T samples."""

import torch
from torch import Tensor

from model.labels import Labels
from model.preprocess import highpass, standardize, valid_samples
from raysys.config_finetuning import AugmentConfig

LONGEST_GAP = 0.25
"""Of a window."""
SHOULDER_SAMPLES = 100
"""On each side of an onset, beyond which its label is noise."""


def augment(
    waveform: Tensor, num_valid: Tensor, labels: Labels, config: AugmentConfig, highpass_hz: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Returns changed windows (B, C, T), and which samples (B, T) still have their label.

    Noise is added in proportion to the deviation that the network will see of each component. A dead one stays dead. A gain is no augmentation
    here, since networks normalise their windows. Where a window lies in its trace is drawn before (`raysys.data.plan`).

    Args:
        waveform: (B, C, T) in any unit; is not changed.
        num_valid: (B,) samples before the padding, which stays zero.
        labels: of the windows: their onsets, and which are noise.
        config: how much of what.
        highpass_hz: corner of the network's own high-pass.
    """
    inside = waveform.isfinite() & valid_samples(num_valid, waveform.shape[-1])
    x = standardize(waveform, num_valid)
    batch, components, samples = x.shape

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, device=x.device)

    alive = (x != 0).any(dim=-1, keepdim=True)
    seen = standardize(waveform, num_valid, highpass_hz) if highpass_hz else x
    # Cubed, as small amplitudes are to be more frequent than large ones.
    real = _real_noise(seen, labels.noise, draw(batch)) * (config.real_noise * draw(batch, 1, 1) ** 3)
    white = torch.randn_like(x) * (config.noise * draw(batch, 1, 1) ** 3)
    x = x + (real + white) * alive * (_share(highpass(x, inside, highpass_hz), inside) if highpass_hz else 1)
    x = x * torch.where(draw(batch, 1, 1) < config.flip, -1.0, 1.0)
    stays = draw(batch, components, 1) >= config.drop_component
    x = x * (stays | ~(stays & alive).any(dim=1, keepdim=True))  # the last one that is alive is not dropped
    gap = _gap(draw(batch), draw(batch), draw(batch) < config.gap, samples)
    x = x * _deviation(waveform, inside)
    return x * inside * ~gap[:, None], ~(gap | _hidden(labels, gap))


def _share(x: Tensor, inside: Tensor) -> Tensor:
    """The standard deviation (B, C, 1) of what a high-pass leaves of standardised windows."""
    return ((x * x).sum(dim=-1, keepdim=True) / inside.sum(dim=-1, keepdim=True).clamp_min(1)).sqrt()


def _deviation(waveform: Tensor, inside: Tensor) -> Tensor:
    """The standard deviation of each component (B, C, 1), over the largest value of the window: some networks look at their ratios."""
    x = torch.where(inside, waveform.float(), 0)
    count = inside.sum(dim=-1, keepdim=True).clamp_min(1)
    peak = x.abs().amax(dim=(1, 2), keepdim=True)
    x = x / torch.where(peak > 0, peak, 1)
    mean = x.sum(dim=-1, keepdim=True) / count
    return (((x - mean) * inside) ** 2).sum(dim=-1, keepdim=True).div(count).sqrt()


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


def _hidden(labels: Labels, gap: Tensor) -> Tensor:
    """Which samples (B, T) are near an onset that lies in a gap, whose label would remain as a shoulder beside it."""
    t = torch.arange(gap.shape[1], device=gap.device)
    onsets = torch.cat([labels.p, labels.s], dim=1)
    place = onsets.nan_to_num(nan=0.0).long().clamp(0, gap.shape[1] - 1)
    lost = gap.gather(1, place) & (onsets >= 0) & (onsets < gap.shape[1])
    return (lost[:, :, None] & ((t - onsets[:, :, None]).abs() <= SHOULDER_SAMPLES)).any(dim=1)
