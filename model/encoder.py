"""Waveform to frames. Shapes: B batch, C component, T samples, S frames, D channels."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import EncoderConfig


class WaveformEncoder(nn.Module):
    """Strided convolutions, each followed by a LayerNorm over channels and a GELU; a last LayerNorm closes.

    Tensors keep their channels last, so that a convolution is one matrix product over the gathered kernel windows and
    the norms need no transposition.
    """

    def __init__(self, config: EncoderConfig, num_components: int = 3):
        super().__init__()
        widths = [num_components] + [config.width] * config.num_layers
        self.convs = nn.ModuleList(nn.Conv1d(i, o, config.kernel, config.stride) for i, o in pairwise(widths))
        self.norms = nn.ModuleList(nn.LayerNorm(config.width) for _ in self.convs)
        self.final_norm = nn.LayerNorm(config.width)

    def forward(self, waveform: Tensor) -> Tensor:
        """Returns the normalised features (B, S, D) of a waveform (B, C, T), S = T / stride^layers."""
        x = waveform.transpose(1, 2)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.gelu(norm(strided_conv(x, conv)))
        return self.final_norm(x)


def strided_conv(x: Tensor, conv: nn.Conv1d) -> Tensor:
    """Returns conv(x), padded to S = T / stride frames, for channels-last x (B, T, C): (B, S, D)."""
    (kernel,), (stride,) = conv.kernel_size, conv.stride
    left = (kernel - 1) // 2
    num_frames = x.shape[1] // stride
    x = F.pad(x, (0, 0, left, kernel - 1 - left))
    taps = [x[:, i : i + stride * num_frames : stride] for i in range(kernel)]
    # Tap by tap and not channel by channel: so whole rows are copied.
    return F.linear(torch.cat(taps, dim=-1), conv.weight.transpose(1, 2).flatten(1), conv.bias)
