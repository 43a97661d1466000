"""What every quantizer is and says. Shapes: B batch, N frames, W feature width, G code groups, V codes per group, D target width."""

from typing import NamedTuple

from torch import Tensor, nn

from model.draws import Draws
from model.ops.gumbel_codes import count_codes


class Quantized(NamedTuple):
    """What a quantizer says about N frames."""

    targets: Tensor
    """(B, N, D) vectors that contexts are compared with. They carry gradient to features and codebook."""
    codes: Tensor
    """(B, N, G) int64 ids; G = 0 where targets are continuous."""
    mean_probs: Tensor
    """(G, V) probability of each code, averaged over the frames: noise-free softmax where there are logits,
    otherwise the frequency of the codes, without gradient."""
    counts: Tensor
    """(G, V) frames that took each code."""
    aux_loss: Tensor
    """Scalar that the quantizer wants added to the loss (commitment)."""


class Quantizer(nn.Module):
    """Maps features (B, N, W) to a `Quantized`; one subclass a kind."""

    needs_all_frames = False
    """Whether it wants whole windows, and not the masked frames alone."""
    waits_for_host = False
    """Whether the host looks at numbers of a step before the step goes on: such a step cannot be recorded as a CUDA graph."""

    @property
    def code_shape(self) -> tuple[int, int]:
        """G groups of V codes, as `Quantized.counts` has them."""
        return self.config.num_groups, self.config.num_codes

    def forward(self, features: Tensor, weight: Tensor, draws: Draws) -> Quantized:
        """Returns the quantised frames; in training a codebook may move.

        Args:
            features: (B, N, W).
            weight: (B, N), how much a frame counts for the usage; 0 for padding.
            draws: where a quantizer that samples takes its noise from.
        """
        raise NotImplementedError

    def set_progress(self, progress: float) -> None:
        """Sets what is annealed to its value at `progress` in [0, 1] of the full budget."""


def code_counts(codes: Tensor, weight: Tensor, num_codes: int, backend: str = "auto") -> Tensor:
    """Returns how often every code occurs (G, V), for codes (B, N, G) counted with weight (B, N), float32."""
    return count_codes(codes.flatten(0, 1), weight.float().flatten(), num_codes, backend=backend)


def perplexity(probs: Tensor) -> Tensor:
    """Returns exp(entropy) of each group (G,), 1 to V, for probabilities (G, V)."""
    # The clamp keeps the gradient finite where a probability has underflowed to zero.
    return (-(probs * probs.clamp_min(1e-10).log()).sum(dim=-1)).exp()


def used_fraction(counts: Tensor) -> Tensor:
    """Returns the scalar fraction of all codes with a count (G, V) above zero; NaN without codes."""
    return (counts > 0).float().mean()


def quantized_by_counts(targets: Tensor, codes: Tensor, weight: Tensor, num_codes: int, aux_loss: Tensor) -> Quantized:
    """Returns what a quantizer without probabilities says of codes (B, N, G): their frequencies stand for `mean_probs`."""
    # Frames that the library was told to leave out come back with the id -1.
    codes = codes.long().clamp_min(0)
    counts = code_counts(codes, weight, num_codes)
    return Quantized(targets, codes, counts / counts.sum(dim=-1, keepdim=True).clamp_min(1), counts, aux_loss)
