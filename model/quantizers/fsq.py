"""Finite scalar quantisation (Mentzer et al. 2023), by the library vector-quantize-pytorch.

Shapes: B batch, N frames, W feature width, G code groups, V codes, D target width. There are no code probabilities:
`mean_probs` are the frequencies of the codes, and the diversity loss is a number to watch, without gradient.
"""

from torch import Tensor, nn
from vector_quantize_pytorch import FSQ

from model.config import QuantizerConfig
from model.draws import Draws
from model.quantizers.interface import Quantized, Quantizer, quantized_by_counts


class FSQQuantizer(Quantizer):
    """Each group rounds a few bounded numbers to fixed levels: there is no codebook that could collapse."""

    def __init__(self, width: int, target_dim: int, config: QuantizerConfig):
        super().__init__()
        self.config = config
        self.rounding = FSQ(config.fsq_levels, dim=width, num_codebooks=config.num_groups, keep_num_codebooks_dim=True)
        self.output = nn.Linear(width, target_dim)

    def forward(self, features: Tensor, weight: Tensor, draws: Draws) -> Quantized:
        """Returns the quantised frames; `draws` is not used."""
        vectors, codes = self.rounding(features)
        return quantized_by_counts(self.output(vectors), codes, weight, self.config.num_codes, features.new_zeros(()))
