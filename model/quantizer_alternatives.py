"""Alternatives to the Gumbel quantizer. Shapes: B batch, N frames, W feature width, G code groups, V codes, D target width.

Nearest-neighbour codebooks (van den Oord et al. 2017; residual: Zeghidour et al. 2021) and finite scalar
quantisation (Mentzer et al. 2023) come from the library vector-quantize-pytorch. They have no code probabilities: their
`mean_probs` are the frequencies of the codes and the diversity loss is a number to watch, without gradient.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn
from vector_quantize_pytorch import FSQ, VectorQuantize

from model.config import QuantizerConfig
from model.draws import Draws
from model.quantizer import GumbelQuantizer, Quantized, code_counts


def _quantized(targets: Tensor, codes: Tensor, weight: Tensor, num_codes: int, aux_loss: Tensor) -> Quantized:
    # Frames that the library was told to leave out come back with the id -1.
    codes = codes.long().clamp_min(0)
    counts = code_counts(codes, weight, num_codes)
    return Quantized(targets, codes, counts / counts.sum(dim=-1, keepdim=True).clamp_min(1), counts, aux_loss)


class NearestQuantizer(nn.Module):
    """The nearest code, straight-through; codes are moving averages of the frames that chose them.

    "ema" has one codebook for each group of channels; "residual" one for each level, every level quantising what the
    levels before left over. A code used less than `revive_below` / V of the time is set to a random frame:
    without this, nearest-neighbour codebooks starve.
    """

    needs_all_frames = False

    def __init__(self, width: int, target_dim: int, config: QuantizerConfig):
        super().__init__()
        self.config = config
        self.residual = config.kind == "residual"
        inner = config.code_dim * (1 if self.residual else config.num_groups)
        self.input = nn.Linear(width, inner) if inner != width else nn.Identity()
        # One codebook object a group: with several heads the library cannot leave out padding.
        self.codebooks = nn.ModuleList(
            VectorQuantize(
                dim=config.code_dim,
                codebook_size=config.num_codes,
                decay=config.ema_decay,
                commitment_weight=config.commitment,
                rotation_trick=config.rotation_trick,
                # Any positive number turns revival on; the real threshold depends on the frames of a batch.
                threshold_ema_dead_code=config.revive_below,
            )
            for _ in range(config.num_groups)
        )
        self.output = nn.Linear(inner, target_dim)

    def forward(self, features: Tensor, weight: Tensor, draws: Draws) -> Quantized:
        """Returns the quantised frames; in training the codebooks move. `draws` is not used."""
        x = self.input(features.float())
        parts = [x] * self.config.num_groups if self.residual else x.chunk(self.config.num_groups, dim=-1)
        vectors, codes, losses = [], [], []
        for part, codebook in zip(parts, self.codebooks, strict=True):
            left_over = part - sum(v.detach() for v in vectors) if self.residual else part
            self._set_revival(codebook, part.shape[0] * part.shape[1])
            vector, ids, loss = codebook(left_over, mask=weight > 0)
            vectors.append(vector)
            codes.append(ids)
            losses.append(loss)
        return _quantized(
            self.output(self._join(vectors)), torch.stack(codes, -1), weight, self.config.num_codes, sum(losses)
        )

    def _join(self, vectors: list[Tensor]) -> Tensor:
        if not self.residual:
            return torch.cat(vectors, dim=-1)
        # One level passes the gradient straight through: all of them would multiply it by their number.
        return vectors[0] + sum(v.detach() for v in vectors[1:])

    def _set_revival(self, codebook: VectorQuantize, num_frames: int):
        """Turns the relative threshold into the library's absolute one: the usage it tracks is frames per batch."""
        inner = codebook._codebook
        inner.threshold_ema_dead_code = self.config.revive_below * num_frames / self.config.num_codes
        inner.reset_cluster_size = num_frames / self.config.num_codes


class FSQQuantizer(nn.Module):
    """Each group rounds a few bounded numbers to fixed levels: there is no codebook that could collapse."""

    needs_all_frames = False

    def __init__(self, width: int, target_dim: int, config: QuantizerConfig):
        super().__init__()
        self.config = config
        self.rounding = FSQ(config.fsq_levels, dim=width, num_codebooks=config.num_groups, keep_num_codebooks_dim=True)
        self.output = nn.Linear(width, target_dim)

    def forward(self, features: Tensor, weight: Tensor, draws: Draws) -> Quantized:
        """Returns the quantised frames; `draws` is not used."""
        vectors, codes = self.rounding(features)
        return _quantized(self.output(vectors), codes, weight, self.config.num_codes, features.new_zeros(()))


class HierarchicalQuantizer(nn.Module):
    """Two Gumbel codes at the rates of the U-Net's two finest levels, the coarse one conditioning the fine one.

    The coarse group codes `fold` frames together; the fine group codes each frame, knowing the coarse target (the
    order of VQ-VAE-2, Razavi et al. 2019). A frame's target is the sum of both.
    """

    needs_all_frames = True

    def __init__(self, width: int, target_dim: int, config: QuantizerConfig, fold: int):
        super().__init__()
        self.fold = fold
        single = replace(config, kind="gumbel", num_groups=1)
        self.coarse = GumbelQuantizer(fold * width, target_dim, single)
        self.fine = GumbelQuantizer(width + target_dim, target_dim, single)

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
