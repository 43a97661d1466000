"""The bidirectional mLSTM layer. Shapes: R time directions, B batch, S frames, D channels, I inner channels, H heads.

The maths is the mLSTM block of xLSTM (Beck et al. 2024, arXiv 2405.04517, section 2.3 and appendix A) and the parameters
carry the names of `xlstm.mLSTMLayer`, whose state dicts load here as they are. What is new is the second direction: the
same weights also run backward in time. Up-, z- and down-projection treat every frame alone and so commute with
the flip of time; they are computed once, only convolution, gates and cell run twice, and no tensor is ever flipped.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import BackboneConfig
from model.ops.mlstm import mlstm

FORWARD, BACKWARD = False, True


class BlockDiagonal(nn.Module):
    """A linear map without bias that mixes channels only within blocks; `weight` is (blocks, out, in)."""

    def __init__(self, width: int, block: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width // block, block, block))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the map of x (..., I), (..., I).

        The blocks are laid out as one matrix: a dense product costs less than a batch of 4 x 4 ones on every device.
        """
        num_blocks, out, inp = self.weight.shape
        eye = torch.eye(num_blocks, device=self.weight.device, dtype=self.weight.dtype)
        dense = eye[:, None, :, None] * self.weight[:, :, None, :]
        return F.linear(x, dense.reshape(num_blocks * out, num_blocks * inp))


class CausalConv(nn.Module):
    """A depthwise convolution that sees the past alone, or, run backward, the future alone."""

    def __init__(self, width: int, kernel: int):
        super().__init__()
        self.conv = nn.Conv1d(width, width, kernel, groups=width)

    def forward(self, x: Tensor, direction: bool) -> Tensor:
        """Returns the convolution (B, S, I) of x (B, S, I); BACKWARD is flip(conv(flip(x)))."""
        weight, bias = self.conv.weight[:, 0].to(x.dtype), self.conv.bias.to(x.dtype)
        reach, num_frames = weight.shape[1] - 1, x.shape[1]
        if direction == BACKWARD:
            x, weight = F.pad(x, (0, 0, 0, reach)), weight.flip(1)
        else:
            x = F.pad(x, (0, 0, reach, 0))
        return sum((weight[:, j] * x[:, j : j + num_frames] for j in range(reach + 1)), bias)


class HeadNorm(nn.Module):
    """LayerNorm of every head alone, scaled by 1 + weight."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, h: Tensor) -> Tensor:
        """Returns h (..., H, E) normalised over E and flattened to (..., I)."""
        return F.layer_norm(h, h.shape[-1:]).flatten(-2) * (1 + self.weight)


class Cell(nn.Module):
    """The gates of the cell, linear in queries, keys and values together, and its output norm."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.igate = nn.Linear(3 * width, num_heads)
        self.fgate = nn.Linear(3 * width, num_heads)
        self.outnorm = HeadNorm(width)

    def gates(self, q: Tensor, k: Tensor, v: Tensor, cap: float | None) -> tuple[Tensor, Tensor]:
        """Returns input and forget gate pre-activations, two float tensors (R, B, S, H)."""
        weight = torch.cat([self.igate.weight, self.fgate.weight])
        parts = zip((q, k, v), weight.chunk(3, dim=1), strict=True)
        gates = sum(F.linear(x, w) for x, w in parts) + torch.cat([self.igate.bias, self.fgate.bias])
        gates = gates.to(torch.promote_types(gates.dtype, torch.float32))
        if cap is not None:
            gates = cap * torch.tanh(gates / cap)
        igate, fgate = gates.chunk(2, dim=-1)
        return igate, fgate


