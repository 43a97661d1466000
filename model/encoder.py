"""Waveform to frames. Shapes: B batch, C component, T samples, S frames, D channels."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import EncoderConfig
from model.ops.norm_gelu import linear_norm_gelu, norm_gelu


class WaveformEncoder(nn.Module):
    """Strided convolutions, each followed by a LayerNorm over channels and a GELU; a last LayerNorm closes.

    Tensors keep their channels last, so that a convolution is one matrix product over the gathered kernel windows and
    the norms need no transposition.
    """

    def __init__(self, config: EncoderConfig, num_components: int = 3, backend: str = "auto"):
        super().__init__()
        self.backend = backend
        widths = [num_components] + [config.width] * config.num_layers
        self.convs = nn.ModuleList(nn.Conv1d(i, o, config.kernel, config.stride) for i, o in pairwise(widths))
        self.norms = nn.ModuleList(nn.LayerNorm(config.width) for _ in self.convs)
        self.final_norm = nn.LayerNorm(config.width)

    def forward(self, waveform: Tensor) -> Tensor:
        """Returns the normalised features (B, S, D) of a waveform (B, C, T), S = T / stride^layers, under autocast in its dtype."""
        x = waveform.transpose(1, 2)
        layers = list(zip(self.convs, self.norms, strict=True))
        for number, (conv, norm) in enumerate(layers, start=1):
            last = self.final_norm if number == len(layers) else None
            x = _in_autocast_dtype(_layer(x, conv, norm, last, self.backend))
        return x


def _layer(x: Tensor, conv: nn.Conv1d, norm: nn.LayerNorm, last: nn.LayerNorm | None, backend: str) -> Tensor:
    """Returns gelu(norm(conv(x))), and that normalised once more by `last`: (B, S, D) for channels-last x (B, T, C)."""
    after = last and (last.weight, last.bias)
    if _folds(conv):
        own, early = folded_conv(x, conv)
        return norm_gelu(own, norm.weight, norm.bias, early=early, offset=conv.bias, last=after, backend=backend)
    taps, weight = unfolded_conv(_in_autocast_dtype(x), conv)
    vectors = (norm.weight, norm.bias)
    return linear_norm_gelu(taps, weight, *vectors, linear_bias=conv.bias, last=after, backend=backend)


def _folds(conv: nn.Conv1d) -> bool:
    """Whether a row of `stride` samples has all that a frame needs but what is in the row before, and rows are wide enough to pay."""
    (kernel,), (stride,) = conv.kernel_size, conv.stride
    return kernel == stride + _padding(conv) and _padding(conv) < stride and conv.in_channels >= 16


def _padding(conv: nn.Conv1d) -> int:
    """Zeros before the first sample; as many samples as the stride become one frame."""
    return (conv.kernel_size[0] - 1) // 2


def _by_taps(conv: nn.Conv1d) -> Tensor:
    """Returns the weight (D, kernel C), tap by tap and not channel by channel: so whole rows are copied, or none."""
    return conv.weight.transpose(1, 2).flatten(1)


def unfolded_conv(x: Tensor, conv: nn.Conv1d) -> tuple[Tensor, Tensor]:
    """Returns taps (B, S, kernel C) and weight (D, kernel C) of conv(x), padded to S = T / stride frames, for x (B, T, C)."""
    (kernel,), (stride,) = conv.kernel_size, conv.stride
    num_frames = x.shape[1] // stride
    x = F.pad(x, (0, 0, _padding(conv), kernel - 1 - _padding(conv)))
    return torch.cat([x[:, i : i + stride * num_frames : stride] for i in range(kernel)], dim=-1), _by_taps(conv)


def folded_conv(x: Tensor, conv: nn.Conv1d) -> tuple[Tensor, Tensor]:
    """Returns two parts (B, S, D) of conv(x) without its bias, for x (B, T, C): the second one is of the next frame.

    Nothing of x is copied: `stride` samples in a row are one row of a matrix, whose last ones are also the first taps of the next frame.
    """
    (stride,), left, width = conv.stride, _padding(conv), x.shape[-1]
    rows = x[:, : x.shape[1] // stride * stride].unflatten(1, (-1, stride)).flatten(2)
    early, own = _by_taps(conv).split([left * width, stride * width], dim=1)
    rows = _in_autocast_dtype(rows)
    return _TwoProducts.apply(rows, own.to(rows.dtype), early.to(rows.dtype))


class _TwoProducts(torch.autograd.Function):
    """Products of rows (B, S, K) with one matrix (D, K), and of their last L channels with another one (D, L)."""

    @staticmethod
    def forward(ctx, rows, own, early):
        ctx.save_for_backward(rows, own, early)
        return F.linear(rows, own), F.linear(rows[..., -early.shape[1] :], early)

    @staticmethod
    def backward(ctx, d_own, d_early):
        rows, own, early = ctx.saved_tensors
        d_own, d_early, flat = (x.flatten(0, 1) for x in (d_own, d_early, rows))
        d_rows = _rows_grad(d_own, d_early, own, early).view_as(rows)
        return d_rows, d_own.t() @ flat, d_early.t() @ flat[:, -early.shape[1] :]


@torch.library.custom_op("raysys::rows_grad", mutates_args=())
def _rows_grad(d_own: Tensor, d_early: Tensor, own: Tensor, early: Tensor) -> Tensor:
    """Gradient (N, K) of the rows of `_TwoProducts`; the second product adds to what the first has written, in place."""
    d_rows = d_own @ own
    d_rows[:, -early.shape[1] :].addmm_(d_early, early)
    return d_rows


@_rows_grad.register_fake
def _(d_own, d_early, own, early):
    return d_own.new_empty(len(d_own), own.shape[1])


def _in_autocast_dtype(x: Tensor) -> Tensor:
    """Returns x as the next matrix product would take it: norms give float32 also under autocast."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x
