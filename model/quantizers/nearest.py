"""Nearest-neighbour codebooks. Shapes: B batch, N frames, W feature width, G code groups, V codes, D target width.

The codebooks (van den Oord et al. 2017; residual: Zeghidour et al. 2021) come from the library vector-quantize-pytorch.
They have no code probabilities: `mean_probs` are the frequencies of the codes, and the diversity loss is a number to watch,
without gradient.
"""

import torch
from torch import Tensor, nn
from vector_quantize_pytorch import VectorQuantize

from model.collective import num_workers
from model.config import QuantizerConfig
from model.draws import Draws
from model.quantizers.interface import Quantized, Quantizer, quantized_by_counts


class NearestQuantizer(Quantizer):
    """The nearest code, straight-through; codes are moving averages of the frames that chose them.

    "ema" has one codebook for each group of channels; "residual" one for each level, every level quantising what the
    levels before left over. A code used less than `revive_below` / V of the time is set to a random frame:
    without this, nearest-neighbour codebooks starve.
    """

    waits_for_host = True  # the library asks whether any code is to be revived

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
        counted = weight > 0
        # The library's mean over no frames at all is NaN: then all are looked at, and what comes of it counts for nothing.
        any_counted = counted.any()
        counted = counted | ~any_counted
        parts = [x] * self.config.num_groups if self.residual else x.chunk(self.config.num_groups, dim=-1)
        vectors, codes, losses = [], [], []
        for part, codebook in zip(parts, self.codebooks, strict=True):
            left_over = part - sum(v.detach() for v in vectors) if self.residual else part
            self._set_revival(codebook, part.shape[0] * part.shape[1])
            vector, ids, loss = codebook(left_over, mask=counted)
            vectors.append(vector)
            codes.append(ids)
            losses.append(loss)
        return quantized_by_counts(
            self.output(self._join(vectors)),
            torch.stack(codes, -1),
            weight,
            self.config.num_codes,
            sum(losses) * any_counted,
        )

    def _join(self, vectors: list[Tensor]) -> Tensor:
        if not self.residual:
            return torch.cat(vectors, dim=-1)
        # One level passes the gradient straight through: all of them would multiply it by their number.
        return vectors[0] + sum(v.detach() for v in vectors[1:])

    def _set_revival(self, codebook: VectorQuantize, num_frames: int):
        """Turns the relative threshold into the library's absolute one: the usage it tracks is frames a step, of all ranks."""
        inner = codebook._codebook
        num_frames = num_frames * num_workers()
        inner.threshold_ema_dead_code = self.config.revive_below * num_frames / self.config.num_codes
        inner.reset_cluster_size = num_frames / self.config.num_codes
