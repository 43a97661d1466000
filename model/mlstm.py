"""The bidirectional mLSTM layer. Shapes: R time directions, B batch, S frames, D channels, I inner channels, H heads.

The maths is the mLSTM block of xLSTM (Beck et al. 2024, arXiv 2405.04517, section 2.3 and appendix A) and the parameters
carry the names of `xlstm.mLSTMLayer`, whose state dicts load here as they are. What is new is the second direction: the
same weights also run backward in time. Up-, z- and down-projection treat every frame alone and so commute with
the flip of time; they are computed once, only convolution, gates and cell run twice, and no tensor is ever flipped.
"""

import math

import torch
from torch import Tensor, nn

from model.config import BackboneConfig
from model.ops.head_norm_gate import head_norm_gate
from model.ops.mlstm_cell import mlstm_cell
from model.ops.mlstm_mixer import before_cell, mlstm_mixer

FORWARD, BACKWARD = False, True


class BlockDiagonal(nn.Module):
    """The weight (blocks, out, in) of a linear map without bias that mixes channels only within blocks."""

    def __init__(self, width: int, block: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width // block, block, block))


class CausalConv(nn.Module):
    """The weights of a depthwise convolution that sees the past alone, or, run backward, the future alone."""

    def __init__(self, width: int, kernel: int):
        super().__init__()
        self.conv = nn.Conv1d(width, width, kernel, groups=width)


class HeadNorm(nn.Module):
    """The weight of a LayerNorm of every head alone, scaled by 1 + weight."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))


class Cell(nn.Module):
    """The weights of the gates, linear in queries, keys and values together, and of the output norm."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.igate = nn.Linear(3 * width, num_heads)
        self.fgate = nn.Linear(3 * width, num_heads)
        self.outnorm = HeadNorm(width)


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
        weights = (*self._inner_weights(), self.mlstm_cell.outnorm.weight, self.learnable_skip)
        mixed = mlstm_mixer(self.proj_up(x), *weights, **self._settings(), cell_backend=self.config.kernel)
        return self.proj_down(mixed)

    def _settings(self) -> dict[str, object]:
        """Returns what all operators of the layer are told alike."""
        return {"directions": self.directions, "cap": self.config.gate_cap, "backend": self.config.operators}

    def _inner_weights(self) -> tuple[Tensor, ...]:
        """Returns taps and bias of the convolution, the maps of queries, keys and values, weights and bias of the gates."""
        taps, cell = self.conv1d.conv, self.mlstm_cell
        maps = (self.q_proj.weight, self.k_proj.weight, self.v_proj.weight)
        gates = [torch.cat([getattr(cell.igate, name), getattr(cell.fgate, name)]) for name in ("weight", "bias")]
        return taps.weight[:, 0], taps.bias, *maps, *gates

    def before_cell(self, x: Tensor) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        """Returns the cell's (q, k, v, igate, fgate), the convolved input (R, B, S, I) and the output gate's z."""
        inner, z = self.proj_up(x).chunk(2, dim=-1)
        cell_inputs, conv = before_cell(inner, *self._inner_weights(), **self._settings())
        return cell_inputs, conv, z

    def after_cell(self, h: Tensor, conv: Tensor, z: Tensor) -> Tensor:
        """Returns the layer's output (B, S, D) for the cell's hidden states h (R, B, S, H, E)."""
        gated = head_norm_gate(
            h, conv, z, self.mlstm_cell.outnorm.weight, self.learnable_skip, backend=self.config.operators
        )
        return self.proj_down(gated)


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
        h = mlstm_cell(*both, backend=self.ahead.config.kernel)
        return self.ahead.after_cell(h[:1], *ahead_rest) + self.back.after_cell(h[1:], *back_rest)


def bidirectional_mlstm(width: int, config: BackboneConfig, num_blocks: int) -> nn.Module:
    """Returns the layer that `config.direction_weights` names."""
    layer = SeparateDirections if config.direction_weights == "separate" else MLSTMLayer
    return layer(width, config, num_blocks)
