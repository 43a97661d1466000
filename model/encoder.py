"""Waveform to frames. Shapes: B batch, C component, T samples, S frames, D channels."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import EncoderConfig
from model.ops.norm_gelu import norm_gelu


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
        """Returns the normalised features (B, S, D) of a waveform (B, C, T), S = T / stride^layers, under autocast in its dtype."""
        x = waveform.transpose(1, 2)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = _in_autocast_dtype(norm_gelu(strided_conv(x, conv), norm.weight, norm.bias))
        return _in_autocast_dtype(self.final_norm(x))


def strided_conv(x: Tensor, conv: nn.Conv1d) -> Tensor:
    """Returns conv(x), padded to S = T / stride frames, for channels-last x (B, T, C): (B, S, D)."""
    (kernel,), (stride,) = conv.kernel_size, conv.stride
    left, num_frames = (kernel - 1) // 2, x.shape[1] // stride
    # Tap by tap and not channel by channel: so whole rows are copied, or none.
    weight = conv.weight.transpose(1, 2).flatten(1)
    if kernel == stride + left and left < stride and x.shape[-1] >= 16:
        return _folded_conv(x[:, : stride * num_frames], weight, conv.bias, stride, left)
    x = F.pad(x, (0, 0, left, kernel - 1 - left))
    taps = torch.cat([x[:, i : i + stride * num_frames : stride] for i in range(kernel)], dim=-1)
    # Tensor cores want multiples of 8.
    spare = -taps.shape[-1] % 8 if x.is_cuda else 0
    return F.linear(F.pad(taps, (0, spare)), F.pad(weight, (0, spare)), conv.bias)


def _folded_conv(x: Tensor, weight: Tensor, bias: Tensor, stride: int, left: int) -> Tensor:
    """Returns the same without a copy of x, of which `stride` samples in a row are one row of a matrix.

    The last `left` of them are also the first taps of the next frame.
    """
    rows, width = x.unflatten(1, (-1, stride)).flatten(2), x.shape[-1]
    early, own = weight.split([left * width, stride * width], dim=1)
    past = F.linear(rows[..., (stride - left) * width :], early)
    return F.linear(rows, own, bias) + F.pad(past[:, :-1], (0, 0, 1, 0))


def _in_autocast_dtype(x: Tensor) -> Tensor:
    """Returns x as the next matrix product would take it: norms give float32 also under autocast."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x
