"""The probabilities of P, S and noise along a record. Shapes: B windows, T samples of a record, W of a window."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from raysys.picking.record import Record

BATCH = {"cpu": 16, "cuda": 256}
"""Windows read at once: on a CPU more of them leave its caches, and take twice as long."""


def window_starts(first: int, length: int, window: int) -> np.ndarray:
    """Returns where windows begin in a record of so many samples, rising.

    They overlap by a half, and lie at multiples of that half on the grid, so that a record is read alike wherever it is cut; one more begins
    with the record and one ends with it. A record that is shorter than a window has one, which is padded.

    Args:
        first: number of the record's first sample on the grid.
        length: samples of the record.
        window: samples of a window.
    """
    if length <= window:
        return np.zeros(1, np.int64)
    half = window // 2
    grid = np.arange(-first % half, length - window + 1, half)
    return np.unique(np.concatenate([[0], grid, [length - window]]))


@torch.inference_mode()
def probabilities(network: nn.Module, record: Record, batch: int | None = None) -> Tensor:
    """Returns the probabilities (3, T) of P, S and noise, float32, on the network's device; NaN where nothing was recorded.

    Where windows overlap, each counts the more the further a sample is from its ends, as there a network sees one side only.

    Args:
        network: in evaluation mode, with `window_samples` (`raysys.networks`); on a GPU it computes in bf16.
        record: to read.
        batch: windows read at once; None: `BATCH` of the device.
    """
    device, window = next(network.parameters()).device, network.window_samples
    samples = torch.from_numpy(record.samples).to(device)
    total = torch.zeros(3, len(record) + window, device=device)
    weight = torch.zeros(len(record) + window, device=device)
    t = torch.arange(window, device=device)
    of_window = torch.minimum(t + 1, window - t).float()
    for waveform, num_valid, place in _windows(samples, record, window, batch or BATCH[device.type]):
        with torch.autocast(device.type, torch.bfloat16, device.type == "cuda"):
            output = network(waveform, num_valid).float()
        flat = place.flatten()
        total.index_add_(1, flat, (output * of_window).transpose(0, 1).flatten(1))
        weight.index_add_(0, flat, of_window.repeat(len(place)))
    mean = (total / weight)[:, : len(record)]
    return torch.where(samples.isfinite().any(dim=0), mean, torch.nan)


def _windows(samples: Tensor, record: Record, window: int, batch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches of windows (B, 3, W) that hold anything, valid samples (B,), and places in the record (B, W)."""
    starts = torch.from_numpy(window_starts(record.first, len(record), window)).to(samples.device)
    t = torch.arange(window, device=samples.device)
    last = samples.shape[1] - 1
    for some in starts.split(batch):
        place = some[:, None] + t
        waveform = samples[:, place.clamp_max(last)].transpose(0, 1)
        something = waveform.isfinite().any(dim=2).any(dim=1)
        valid = (last + 1 - some).clamp_max(window)
        if something.any():
            yield waveform[something], valid[something], place[something]
