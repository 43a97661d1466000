"""Codes at two rates. Shapes: B batch, N frames, W feature width, G code groups, V codes, D target width."""

from dataclasses import replace

import torch
from torch import Tensor

from model.config import QuantizerConfig
from model.draws import Draws
from model.quantizers.gumbel import GumbelQuantizer
from model.quantizers.interface import Quantized, Quantizer


class HierarchicalQuantizer(Quantizer):
    """Two Gumbel codes at the rates of the U-Net's two finest levels, the coarse one conditioning the fine one.

    The coarse group codes `fold` frames together; the fine group codes each frame, knowing the coarse target (the
    order of VQ-VAE-2, Razavi et al. 2019). A frame's target is the sum of both.
    """

    needs_all_frames = True

    def __init__(self, width: int, target_dim: int, config: QuantizerConfig, fold: int, backend: str = "auto"):
        super().__init__()
        self.config, self.fold = config, fold
        single = replace(config, kind="gumbel", num_groups=1)
        self.coarse = GumbelQuantizer(fold * width, target_dim, single, backend)
        self.fine = GumbelQuantizer(width + target_dim, target_dim, single, backend)

    def forward(self, features: Tensor, weight: Tensor, draws: Draws) -> Quantized:
        """Returns the quantised frames of whole windows: N is a multiple of `fold`."""
        folded = features.unflatten(1, (-1, self.fold)).flatten(2)
        coarse = self.coarse(folded, weight.unflatten(1, (-1, self.fold)).mean(dim=-1), draws)
        above = coarse.targets.repeat_interleave(self.fold, dim=1)
        fine = self.fine(torch.cat([features, above.to(features.dtype)], dim=-1), weight, draws)
        return Quantized(
            above + fine.targets,
            torch.cat([coarse.codes.repeat_interleave(self.fold, dim=1), fine.codes], dim=-1),
            torch.cat([coarse.mean_probs, fine.mean_probs]),
            torch.cat([coarse.counts * self.fold, fine.counts]),
            coarse.aux_loss + fine.aux_loss,
        )

    def set_progress(self, progress: float) -> None:
        """Sets the Gumbel temperature of both."""
        self.coarse.set_progress(progress)
        self.fine.set_progress(progress)