class MLSTMLayer(nn.Module):
    """Up-projection, convolution, mLSTM cell, output gate, down-projection, in the directions asked for.

    Args:
        width: Channels D of input and output.
        config: Heads, factors, gate cap and backend.
        num_blocks: Residual layers of the whole network; scales down the last projection at the start.
        directions: Time directions whose outputs are summed; all of them use the same weights.
    """

    def __init__(
        self,
        width: int,
        config: BackboneConfig,
        num_blocks: int = 1,
        directions: tuple[bool, ...] = (FORWARD, BACKWARD),
    ):
        super().__init__()
        inner = round(width * config.up_factor)
        self.config = config
        self.directions = directions
        self.proj_up = nn.Linear(width, 2 * inner, bias=False)
        self.q_proj = BlockDiagonal(inner, config.qkv_block)
        self.k_proj = BlockDiagonal(inner, config.qkv_block)
        self.v_proj = BlockDiagonal(inner, config.qkv_block)
        self.conv1d = CausalConv(inner, config.conv_kernel)
        self.mlstm_cell = Cell(inner, config.num_heads)
        self.learnable_skip = nn.Parameter(torch.ones(inner))
        self.proj_down = nn.Linear(inner, width, bias=False)
        self._reset_parameters(width, num_blocks)

    def _reset_parameters(self, width: int, num_blocks: int):
        # Small initialisation (Nguyen & Salazar 2019) into the layer, depth-scaled (Wang & Komatsuzaki 2021) out of it;
        # gates start open: forget gates remember, input gates are alike.
        for module in (self.proj_up, self.q_proj, self.k_proj, self.v_proj):
            nn.init.normal_(module.weight, std=math.sqrt(2 / (5 * width)))
        nn.init.normal_(self.proj_down.weight, std=2 / num_blocks / math.sqrt(width))
        nn.init.zeros_(self.mlstm_cell.igate.weight)
        nn.init.normal_(self.mlstm_cell.igate.bias, std=0.1)
        nn.init.zeros_(self.mlstm_cell.fgate.weight)
        with torch.no_grad():
            self.mlstm_cell.fgate.bias.copy_(torch.linspace(3.0, 6.0, self.config.num_heads))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the sum of the directions (B, S, D) for x (B, S, D)."""
        cell_inputs, conv, z = self.before_cell(x)
        return self.after_cell(mlstm(*cell_inputs, backend=self.config.kernel), conv, z)

    def before_cell(self, x: Tensor) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        """Returns the cell's (q, k, v, igate, fgate), the convolved input (R, B, S, I) and the output gate's z."""
        inner, z = self.proj_up(x).chunk(2, dim=-1)
        conv = F.silu(torch.stack([self.conv1d(inner, direction) for direction in self.directions]))
        q, k, v = self.q_proj(conv), self.k_proj(conv), self.v_proj(inner)[None]
        gates = self.mlstm_cell.gates(q, k, v, self.config.gate_cap)
        heads = (self.config.num_heads, -1)
        return (q.unflatten(-1, heads), k.unflatten(-1, heads), v.unflatten(-1, heads), *gates), conv, z

    def after_cell(self, h: Tensor, conv: Tensor, z: Tensor) -> Tensor:
        """Returns the layer's output (B, S, D) for the cell's hidden states h (R, B, S, H, E)."""
        h = self.mlstm_cell.outnorm(h) + self.learnable_skip * conv
        return self.proj_down(h.sum(dim=0) * F.silu(z))


class SeparateDirections(nn.Module):
    """Two layers with weights of their own, one forward and one backward in time, summed; one call of the cell."""

    def __init__(self, width: int, config: BackboneConfig, num_blocks: int = 1):
        super().__init__()
        self.ahead = MLSTMLayer(width, config, num_blocks, (FORWARD,))
        self.back = MLSTMLayer(width, config, num_blocks, (BACKWARD,))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the sum of both layers (B, S, D) for x (B, S, D)."""
        ahead, *ahead_rest = self.ahead.before_cell(x)
        back, *back_rest = self.back.before_cell(x)
        both = [torch.cat(pair) for pair in zip(ahead, back, strict=True)]
        h = mlstm(*both, backend=self.ahead.config.kernel)
        return self.ahead.after_cell(h[:1], *ahead_rest) + self.back.after_cell(h[1:], *back_rest)


def bidirectional_mlstm(width: int, config: BackboneConfig, num_blocks: int) -> nn.Module:
    """Returns the layer that `config.direction_weights` names."""
    layer = SeparateDirections if config.direction_weights == "separate" else MLSTMLayer
    return layer(width, config, num_blocks)
