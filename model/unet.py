"""The mLSTM U-Net. Shapes: B batch, S frames, D channels. With the default numbers (window of 4096 samples):

stage     frames x channels   layers
0 down    1024 x 128          3        -> kept for stage 4; fold 4 frames, Linear 512 -> 256
1 down     256 x 256          3        -> kept for stage 3; fold 4 frames, Linear 1024 -> 512
2           64 x 512          3        Linear 512 -> 1024, unfold 4 frames
3 up       256 x 256          3        (+ stage 1) Linear 256 -> 512, unfold 4 frames
4 up      1024 x 128          3        (+ stage 0) LayerNorm
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from model.config import BackboneConfig
from model.mlstm import bidirectional_mlstm
from model.ops.add_norm import add_norm
from model.ops.dropout import draw_seeds
from model.ops.feed_forward import feed_forward


class Layer(nn.Module):
    """Two residual branches, each behind a LayerNorm: the mLSTM mixes frames, the feed-forward net channels."""

    def __init__(self, width: int, config: BackboneConfig, num_blocks: int):
        super().__init__()
        hidden = config.ffn_width(width)
        self.backend = config.operators
        self.norm_mixer = nn.LayerNorm(width)
        self.mixer = bidirectional_mlstm(width, config, num_blocks)
        self.norm_ffn = nn.LayerNorm(width)
        self.ffn = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.dropout = nn.Dropout(config.dropout)
        nn.init.normal_(self.ffn[0].weight, std=(2 / (5 * width)) ** 0.5)
        nn.init.normal_(self.ffn[2].weight, std=2 / num_blocks / width**0.5)
        for linear in (self.ffn[0], self.ffn[2]):
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Returns (B, S, D) for x (B, S, D); what is dropped is a function of `seeds` (2,), if there are any."""
        x, normed = add_norm(x, self.norm_mixer.weight, self.norm_mixer.bias, backend=self.backend)
        norm, first, second = self.norm_ffn, self.ffn[0], self.ffn[2]
        weights = (norm.weight, norm.bias, first.weight, first.bias, second.weight, second.bias)
        dropout = self.dropout.p if self.training else 0.0
        return feed_forward(x, self.mixer(normed), *weights, dropout=dropout, seeds=seeds, backend=self.backend)


class DownPool(nn.Module):
    """Folds `factor` frames into one and maps them to the wider level."""

    def __init__(self, width: int, wider: int, factor: int):
        super().__init__()
        self.factor = factor
        self.linear = nn.Linear(factor * width, wider)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, S / factor, wider) for x (B, S, width)."""
        return self.linear(x.unflatten(1, (-1, self.factor)).flatten(2))


class UpPool(nn.Module):
    """Maps a frame to `factor` frames of the narrower level and adds what the way down left there."""

    def __init__(self, wider: int, width: int, factor: int):
        super().__init__()
        self.factor = factor
        self.linear = nn.Linear(wider, factor * width)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Returns (B, S * factor, width) for x (B, S, wider) and skip (B, S * factor, width)."""
        return skip + self.linear(x).unflatten(2, (self.factor, -1)).flatten(1, 2)


class UNet(nn.Module):
    """Stages of residual layers down to the coarsest level and up again."""

    def __init__(self, config: BackboneConfig):
        super().__init__()
        widths = [config.width * config.expand**level for level in range(len(config.pool) + 1)]
        num_blocks = config.num_layers * (2 * len(config.pool) + 1)

        def stage(width: int) -> nn.ModuleList:
            return nn.ModuleList(Layer(width, config, num_blocks) for _ in range(config.num_layers))

        steps = list(zip(widths[:-1], widths[1:], config.pool, strict=True))
        self.down = nn.ModuleList(stage(width) for width in widths[:-1])
        self.down_pool = nn.ModuleList(DownPool(width, wider, factor) for width, wider, factor in steps)
        self.bottom = stage(widths[-1])
        self.up_pool = nn.ModuleList(UpPool(wider, width, factor) for width, wider, factor in reversed(steps))
        self.up = nn.ModuleList(stage(width) for width in reversed(widths[:-1]))
        self.final_norm = nn.LayerNorm(config.width)
        self.dropout, self.num_layers, self.backend = config.dropout, num_blocks, config.operators

    def compile_parts(self, backend: str = "inductor") -> None:
        """Compiles layers, poolings and the last norm in place, a program for each level and not one for the whole net."""
        # A level is compiled for training, for evaluation and for other batch sizes; past the limit layers run uncompiled.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
        # Casts of weights and sums of gradients that do not need each other share a launch; a step has hundreds of them.
        torch._inductor.config.combo_kernels = torch.cuda.is_available()
        for module in self.modules():
            if isinstance(module, Layer | DownPool | UpPool):
                module.compile(dynamic=False, backend=backend)
        self._finish = torch.compile(self._finish, dynamic=False, backend=backend)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, S, D) for x (B, S, D); S must be a multiple of the product of the pooling factors."""
        dropout = self.dropout if self.training else 0.0
        skips, seeds = [], iter(draw_seeds(self.num_layers, x, dropout, self.backend))
        for stage, pool in zip(self.down, self.down_pool, strict=True):
            skips.append(_run(stage, x, seeds))
            x = pool(skips[-1])
        x = _run(self.bottom, x, seeds)
        for pool, stage in zip(self.up_pool, self.up, strict=True):
            x = _run(stage, pool(x, skips.pop()), seeds)
        return self._finish(x)

    def _finish(self, x: Tensor) -> Tensor:
        # PyTorch's own modules do not compile in place; a method does.
        return self.final_norm(x)


def _run(stage: nn.ModuleList, x: Tensor, seeds: Iterator[Tensor | None]) -> Tensor:
    for layer in stage:
        x = layer(x, next(seeds))
    return x
