"""Phase picking on top of the backbone. Shapes: B batch, C component, T samples."""

from torch import Tensor

from model.finetuned import PerSample, every_sample, weighted_mean
from model.labels import Labels, pick_targets
from model.preprocess import RATE_HZ

LABELS = "PSN"
"""Order of the output channels: P arrival, S arrival, noise."""


class PhasePicker(PerSample):
    """The probability of P, S and noise at every sample."""

    CHANNELS = len(LABELS)

    def forward(self, waveform: Tensor, num_valid: Tensor | None = None) -> Tensor:
        """Returns probabilities (B, 3, T) of P, S and noise, summing to 1, for waveforms (B, 3, T) in any unit."""
        return self.logits(waveform, num_valid).float().softmax(dim=1)

    def loss(self, waveform: Tensor, num_valid: Tensor | None, labels: Labels, keep: Tensor | None = None) -> Tensor:
        """Returns the cross-entropy with the soft labels in nats, 0-dim: the mean over all samples with a label.

        Args:
            waveform: (B, 3, T) in any unit.
            num_valid: (B,) samples before the padding; None: all.
            labels: of the windows.
            keep: (B, T) bool, samples whose label counts; None: all.
        """
        width = self.head_config.label_width_s * RATE_HZ
        targets, weight = pick_targets(labels, every_sample(waveform, num_valid), waveform.shape[-1], width)
        return self.soft_loss(waveform, num_valid, targets, weight, keep)

    def soft_loss(
        self, waveform: Tensor, num_valid: Tensor | None, targets: Tensor, weight: Tensor, keep: Tensor | None = None
    ) -> Tensor:
        """Returns the cross-entropy with given probabilities in nats, 0-dim: the mean by weight.

        Args:
            waveform, num_valid, keep: those of `loss`.
            targets: (B, 3, T) probabilities of P, S and noise.
            weight: (B, T) of each sample.
        """
        logits = self.logits(waveform, num_valid).float()
        return weighted_mean(-(targets * logits.log_softmax(dim=1)).sum(dim=1), weight, keep)
