"""No codes. Shapes: B batch, N frames, W feature width, D target width."""

import torch
from torch import Tensor, nn

from model.draws import Draws
from model.quantizers.interface import Quantized, Quantizer


class NoQuantizer(Quantizer):
    """Continuous targets: a linear map of the features."""

    def __init__(self, width: int, target_dim: int):
        super().__init__()
        self.output = nn.Linear(width, target_dim)

    @property
    def code_shape(self) -> tuple[int, int]:
        """No groups."""
        return 0, 1

    def forward(self, features: Tensor, weight: Tensor, draws: Draws) -> Quantized:
        """Returns targets (B, N, D) without codes; `weight` and `draws` are not used."""
        targets = self.output(features)
        codes = torch.zeros(*features.shape[:2], 0, dtype=torch.long, device=features.device)
        nothing = torch.zeros(0, 1, device=features.device)
        return Quantized(targets, codes, nothing, nothing, targets.new_zeros(()))
